"""Searches and retrainings that are killed at any moment, or stopped, end exactly as ones that were left alone."""

import functools
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bnas import saved
from bnas.history import History, comparable
from bnas.rundir import RunDir, RunFiles
from experiments import cli
from tests.core.engine_toy import equal
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas, started

KILLS = 4


class Work(NamedTuple):
    """A command that is killed: the words of its line, its kind, and where its files are."""

    line: tuple[str, ...]
    kind: str
    files: Callable[[Path], RunFiles]


Result = tuple[str, list[dict[str, Any]], dict[str, Any]]


def searched(run: Path) -> RunFiles:
    return RunDir(run).files_for_search()


def retrained(run: Path) -> RunFiles:
    return RunDir(run).files_for_retrain("bats-seed0")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chain.write_images(tmp_path_factory.mktemp("images") / "tiny.npz")


def search_by_gradient(images: Path) -> Work:
    options = {"epochs": 5, "round_steps": 1, "alpha_learning_rate": 0.05}
    content = tiny_chain.content(images, options=options)
    job = tiny_chain.write_job(images.parent / "gradient.yaml", content)
    return Work(("search", str(job)), "search", searched)


def search_by_sampling(images: Path) -> Work:
    options = {"samples": 4, "epochs": 2, "round_steps": 1}
    job = tiny_chain.write_job(
        images.parent / "sampling.yaml", tiny_chain.content(images, strategy="random", options=options)
    )
    return Work(("search", str(job)), "search", searched)


def search_by_evolution(images: Path) -> Work:
    options = {
        "epochs": 2, "round_steps": 1, "sampling": "fair", "population": 5, "generations": 4, "round_candidates": 1,
        "score_images": 8, "recalibration_batches": 2, "objective": "front",
    }  # fmt: skip
    content = tiny_chain.content(images, strategy="evolution", options=options)
    return Work(("search", str(tiny_chain.write_job(images.parent / "evolution.yaml", content))), "search", searched)


def search_by_halving(images: Path) -> Work:
    options = {"samples": 4, "eta": 2, "epochs": 1, "round_steps": 1}
    content = tiny_chain.content(images, strategy="successive_halving", options=options)
    return Work(("search", str(tiny_chain.write_job(images.parent / "halving.yaml", content))), "search", searched)


def search_by_child_and_parent(images: Path) -> Work:
    options = {"repeats": 1, "drop": 4, "draw_steps": 2, "round_steps": 1}
    job = tiny_chain.write_job(
        images.parent / "child_parent.yaml", tiny_chain.content(images, strategy="child_parent", options=options)
    )
    return Work(("search", str(job)), "search", searched)


def search_by_confidence_bounds(images: Path) -> Work:
    options = {"repeats": 1, "draws": "confidence_bounds", "warmup_epochs": 1, "draw_steps": 1, "round_steps": 1}
    job = tiny_chain.write_job(
        images.parent / "confidence_bounds.yaml", tiny_chain.content(images, strategy="abandon", options=options)
    )
    return Work(("search", str(job)), "search", searched)


def retraining_in_two_stages(images: Path) -> Work:
    content = tiny_chain.content(images)
    recipe = {"epochs": 4, "batch_size": 8, "learning_rate": 4e-3, "ema_decay": 0.9}
    content["retrain"] |= {"stages": "two", "round_steps": 1, "recipe": recipe}
    job = tiny_chain.write_job(images.parent / "two_stages.yaml", content)
    genotype = images.parent / "genotype.json"
    loaded = tiny_chain.make_job(content)
    genotype.write_text(loaded.make_space().random(tiny_chain.np.random.default_rng(1)).to_json())
    return Work(("retrain", str(genotype), "--job", str(job)), "retrain", retrained)


WORKS = {
    make.__name__: make
    for make in (
        search_by_gradient,
        search_by_sampling,
        search_by_evolution,
        search_by_halving,
        search_by_child_and_parent,
        search_by_confidence_bounds,
        retraining_in_two_stages,
    )
}


@pytest.fixture(scope="module")
def works(images: Path) -> dict[str, Work]:
    return {name: make(images) for name, make in WORKS.items()}


@pytest.fixture(scope="module")
def uninterrupted(works: dict[str, Work], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """Of a work by name; each is run once, and only where a test asks for it."""

    @functools.cache
    def finished(name: str) -> Result:
        run = tmp_path_factory.mktemp(name) / "run"
        assert os.waitpid(forked((*works[name].line, "--run", str(run))), 0)[1] == 0
        return result(works[name], run)

    return finished


def result(work: Work, run: Path) -> Result:
    """Genotype, history without times, and all that the last checkpoint holds."""
    files = work.files(run)
    found = saved.read(files, kind=work.kind)
    assert found is not None
    assert found.is_finished
    assert found.note is None
    records = [comparable(record) for record in History(files.history).read()]
    assert [record["round"] for record in records] == list(range(1, found.rounds_total + 1))
    return files.genotype.read_text(), records, found.state


def forked(words: tuple[str, ...]) -> int:
    """The process id of a fork that runs the command line; it starts at once, which a new interpreter does not."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.argv = ["bnas", *words]
        try:
            cli.main()
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except BaseException:
            os._exit(99)
        os._exit(0)
    return child


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "the process did not come that far"
        time.sleep(0.005)


@pytest.mark.parametrize("name", WORKS)
def test_killed_at_random_moments(
    name: str,
    works: dict[str, Work],
    uninterrupted: Callable[[str], Result],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, run, moments = works[name], tmp_path / "run", random.Random(f"{name} 11")
    history = History(work.files(run).history)
    # The first start is an interpreter of its own, from whose results those of this one must go on.
    with started(*work.line, "--run", run, folder=tmp_path, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: len(history.read()) > 0)
        process.kill()
    seconds = history.read()[0]["time"]["seconds"]
    reached = [len(history.read())]
    for _ in range(KILLS):
        rounds = reached[-1] + moments.randint(0, 2)
        child = forked((*work.line, "--run", str(run)))
        wait_for(lambda rounds=rounds: len(history.read()) >= rounds)
        # Somewhere in the round or in what is written after it.
        time.sleep(moments.uniform(0, 1.5 * seconds))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        reached.append(len(history.read()))
    # Kills that hit nothing would prove nothing.
    assert len(set(reached)) > 2
    assert reached[-1] < len(uninterrupted(name)[1])
    said = bnas(capsys, *work.line, "--run", run)
    assert (said.code, said.err) == (0, "")
    assert equal(result(work, run), uninterrupted(name))
    assert not list(run.rglob("*.part"))


def test_killed_at_the_change_of_stage(
    works: dict[str, Work], uninterrupted: Callable[[str], Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "retraining_in_two_stages"
    work, run = works[name], tmp_path / "run"
    # Two of four epochs of six steps.
    assert [record["stage"] for record in uninterrupted(name)[1]] == ["real-weights"] * 12 + ["binary"] * 12
    history = History(work.files(run).history)
    for rounds in (11, 12, 13, 15):
        child = forked((*work.line, "--run", str(run)))
        wait_for(lambda rounds=rounds: len(history.read()) >= rounds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # The last start continues the second stage.
    found = saved.read(work.files(run), kind=work.kind)
    assert found is not None
    assert (found.state["stage"], found.rounds_done < 20) == (1, True)
    assert bnas(capsys, *work.line, "--run", run).code == 0
    assert equal(result(work, run), uninterrupted(name))


@pytest.mark.parametrize("name", ["search_by_gradient", "retraining_in_two_stages"])
def test_sigterm_finishes_the_round_and_says_how_to_go_on(
    name: str,
    works: dict[str, Work],
    uninterrupted: Callable[[str], Result],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, run = works[name], tmp_path / "run"
    history = work.files(run).history
    process = started(*work.line, "--run", run, folder=tmp_path)
    wait_for(history.exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    done = len(History(history).read())
    assert process.returncode == 3
    assert err.strip() == "SIGTERM: finishing the round, then saving"
    assert f"stopped after {done} of " in out
    assert "rounds: SIGTERM; the same command goes on from here" in out
    found = saved.read(work.files(run), kind=work.kind)
    assert found is not None
    assert found.rounds_done == done < found.rounds_total
    again = next(line for line in out.splitlines() if line.startswith("to go on: bnas "))
    assert bnas(capsys, *shlex.split(again.removeprefix("to go on: bnas "))).code == 0
    assert equal(result(work, run), uninterrupted(name))


def test_minutes_after_minutes_come_to_the_same_end(
    works: dict[str, Work], uninterrupted: Callable[[str], Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, run = works["search_by_gradient"], tmp_path / "run"
    # A fifth of a second each, which is a few rounds.
    codes = []
    while 0 not in codes and len(codes) < 200:
        said = bnas(capsys, *work.line, "--run", run, "--max-minutes", "0.003")
        codes.append(said.code)
        assert ("the 0.003 minutes are over; the same command goes on from here" in said.out) == (said.code == 3)
        assert work.files(run).genotype.exists() == (said.code == 0)
    assert codes[0] == 3
    assert codes[-1] == 0
    assert equal(result(work, run), uninterrupted("search_by_gradient"))
