"""DARTS: temperature, warm-up, learning rate of the alphas, the diversity term, bad options."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from bnas.errors import BnasError
from bnas.genotype import Decision
from bnas.panel import mean_entropy
from strategies.alphas import Alphas
from strategies.darts import Darts
from strategies.darts_options import DartsOptions

_spec = importlib.util.spec_from_file_location(
    "strategy_contract", Path(__file__).parents[1] / "contracts/test_strategies.py"
)
assert _spec is not None
assert _spec.loader is not None
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)


def darts(**changes: Any) -> Darts:
    made = contract.make("darts", "bats", **changes)
    assert isinstance(made, Darts)
    return made


def test_temperature_schedules() -> None:
    options = {"epochs": 10, "alpha_warmup": 0.2, "temperature_start": 1.0, "temperature_end": 0.25}
    exponential = darts(**options, temperature="exponential")
    total = 30  # 24 images, batch 8, 10 epochs; 6 steps of warm-up
    assert [round(exponential.temperature(s), 6) for s in (0, 6, 18, total)] == [1.0, 1.0, 0.5, 0.25]
    linear = darts(**options, temperature="linear")
    assert [linear.temperature(s) for s in (0, 6, 18, total)] == [1.0, 1.0, 0.625, 0.25]
    assert darts(**options, temperature="constant").temperature(0) == 0.25


def test_a_lower_temperature_makes_the_weights_spikier() -> None:
    search = darts(temperature_start=1.0, temperature_end=0.1, alpha_learning_rate=0.1)
    while search.rounds_done < search.rounds_total:
        search.run_round()
    first, last = (search._alphas.distributions(search.temperature(step)) for step in (0, search._trainer.step))
    assert mean_entropy(last) < mean_entropy(first)


def test_alphas_rest_during_the_warm_up_and_move_after_it() -> None:
    search = darts(epochs=2, alpha_warmup=0.5, round_steps=3)
    start = {name: alpha.detach().clone() for name, alpha in search._alphas.of_decision.items()}
    record = search.run_round()
    assert "val_loss" not in record
    assert all(torch.equal(start[name], alpha) for name, alpha in search._alphas.of_decision.items())
    record = search.run_round()
    assert record["val_loss"] > 0
    assert record["samples"] == 48  # as many validation images as training images
    assert not any(torch.equal(start[name], alpha) for name, alpha in search._alphas.of_decision.items())


def test_automatic_alpha_learning_rate_follows_the_number_of_steps() -> None:
    assert darts(epochs=100, alpha_warmup=0.0, alpha_learning_rate=0.0).alpha_learning_rate == pytest.approx(3 / 300)
    assert darts(epochs=2, alpha_warmup=0.0, alpha_learning_rate=0.0).alpha_learning_rate == 0.05
    assert darts(epochs=10**5, alpha_warmup=0.0, alpha_learning_rate=0.0).alpha_learning_rate == 3e-4
    assert darts(alpha_learning_rate=0.01).alpha_learning_rate == 0.01


def test_the_diversity_term_keeps_the_weights_even() -> None:
    entropies = []
    for diversity in (0.0, 100.0):
        search = darts(
            epochs=8, alpha_warmup=0.0, diversity=diversity, diversity_decay=100.0, temperature="constant",
            temperature_end=1.0, alpha_learning_rate=0.05,
        )  # fmt: skip
        with torch.no_grad():
            for alpha in search._alphas.of_decision.values():
                alpha.copy_(torch.linspace(-2, 2, len(alpha)))
        while search.rounds_done < search.rounds_total:
            record = search.run_round()
        entropies.append(record["entropy"])
    assert entropies[1] > entropies[0] + 0.2


def test_weights_are_trained_by_the_training_loss_only() -> None:
    """One step from equal starts: other validation images move the alphas, not the weights."""
    searches = [darts(alpha_warmup=0.0, round_steps=1) for _ in range(2)]
    searches[1]._task.val._labels.copy_(searches[1]._task.val._labels.roll(1))  # type: ignore[attr-defined]
    for search in searches:
        with torch.no_grad():
            for alpha in search._alphas.of_decision.values():
                alpha.zero_()
        search._optimizer.param_groups[0]["lr"] = 0.0
        search.run_round()
    for a, b in zip(searches[0]._net.parameters(), searches[1]._net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_edge_normalization_weighs_edges_and_is_learned_saved_and_derived_from() -> None:
    search = darts(edge_normalization=True, alpha_warmup=0.0, epochs=2)
    gates = search._alphas.sampled_gates(1.0)
    for group in ("normal.node_2", "normal.node_3"):
        total = sum(
            float(gates.weights[d.name].detach().sum()) for d in search._task.space.decisions if d.group == group
        )
        assert total == pytest.approx(1.0)
    start = {name: beta.detach().clone() for name, beta in search._alphas.of_group.items()}
    search.run_round()
    assert not any(torch.equal(start[name], beta) for name, beta in search._alphas.of_group.items())
    fresh = darts(edge_normalization=True, alpha_warmup=0.0, epochs=2)
    fresh.load_state_dict(search.state_dict())
    assert all(torch.equal(fresh._alphas.of_group[name], beta) for name, beta in search._alphas.of_group.items())
    with torch.no_grad():
        for alpha in search._alphas.of_decision.values():
            alpha.zero_()
        search._alphas.of_group["normal.node_3"].copy_(torch.tensor([0.0, 5.0, 5.0]))
    derived = search.derive()
    assert derived.choice("normal.edge_0_3") == "absent"
    assert derived.choice("normal.edge_2_3") != "absent"


class Chain:
    """A space without competing decisions."""

    name = "chain"
    decisions = (Decision("a", ("x", "y")),)

    def units(self) -> list[tuple[Decision, ...]]:
        return [self.decisions]


def test_edge_normalization_needs_competing_decisions() -> None:
    with pytest.raises(BnasError, match="weighs decisions that compete, and space chain has none: set false"):
        Alphas(Chain(), 0, torch.device("cpu"), edge_normalization=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "expo"}, r"no temperature named 'expo'.*Did you mean 'exponential'"),
        ({"epochs": 0}, "epochs is 0; it must be an integer at least 1"),
        ({"alpha_warmup": 1.0}, "alpha_warmup is 1.0; it must be .* below 1"),
        ({"temperature_end": 0.0}, "temperature_end is 0.0; it must be a finite number above 0"),
        ({"diversity": -1.0}, "diversity is -1.0"),
        ({"round_steps": -1}, "round_steps is -1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        DartsOptions(**options)


def test_precision_reaches_the_steps_on_alphas_too() -> None:
    def autocasts(precision: str) -> list[bool]:
        search = darts(alpha_warmup=0.0, round_steps=1, precision=precision)
        seen: list[bool] = []
        search._net.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        search.run_round()
        return seen

    # A step on the alphas, one on the weights, the figures of the round.
    assert autocasts("float32") == [False, False, False]
    assert autocasts("bfloat16") == [True, True, False]


def test_float16_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(BnasError, match="precision float16 needs a CUDA device; on cpu take bfloat16 or float32"):
        darts(precision="float16")
    with pytest.raises(BnasError, match="no precision named 'half'"):
        DartsOptions(precision="half")


def test_steps_before_and_after_the_warm_up_are_two_kinds() -> None:
    kinds = darts(epochs=2, alpha_warmup=0.5).step_kinds()
    assert [(kind.name, kind.count) for kind in kinds] == [("weights", 3), ("weights and alphas", 3)]
    assert [kind.name for kind in darts(alpha_warmup=0.0).step_kinds()] == ["weights and alphas"]
    search = darts(epochs=2, alpha_warmup=0.5)
    start = {name: alpha.detach().clone() for name, alpha in search._alphas.of_decision.items()}
    search.step_kinds()[0].start(0)()
    assert all(torch.equal(start[name], alpha) for name, alpha in search._alphas.of_decision.items())
    search.step_kinds()[1].start(0)()
    assert not any(torch.equal(start[name], alpha) for name, alpha in search._alphas.of_decision.items())


def test_a_search_whose_steps_cannot_be_compiled_goes_on_and_is_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> Any:
        raise RuntimeError("no compiler")

    def compile(part: Any) -> None:
        part._compiled_call_impl = refuse

    monkeypatch.setattr("bnas.execution._compile", compile)
    eager, search = darts(round_steps=1), darts(round_steps=1, execution="compile")
    with pytest.warns(UserWarning, match="execution compile does not work here.*: no compiler"):
        assert search.run_round()["loss"] == eager.run_round()["loss"]
    with pytest.raises(BnasError, match="execution graph captures a CUDA graph; on cpu take eager or compile"):
        darts(execution="graph")
