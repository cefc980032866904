"""Successive halving: sizes and epochs of the rungs, who goes on, bad options."""

from typing import Any

import pytest

from bnas.errors import BnasError
from strategies.successive_halving import SuccessiveHalving, SuccessiveHalvingOptions
from tests.search.test_darts import contract


def halving(**changes: Any) -> SuccessiveHalving:
    made = contract.make("successive_halving", "widths", **{"samples": 9, "eta": 3, "round_steps": 0, **changes})
    assert isinstance(made, SuccessiveHalving)
    return made


def test_each_rung_keeps_the_best_and_trains_them_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    search = halving()
    worth = iter([0.1, 0.9, 0.2, 0.3, 0.8, 0.1, 0.7, 0.0, 0.7, 0.5, 0.6, 0.6, 0.4])
    trained: list[tuple[int, int]] = []

    def train() -> dict[str, Any]:
        trainer = search._training.trainer
        assert trainer is not None
        trainer.step = trainer.total_steps
        trained.append((search._level, trainer.total_steps))
        return {"samples": 1, "val_accuracy": next(worth)}

    monkeypatch.setattr(search._training, "run_round", train)
    monkeypatch.setattr(search._training, "rounds", lambda recipe: 1)
    drawn = list(search._rung)
    while search._level < 1:
        search.run_round()
    # The first among equals stays, in the order in which they were drawn.
    assert search._rung == [drawn[1], drawn[4], drawn[6]]
    while len(trained) < 13:
        search.run_round()
    assert trained == [(0, 3)] * 9 + [(1, 9)] * 3 + [(2, 27)]
    assert search._rung == [drawn[4]]
    assert search.derive() == drawn[4]


def test_rounds_are_those_of_all_rungs() -> None:
    search = halving(samples=4, eta=2, round_steps=2)
    # Epochs of 3 steps: 2, 3 and 6 rounds.
    assert search.rounds_total == 4 * 2 + 2 * 3 + 1 * 6
    assert [kind.count for kind in search.step_kinds()] == [(4 * 1 + 2 * 2 + 1 * 4) * 3, 7 * 3]


@pytest.mark.parametrize(("name", "value"), [("samples", 0), ("eta", 1), ("epochs", 0), ("learning_rate", 0)])
def test_bad_options(name: str, value: int) -> None:
    with pytest.raises(BnasError, match=f"{name} is {value}"):
        SuccessiveHalvingOptions(**{name: value})  # type: ignore[arg-type]
