"""Each option of DARTS for what it changes, and the contract of strategies with the options on."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bnas.errors import BnasError
from bnas.nonfinite import NonFiniteLoss
from bnas.training.metrics import batch_statistics, evaluating
from strategies.darts import Darts
from strategies.darts_options import DartsOptions

_spec = importlib.util.spec_from_file_location(
    "strategy_contract", Path(__file__).parents[1] / "contracts/test_strategies.py"
)
assert _spec is not None
assert _spec.loader is not None
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)

VARIANTS: dict[str, dict[str, Any]] = {
    "gumbel": {"gates": "gumbel"},
    "straight-through": {"gates": "straight-through"},
    "second": {"order": "second", "gates": "gumbel"},
    "everything": {
        "gates": "straight-through", "order": "second", "diversity": 1.0, "cost_weight": 0.1, "collapse": "restore",
        "collapse_rounds": 1, "collapse_depth": 9, "genotype": "best_val_after", "genotype_images": 8,
    },
}  # fmt: skip


def darts(space: str = "bats", **changes: Any) -> Darts:
    made = contract.make("darts", space, **changes)
    assert isinstance(made, Darts)
    return made


@pytest.mark.parametrize(
    ("variant", "space"),
    [
        ("gumbel", "widths"),
        ("second", "widths"),
        *((v, s) for v in ("straight-through", "everything") for s in ("bats", "widths", "group_mobilenet")),
    ],
)
def test_variants_keep_the_contract(variant: str, space: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = {**contract.OPTIONS["darts"], **VARIANTS[variant]}
    if space == "bats" and variant == "everything":
        options["edge_normalization"] = True
    monkeypatch.setitem(contract.OPTIONS, "darts", options)
    before = torch.get_rng_state()
    # What is remembered is of other options.
    contract.finished.cache_clear()
    contract.test_same_seed_same_answer_also_when_continued_in_other_objects("darts", space, tmp_path)
    contract.finished.cache_clear()
    search = darts(space)
    search.run_round()
    assert search.weights_for(search.derive())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_in_the_validation_loss_is_noticed(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = darts(alpha_warmup=0.0, **VARIANTS[variant])
    loss = search._validation_loss
    monkeypatch.setattr(search, "_validation_loss", lambda step: loss(step) * float("nan"))
    with pytest.raises(NonFiniteLoss):
        search.run_round()


def test_an_alpha_that_is_not_finite_is_noticed_where_the_loss_is() -> None:
    search = darts(alpha_warmup=0.9)
    with torch.no_grad():
        # Its gate is 0, and nothing else shows.
        next(iter(search._alphas.of_decision.values()))[0] = -math.inf
    with pytest.raises(NonFiniteLoss, match="an architecture weight is not a finite number"):
        search.run_round()


def after_a_step(**options: Any) -> Darts:
    search = darts(alpha_warmup=0.0, round_steps=1, **options)
    search.run_round()
    return search


def moved(a: Darts, b: Darts) -> bool:
    return any(not torch.equal(x, y) for x, y in zip(a._alphas.logits, b._alphas.logits, strict=True))


@pytest.mark.parametrize("options", [{"gates": "gumbel"}, {"gates": "straight-through"}, {"cost_weight": 5.0}])
def test_an_option_moves_the_alphas_elsewhere(options: dict[str, Any]) -> None:
    assert moved(after_a_step(**options), after_a_step())
    assert not moved(after_a_step(**options), after_a_step(**options))


def test_second_order_differs_by_the_look_ahead_alone() -> None:
    """At a learning rate of almost 0 there is nothing to look ahead to."""
    gradients = []
    for order, rate in (("first", 0.1), ("second", 0.1), ("first", 1e-9), ("second", 1e-9)):
        search = darts(alpha_warmup=0.0, order=order, learning_rate=rate, learning_rate_end=0.0)
        search._net.train()
        gradients.append(torch.cat([g.flatten() for g in search._alpha_gradients(0)]))
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)
    assert torch.allclose(gradients[2], gradients[3], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_step_on_the_alphas_leaves_weights_and_running_statistics_alone(order: str) -> None:
    search = darts(alpha_warmup=0.0, order=order)
    search._net.train()
    before = {name: tensor.clone() for name, tensor in search._net.state_dict().items()}
    search._alpha_step(0)
    assert all(torch.equal(before[name], tensor) for name, tensor in search._net.state_dict().items())
    assert all(module.training for module in search._net.modules())


def test_straight_through_trains_only_what_it_runs() -> None:
    search = darts(alpha_warmup=0.0, round_steps=1, gates="straight-through")
    before = {name: tensor.detach().clone() for name, tensor in search._net.named_parameters()}
    search.run_round()
    edge = "cells.0.edges.edge_0_2."
    changed = {
        name.removeprefix(edge).split(".")[0]
        for name, tensor in search._net.named_parameters()
        if name.startswith(edge) and not torch.equal(before[name], tensor)
    }
    assert changed <= set(search._fixed.active["normal.edge_0_2"])


def test_the_cost_term_makes_the_network_cheaper() -> None:
    macs = []
    for weight in (1e-9, 100.0):
        search = darts(epochs=3, cost_weight=weight, alpha_warmup=0.0, alpha_learning_rate=0.3, temperature="constant")
        macs.append(contract.finish(search)[-1]["expected_macs"])
        assert search._cost is not None
        with torch.no_grad():
            for logits in search._alphas.of_decision.values():
                logits.copy_(torch.tensor([0.0] * 7 + [99.0]))
            cheapest = search._cost(search._alphas.soft_gates(1.0)).item() * search._cost.unit
    # Most of these networks' MACs are not in anybody's choice.
    assert macs[1] - cheapest < 0.05 * (macs[0] - cheapest)


def test_the_unit_of_the_cost_is_that_of_even_gates_or_as_given() -> None:
    search = darts(cost_weight=1.0)
    assert search._cost is not None
    even = search._alphas.soft_gates(float("inf"))
    with torch.no_grad():
        real, binary = search._net.expected_cost(even)
    assert search._cost.unit == pytest.approx(float(real + binary / 64))
    assert search._cost(even).item() == pytest.approx(1.0)
    given = darts(cost_weight=1.0, cost_unit=1000.0)
    assert given._cost is not None
    assert given._cost(even).item() == pytest.approx(search._cost.unit / 1000)


def test_best_val_after_keeps_the_genotype_of_the_most_accurate_round(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.75, 0.25])
    monkeypatch.setattr("strategies.darts.PathScore.__call__", lambda self, gates: next(scores))
    search = darts(alpha_warmup=0.0, round_steps=2, epochs=2, alpha_learning_rate=1.0, genotype="best_val_after")
    found = []
    for _ in range(3):
        record = search.run_round()
        found.append((search._of_alphas(), record))
        assert record["genotype"] == dict(search.derive().choices)
    assert [record["val_accuracy_after"] for _, record in found] == [0.5, 0.75, 0.25]
    assert found[1][0] != found[2][0]
    assert search.derive() == found[1][0]


def test_best_val_after_measures_the_network_as_the_round_left_it() -> None:
    search = darts(alpha_warmup=0.0, genotype="best_val_after", genotype_images=8)
    record = search.run_round()
    gates = search._alphas.settled_gates(search.temperature(search._trainer.step))
    images, labels = next(search._task.val.fixed(8))
    with evaluating(search._net), batch_statistics(search._net), torch.no_grad():
        right = (search._net(images, gates).argmax(1) == labels).float().mean().item()
    assert record["val_accuracy_after"] == pytest.approx(right)


def test_the_last_alphas_answer_without_a_measurement() -> None:
    search = darts(alpha_warmup=0.0)
    assert "val_accuracy_after" not in search.run_round()
    assert search.derive() == search._of_alphas()


def test_a_round_has_the_figures_of_the_panel() -> None:
    record = darts(alpha_warmup=0.0).run_round()
    assert {"entropy", "top2_gap", "plus_one", "clipped_activations", "clipped_steps", "collapsed_rounds"} <= set(
        record
    )
    # Real weights while searching have no signs to flip.
    assert "sign_flips" not in record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": "softt"}, r"no gates named 'softt'.*Did you mean 'soft'"),
        ({"order": "third"}, "no order named 'third'"),
        ({"genotype": "best"}, "no genotype named 'best'"),
        (
            {"order": "second", "precision": "bfloat16"},
            "order second takes differences that bfloat16 is too coarse for",
        ),
        ({"cost_weight": -1.0}, "cost_weight is -1.0"),
        ({"cost_unit": -1.0}, "cost_unit is -1.0"),
        ({"genotype_images": 0}, "genotype_images is 0; it must be an integer at least 1"),
        ({"restored_rate": 2.0}, "restored_rate is 2.0; it must be .* at most 1"),
        ({"collapse": "freeze"}, "no collapse named 'freeze'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        DartsOptions(**options)
