"""What child_parent, abandon and evolution do when the architecture so far looks collapsed: warn, stop, refuse to restore."""

import copy
from typing import Any

import pytest

from bnas.errors import BnasError
from strategies import STRATEGIES
from tests.search.test_darts import contract

NAMES = ("child_parent", "abandon", "evolution")
# Of every space, each architecture looks collapsed to these, or none does.
ALWAYS, NEVER = {"parameter_free": 1.0, "depth": 1.0}, {"parameter_free": 0.0, "depth": 9.0}
MORE: dict[str, dict[str, Any]] = {
    "child_parent": {"drop": 1, "repeats": 2, "collapse_rounds": 2},
    "abandon": {"repeats": 3, "collapse_rounds": 2},
    "evolution": {"generations": 4, "collapse_rounds": 2},
}


def watched(name: str, monkeypatch: pytest.MonkeyPatch, healthy: int, **options: Any) -> Any:
    """A search whose first `healthy` judged rounds look healthy, and all others collapsed."""
    search = contract.make(name, "widths", **{**MORE[name], **options})
    judged: dict[int, bool] = {}
    judge = type(search._watch).judge

    def by_number(watch: Any, round: int, facts: Any, remember: Any) -> Any:
        judged.setdefault(round, len(judged) < healthy)
        return judge(watch, round, NEVER if judged[round] else ALWAYS, remember)

    monkeypatch.setattr(type(search._watch), "judge", by_number)
    return search


@pytest.mark.parametrize("name", NAMES)
def test_warn_says_it_once_and_goes_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = watched(name, monkeypatch, healthy=1)
    total = search.rounds_total
    records = contract.finish(search)
    assert len(records) == total
    (warning,) = [record["warning"] for record in records if "warning" in record]
    assert "the search has collapsed" in warning
    assert "It goes on; what may help: " in warning


@pytest.mark.parametrize("name", NAMES)
def test_stop_ends_with_the_answer_of_the_last_healthy_round(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = watched(name, monkeypatch, healthy=1, collapse="stop")
    total = search.rounds_total
    records, states = [], []
    while search.rounds_done < search.rounds_total:
        records.append(search.run_round())
        states.append(copy.deepcopy(search.state_dict()))
    (healthy,) = [record for record in records if record.get("collapsed_rounds") == 0]
    assert len(records) == search.rounds_total < total
    assert records[-1]["warning"].endswith("the last healthy one")
    assert records[-1]["genotype"] == healthy["genotype"] == dict(search.derive().choices)
    # Neither the count of rounds in a row nor the answer to go back to is lost between two processes.
    fresh = contract.make(name, "widths", **{**MORE[name], "collapse": "stop"})
    fresh.load_state_dict(states[-2])
    assert fresh.run_round() == records[-1]
    assert fresh.rounds_done == fresh.rounds_total == len(records)
    ended = contract.make(name, "widths", **{**MORE[name], "collapse": "stop"})
    ended.load_state_dict(states[-1])
    assert ended.rounds_done == ended.rounds_total
    assert ended.derive() == search.derive()


@pytest.mark.parametrize("name", NAMES)
def test_restore_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BnasError, match=r"collapse is restore, but .*; take stop or warn"):
        STRATEGIES[name].options(collapse="restore")


def test_draws_before_every_choice_was_drawn_are_not_judged() -> None:
    search = contract.make("abandon", "widths", collapse_parameter_free=0.001)
    records = contract.finish(search)
    first = next(i for i, record in enumerate(records) if "collapsed_rounds" in record)
    assert records[first]["draw"] == search._elimination.phases[0].choices
