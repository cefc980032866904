"""Plain DARTS collapses on a task made for it; the panel tells, the policies act, temperature and diversity prevent it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from strategies.darts import Darts
from tests.search.collapse_task import search

PREVENTED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": "exponential", "temperature_start": 1000.0},
    "diversity": {"diversity": 8.0, "diversity_decay": 0.3},
}


def finish(made: Darts) -> list[dict[str, Any]]:
    records = []
    while made.rounds_done < made.rounds_total:
        records.append(made.run_round())
    return records


@pytest.mark.parametrize("seed", [0, 1])
def test_plain_darts_collapses_and_the_panel_tells(seed: int) -> None:
    records = finish(search(seed))
    assert records[-1]["parameter_free"] >= 0.75
    assert records[-1]["collapsed_rounds"] >= 3
    (warning,) = [record["warning"] for record in records if "warning" in record]
    assert "of the operations have no parameters since 3 rounds. It goes on; what may help: a longer" in warning
    assert records[-1]["top2_gap"] > 0.5


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("cure", PREVENTED)
def test_temperature_and_diversity_prevent_it(cure: str, seed: int) -> None:
    records = finish(search(seed, **PREVENTED[cure]))
    assert records[-1]["parameter_free"] <= 0.5
    assert not any("warning" in record for record in records)


def led_into_collapse(**options: Any) -> tuple[Darts, list[Tensor], list[dict[str, Any]]]:
    """A search with a healthy first round and two of pools after it, its logits after the first, the records."""
    made = search(0, collapse_rounds=2, **options)
    lean(made, [-50.0, 50.0])
    records = [made.run_round()]
    healthy = [logits.detach().clone() for logits in made._alphas.logits]
    lean(made, [50.0, -50.0])
    records += [made.run_round(), made.run_round()]
    assert [record["collapsed_rounds"] for record in records] == [0, 1, 2]
    return made, healthy, records


def lean(made: Darts, values: list[float]) -> None:
    with torch.no_grad():
        for logits in made._alphas.logits:
            logits.copy_(torch.tensor(values))


def test_stop_ends_the_search_with_the_last_healthy_answer() -> None:
    made, _, records = led_into_collapse(collapse="stop")
    assert made.rounds_done == made.rounds_total == 3
    assert set(records[0]["genotype"].values()) == {"conv"}
    assert dict(made.derive().choices) == records[0]["genotype"] == records[2]["genotype"]
    assert records[1]["genotype"] != records[0]["genotype"]
    # What the panel shows is the collapse, not the answer.
    assert records[2]["parameter_free"] == 1.0
    assert records[2]["warning"].endswith("It ends with the answer of round 1, the last healthy one")
    fresh = search(0, collapse="stop", collapse_rounds=2)
    fresh.load_state_dict(made.state_dict())
    assert fresh.rounds_done == fresh.rounds_total
    assert fresh.derive() == made.derive()


def test_restore_puts_the_alphas_back_and_slows_them() -> None:
    made, healthy, records = led_into_collapse(collapse="restore", restored_rate=0.01)
    assert records[2]["warning"].endswith("It goes back to round 1, the last healthy one")
    assert all(torch.equal(a, b) for a, b in zip(healthy, made._alphas.logits, strict=True))
    assert records[2]["genotype"] == records[0]["genotype"]
    made.run_round()
    moved = max((a - b).abs().max().item() for a, b in zip(healthy, made._alphas.logits, strict=True))
    # Eight steps of Adam; at the full rate each would move a logit by about 1.5.
    assert 0 < moved < 8 * 0.05
    lean(made, [50.0, -50.0])
    assert "warning" not in made.run_round()
    assert made.run_round()["warning"].endswith("It ends with the answer of round 4, the last healthy one")
    assert made.rounds_total == made.rounds_done == 6


def test_alphas_are_not_judged_before_they_learn() -> None:
    made = search(0, alpha_warmup=0.5, collapse_rounds=1)
    assert "collapsed_rounds" not in made.run_round()
