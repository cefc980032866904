"""When a search counts as collapsed, and what each policy does about it."""

import io
from pathlib import Path
from typing import Any

import pytest

from bnas.collapse import CollapseOptions, CollapseWatch, Verdict
from bnas.errors import BnasError
from bnas.progress import PlainReporter
from tests.core.engine_toy import Toy, run

HEALTHY, SHALLOW = {"parameter_free": 0.5, "depth": 2.0}, {"parameter_free": 0.5, "depth": 1.0}
FREE = {"parameter_free": 0.75, "depth": 2.0}


def judged(rounds: list[dict[str, float]], **options: Any) -> list[Verdict]:
    watch = CollapseWatch(CollapseOptions(**options), "patience")
    found = []
    for number, facts in enumerate(rounds, 1):
        # A strategy that is stopped and continued after every round.
        fresh = CollapseWatch(CollapseOptions(**options), "patience")
        fresh.load_state_dict(watch.state_dict())
        found.append(fresh.judge(number, facts, lambda number=number: f"state {number}"))  # type: ignore[misc]
        watch = fresh
    return found


def test_rounds_in_a_row_are_counted_and_a_healthy_one_begins_anew() -> None:
    verdicts = judged([HEALTHY, FREE, SHALLOW, HEALTHY, FREE, FREE], collapse_rounds=3)
    assert [v.record for v in verdicts] == [{"collapsed_rounds": n} for n in (0, 1, 2, 0, 1, 2)]
    assert {v.action for v in verdicts} == {"go on"}


def test_warn_says_so_once() -> None:
    verdicts = judged([HEALTHY, FREE, FREE, FREE, HEALTHY, FREE, FREE], collapse_rounds=2)
    assert [("warning" in v.record) for v in verdicts] == [False, False, True, False, False, False, False]
    assert {v.action for v in verdicts} == {"go on"}
    assert verdicts[2].record["warning"] == (
        "round 3: the search has collapsed, 75% of the operations have no parameters since 2 rounds. "
        "It goes on; what may help: patience"
    )


def test_stop_ends_with_the_last_healthy_round() -> None:
    verdicts = judged([HEALTHY, HEALTHY, SHALLOW, SHALLOW], collapse="stop", collapse_rounds=2)
    assert [v.action for v in verdicts] == ["go on", "go on", "go on", "stop"]
    assert verdicts[-1].healthy == "state 2"
    assert verdicts[-1].record["warning"] == (
        "round 4: the search has collapsed, a block is only 1 deep since 2 rounds. "
        "It ends with the answer of round 2, the last healthy one"
    )


def test_restore_goes_back_once_and_then_stops() -> None:
    rounds = [HEALTHY, FREE, FREE, FREE, FREE]
    verdicts = judged(rounds, collapse="restore", collapse_rounds=2)
    assert [v.action for v in verdicts] == ["go on", "go on", "restore", "go on", "stop"]
    assert [v.healthy for v in verdicts] == [None, None, "state 1", None, "state 1"]
    assert verdicts[2].record["warning"].endswith("It goes back to round 1, the last healthy one")


@pytest.mark.parametrize("policy", ["stop", "restore"])
def test_without_a_healthy_round_there_is_only_a_warning(policy: str) -> None:
    verdicts = judged([FREE, FREE, FREE], collapse=policy, collapse_rounds=1)
    assert {v.action for v in verdicts} == {"go on"}
    assert [("warning" in v.record) for v in verdicts] == [True, False, False]
    assert f"It goes on (collapse: {policy}, but no round was healthy)" in verdicts[0].record["warning"]


def test_thresholds_may_be_off() -> None:
    off = {"collapse_parameter_free": 1.1, "collapse_depth": 0, "collapse_rounds": 1}
    everything = {"parameter_free": 1.0, "depth": 1.0}
    assert judged([everything], **off)[0].record == {"collapsed_rounds": 0}
    assert judged([everything], **{**off, "collapse_depth": 1})[0].record["collapsed_rounds"] == 1
    assert judged([everything], **{**off, "collapse_parameter_free": 1.0})[0].record["collapsed_rounds"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"collapse": "warm"}, r"no collapse named 'warm'.*Did you mean 'warn'"),
        ({"collapse_parameter_free": 0}, "collapse_parameter_free is 0; it must be a finite number above 0"),
        ({"collapse_depth": -1}, "collapse_depth is -1; it must be an integer at least 0"),
        ({"collapse_rounds": 0}, "collapse_rounds is 0; it must be an integer at least 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        CollapseOptions(**options)


class EndsItself(Toy):
    """Warns in the second round and ends with it."""

    def run_round(self) -> dict[str, Any]:
        metrics = super().run_round()
        if self.rounds_done == 2:
            self.rounds_total = 2
            metrics["warning"] = "it has collapsed"
        return metrics


def test_the_engine_tells_a_warning_and_ends_with_work_that_ends_itself(tmp_path: Path) -> None:
    out = io.StringIO()
    outcome = run(EndsItself(4), tmp_path, PlainReporter(out, every_seconds=0))
    assert (outcome.status, outcome.rounds_done) == ("finished", 2)
    assert outcome.notes == ("it has collapsed",)
    assert out.getvalue().splitlines()[-2:] == [
        "it has collapsed",
        "finished after 2 of 2 rounds: it ended itself; 4 rounds were planned",
    ]
