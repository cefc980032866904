"""A run that was stopped or killed, at any moment, ends exactly as one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bnas import saved
from bnas.history import History, comparable
from bnas.stopping import StopRequest
from tests.core.engine_toy import Toy, equal, files, forked, run

ROUNDS = 3


def result(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found = saved.read(files(folder), kind="search")
    assert found is not None
    assert found.is_finished
    return [comparable(record) for record in History(files(folder).history).read()], found.state


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    outcome = run(Toy(ROUNDS), folder)
    assert (outcome.status, outcome.rounds_done, outcome.rounds_total) == ("finished", ROUNDS, ROUNDS)
    assert outcome.reason == "all rounds are done"
    return result(folder)


def test_what_a_run_leaves(tmp_path: Path, uninterrupted: Any) -> None:
    run(Toy(ROUNDS), tmp_path / "run", job_text="strategy: toy\n")
    records, state = uninterrupted
    assert [record["round"] for record in records] == [1, 2, 3]
    assert set(records[0]) == {"round", "loss", "choices", "samples"}
    assert state["rounds_done"] == ROUNDS
    assert equal(result(tmp_path / "run"), uninterrupted)
    timed = History(files(tmp_path / "run").history).read()[0]["time"]
    assert set(timed) == {"seconds", "load", "samples_per_second"}
    assert timed["samples_per_second"] == pytest.approx(24 / timed["seconds"])
    assert files(tmp_path / "run").job.read_text() == "strategy: toy\n"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "environment.json",
        "history.jsonl",
        "job.yaml",
        "search.ckpt",
        "search.ckpt.previous",
    ]


def test_a_finished_run_does_nothing(tmp_path: Path) -> None:
    run(Toy(2), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("s*")}
    work = Toy(2)
    outcome = run(work, tmp_path)
    assert (outcome.status, outcome.reason) == ("finished", "nothing was left to do")
    assert work.rounds_run == 0
    assert before == {path: path.read_bytes() for path in tmp_path.glob("s*")}


def test_more_rounds_extend_a_finished_run(tmp_path: Path, uninterrupted: Any) -> None:
    run(Toy(2), tmp_path)
    run(Toy(ROUNDS), tmp_path)
    assert equal(result(tmp_path), uninterrupted)


def test_stopped_after_every_round_and_continued(tmp_path: Path, uninterrupted: Any) -> None:
    for number in range(1, ROUNDS):
        work = Toy(ROUNDS)
        request = StopRequest()
        work_round = work.run_round

        def stopping(work_round: Any = work_round, request: StopRequest = request) -> dict[str, Any]:
            request.request("enough")
            return work_round()

        work.run_round = stopping
        outcome = run(work, tmp_path, stop=request)
        assert (outcome.status, outcome.rounds_done) == ("stopped", number)
        assert outcome.reason == "enough; the same command goes on from here"
    run(Toy(ROUNDS), tmp_path)
    assert equal(result(tmp_path), uninterrupted)


def killed_at_call(folder: Path, number: int) -> bool:
    """Run in a fork that kills itself before the `number`-th call that changes the disk; whether it was killed."""
    left = number

    def counting(call: Any) -> Any:
        def counted(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)

        return counted

    def child() -> None:
        for name in ("open", "fsync", "replace", "ftruncate"):
            setattr(os, name, counting(getattr(os, name)))
        run(Toy(ROUNDS), folder)

    status = os.waitpid(forked(child), 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_killed_at_each_change_of_the_disk(tmp_path: Path, uninterrupted: Any) -> None:
    number = 1
    while killed_at_call(tmp_path / f"{number}", number):
        run(Toy(ROUNDS), tmp_path / f"{number}")
        assert equal(result(tmp_path / f"{number}"), uninterrupted), number
        assert not list((tmp_path / f"{number}").glob(".*.part"))
        number += 1
    assert number > 6 * ROUNDS


def test_killed_again_and_again_in_one_run(tmp_path: Path, uninterrupted: Any) -> None:
    # Each start gets a little further or not at all; none may spoil what the ones before saved.
    number = 9
    while killed_at_call(tmp_path, number):
        number += 1
    assert number > 12
    assert equal(result(tmp_path), uninterrupted)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    rounds, pause = 12, 0.03
    run(Toy(rounds), tmp_path / "whole")
    moments = random.Random(5)
    # The first start is a process of its own, whose results those of this process must go on from.
    command = [sys.executable, "-m", "tests.core.engine_toy", str(tmp_path / "run"), str(rounds), str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, rounds * pause / 3))
        process.kill()
    for _ in range(3):
        child = forked(lambda: run(Toy(rounds, pause=pause), tmp_path / "run"))
        time.sleep(moments.uniform(0, rounds * pause / 3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(Toy(rounds), tmp_path / "run")
    assert equal(result(tmp_path / "run"), result(tmp_path / "whole"))
