"""Signals and the deadline finish the round, save, and leave; a second Ctrl-C stops at once."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnas import saved
from bnas.errors import BnasError
from bnas.stopping import StopRequest
from tests.core.engine_toy import Toy, files, run


class Interrupted(Toy):
    """Calls `act` in the middle of the round that is the second of this run."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__(4)
        self._act = act

    def run_round(self) -> dict[str, Any]:
        if self.rounds_done == 1:
            self._act()
        return super().run_round()


def rounds_saved(folder: Path) -> int:
    found = saved.read(files(folder), kind="search")
    assert found is not None
    return found.rounds_done


@pytest.mark.parametrize(
    ("number", "name", "hint"),
    [
        (signal.SIGTERM, "SIGTERM", ""),
        (signal.SIGINT, "Ctrl-C", "; Ctrl-C again stops at once, without this round"),
    ],
)
def test_a_signal_finishes_the_round(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals, name: str, hint: str
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    outcome = run(Interrupted(lambda: os.kill(os.getpid(), number)), tmp_path)
    assert (outcome.status, outcome.rounds_done, outcome.rounds_total) == ("stopped", 2, 4)
    assert outcome.reason == f"{name}; the same command goes on from here"
    assert rounds_saved(tmp_path) == 2
    assert f"{name}: finishing the round, then saving{hint}\n" in capfd.readouterr().err
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert run(Toy(4), tmp_path).status == "finished"


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still running")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(twice), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert rounds_saved(tmp_path) == 1
    assert run(Toy(4), tmp_path).status == "finished"


def test_ctrl_c_after_sigterm_does_not_lose_the_round(tmp_path: Path) -> None:
    def both() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    assert run(Interrupted(both), tmp_path).rounds_done == 2


def test_a_stop_in_the_last_round_is_a_finish(tmp_path: Path) -> None:
    work = Interrupted(lambda: signal.raise_signal(signal.SIGTERM))
    work.rounds_total = 2
    assert run(work, tmp_path).status == "finished"


def test_the_deadline_finishes_the_round(tmp_path: Path) -> None:
    now = [0.0]
    with StopRequest(30, clock=lambda: now[0]) as request:
        outcome = run(Interrupted(lambda: now.__setitem__(0, 1800.0)), tmp_path, stop=request)
    assert (outcome.status, outcome.rounds_done) == ("stopped", 2)
    assert outcome.reason == "the 30 minutes are over; the same command goes on from here"


def test_max_minutes_by_the_real_clock(tmp_path: Path) -> None:
    outcome = run(Toy(1000, pause=0.05), tmp_path, max_minutes=0.5 / 60)
    assert outcome.status == "stopped"
    assert 0 < outcome.rounds_done < 15


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_minutes_that_are_none(minutes: float) -> None:
    with pytest.raises(BnasError, match=f"max_minutes is {minutes}; it must be above 0"):
        StopRequest(minutes)


def test_a_request_and_minutes_together_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give max_minutes to the StopRequest"):
        run(Toy(), tmp_path, stop=StopRequest(), max_minutes=1)


def test_on_another_thread_the_deadline_works_and_signals_are_left_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        try:
            seen.append(
                run(Interrupted(lambda: seen.append(signal.getsignal(signal.SIGTERM))), tmp_path, max_minutes=9)
            )
            seen.append(run(Toy(1000, pause=0.05), tmp_path, max_minutes=0.2 / 60))
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0] is before
    assert [outcome.status for outcome in seen[1:]] == ["finished", "stopped"]


def test_the_first_reason_stands() -> None:
    request = StopRequest()
    assert request.reason is None
    request.request("a")
    request.request("b")
    assert request.reason == "a"
