"""`bnas bench search`: rounds of real searches, with a clock that moves only where the test lets it."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bnas import saved, scoring
from bnas.data import batches
from bnas.history import History
from bnas.space import SearchSpace
from bnas.stopwatch import BOOKKEEPING, DATA, NETWORK, OPTIMIZER, PARTS, Stopwatch, part
from experiments import bench_search
from experiments.assembly import make_strategy
from experiments.bench_search import Row, Setup, measure
from experiments.cli import app
from search_spaces import SPACES
from strategies import STRATEGIES

SETUP = Setup(batch=2, cells=3, channels=8, steps=2, rounds=3, device="cpu")


class Clock:
    """Stands still unless it is moved on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def slowed(self, call: Any, seconds: float = 1.0) -> Any:
        """`call`, taking so many seconds."""

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return call(*args, **kwargs)

        return slow


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_search, "AUGMENTATION", {"crop_padding": 1, "cutout": 2})
    monkeypatch.setattr(bench_search, "IMAGE", (3, 8, 8))
    # Else the first round makes what the others read.
    monkeypatch.setattr(batches, "AT_ONCE", 1)


def row(clock: Clock, strategy: str, space: str) -> Row:
    return measure(SETUP.job(strategy, space, None, None), SETUP.images(), SETUP, clock)


PLACES: dict[str, tuple[str, Any, str]] = {
    "loader": (DATA, batches, "scaled"),
    "optimizer": (OPTIMIZER, torch.amp.GradScaler, "step"),
    "backward": (NETWORK, torch.Tensor, "backward"),
    "score": (NETWORK, scoring.SharedForward, "__call__"),
    "draw": (BOOKKEEPING, SearchSpace, "random"),
    "checkpoint": (BOOKKEEPING, saved, "write"),
    "history": (BOOKKEEPING, History, "append"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_slow_has_all_of_the_time(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, owner, what = PLACES[place]
    clock = Clock()
    monkeypatch.setattr(owner, what, clock.slowed(getattr(owner, what)))
    assert row(clock, "evolution", "group_mobilenet").shares == {each: float(each == name) for each in PARTS}


@pytest.mark.parametrize(
    ("name", "owner", "what"), [(OPTIMIZER, torch.optim.Adam, "step"), (NETWORK, torch.autograd, "grad")]
)
def test_steps_on_the_gates_count_where_they_belong(
    name: str, owner: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(owner, what, clock.slowed(getattr(owner, what)))
    assert row(clock, "darts", "group_mobilenet").shares == {each: float(each == name) for each in PARTS}


def test_every_pair_is_a_job_and_built_networks_have_all_their_channels() -> None:
    for strategy in STRATEGIES:
        for space in SPACES:
            SETUP.job(strategy, space, None, None)
    for strategy in ("random", "successive_halving"):
        found = make_strategy(SETUP.job(strategy, "bnas_beihang", None, None), SETUP.images(), torch.device("cpu"))
        assert found.rounds_total > 1


def test_the_command_prints_and_writes_every_pair(tmp_path: Path) -> None:
    words = ["--strategy", "random", "--strategy", "abandon", "--space", "group_mobilenet", "--threads", "1"]
    sizes = ["--batch", "2", "--channels", "8", "--steps", "1", "--rounds", "3"]
    result = CliRunner().invoke(app, ["bench", "search", *words, *sizes, "--json", str(tmp_path / "s.json")])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "s.json").read_text())
    assert [(row["strategy"], row["space"], row["rounds"]) for row in written["rows"]] == [
        ("random", "group_mobilenet", 2),
        ("abandon", "group_mobilenet", 2),
    ]
    for row in written["rows"]:
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert min(row["shares"].values()) > 0
    assert "left out, rounds after the 3 of --rounds: random on group_mobilenet (" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strategy", "dart"], "no strategy named 'dart'"),
        (["--space", "bat"], "no search space named 'bat'"),
        (["--data", "cifar10"], "data.path"),
        (["--path", "somewhere"], "--path"),
    ],
)
def test_bad_input_says_what_there_is(words: list[str], said: str) -> None:
    assert said in str(CliRunner().invoke(app, ["bench", "search", *words]).exception)


def test_a_batch_that_does_not_fit_names_the_options_that_shrink_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    monkeypatch.setattr(torch.Tensor, "backward", short)
    found = str(CliRunner().invoke(app, ["bench", "search", "--space", "group_mobilenet", "--batch", "2"]).exception)
    assert "3.00 GiB more were asked for" in found
    assert "--batch (now 2), --cells (now 3), --channels (now 8)" in found


@pytest.mark.parametrize(("rounds", "rate", "text"), [(2, 7.25, "7.2 ± 1.5"), (2, 1234.4, "1234 ± 2"), (1, 7.0, "7.0")])
def test_one_round_has_no_spread_and_slow_ones_have_digits(rounds: int, rate: float, text: str) -> None:
    assert bench_search._rate(Row("darts", "bats", rounds, 0, rate, 1.54, {}, 0.0)) == text


def test_parts_within_parts_and_other_threads() -> None:
    clock = Clock()
    work = clock.slowed(lambda: None)
    with Stopwatch(clock) as watch:
        with part(NETWORK):
            work()
            with part(DATA):
                work()
                beside = threading.Thread(target=part(OPTIMIZER)(work))
                beside.start()
                beside.join()
            work()
        work()
    assert watch.seconds == {NETWORK: 2, DATA: 2, OPTIMIZER: 0, BOOKKEEPING: 1}
    work()
    part(DATA)(work)()
    assert sum(watch.seconds.values()) == 5


def test_a_device_is_waited_for_at_each_border() -> None:
    waits: list[None] = []
    with Stopwatch(Clock(), lambda: waits.append(None)), part(NETWORK):
        assert len(waits) == 1
    assert len(waits) == 3
