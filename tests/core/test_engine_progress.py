"""What a run shows while it runs."""

import importlib.machinery
import io
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bnas import tensorboard
from bnas.errors import BnasError
from bnas.progress import PlainReporter, ReporterGroup, SilentReporter, Summary, readable_time
from tests.core.engine_toy import Toy, run


def record(number: int, **metrics: Any) -> dict[str, Any]:
    return {"round": number, **metrics, "time": {"seconds": 2.0, "samples_per_second": 12345.6}}


def test_a_line_a_round(tmp_path: Path) -> None:
    out = io.StringIO()
    reporter = PlainReporter(out, best="accuracy", every_seconds=0)
    reporter.start("search run", 4, 0)
    reporter.round(record(1, loss=1.23456, accuracy=0.5, samples=9, ok=True, genotype={"a": "b"}))
    reporter.round(record(2, loss=1.0, accuracy=0.25))
    reporter.message("went back")
    reporter.round(record(4, loss=0.5, accuracy=0.125))
    reporter.finish("finished")
    assert out.getvalue().splitlines() == [
        "search run: 4 rounds",
        "round 1/4  loss 1.235  accuracy 0.5  12,346 samples/s  best accuracy 0.5 (round 1)  6 s left",
        "round 2/4  loss 1  accuracy 0.25  12,346 samples/s  best accuracy 0.5 (round 1)  4 s left",
        "went back",
        "round 4/4  loss 0.5  accuracy 0.125  12,346 samples/s  best accuracy 0.5 (round 1)",
        "finished",
    ]


def test_chosen_metrics_and_a_continued_run() -> None:
    out = io.StringIO()
    reporter = PlainReporter(out, metrics=("b",), best="a", smaller_is_better=True, every_seconds=0)
    reporter.start("search run", 3, 2, [record(1, a=0.5, b=1), record(2, a="nan", b=2)])
    reporter.round({"round": 3, "a": 0.75, "b": 3, "time": {"seconds": 1.0}})
    assert out.getvalue().splitlines() == [
        "search run: 3 rounds, 2 of them done",
        "round 3/3  b 3  best a 0.5 (round 1)",
    ]


def test_lines_are_rare_but_the_last_round_is_shown() -> None:
    out, now = io.StringIO(), [0.0]
    reporter = PlainReporter(out, every_seconds=5, clock=lambda: now[0])
    reporter.start("run", 9, 0)
    for number in range(1, 10):
        reporter.round(record(number))
        now[0] += 2
    shown = [line.split()[1] for line in out.getvalue().splitlines()[1:]]
    assert shown == ["1/9", "4/9", "7/9", "9/9"]


def test_without_a_stream_it_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(Toy(2), tmp_path, PlainReporter(every_seconds=0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"search {tmp_path}: 2 rounds"
    assert lines[1].startswith("round 1/2  loss ")
    assert lines[3] == "finished after 2 of 2 rounds: all rounds are done"
    run(Toy(2), tmp_path, PlainReporter(), title="bats on digits")
    assert capsys.readouterr().out.splitlines() == [
        "bats on digits: 2 rounds, 2 of them done",
        "finished after 2 of 2 rounds: nothing was left to do",
    ]


def test_the_best_is_never_nan() -> None:
    summary = Summary("a")
    for number, value in enumerate([float("nan"), 1.0, float("inf"), 3, 2], 1):
        summary.add(record(number, a=value))
    assert (summary.best, summary.best_round) == (3, 4)


def test_time_left_is_of_the_recent_rounds() -> None:
    summary = Summary()
    for seconds in [1000.0] + [1.0] * 20:
        summary.add({"round": 1, "time": {"seconds": seconds}})
    assert summary.seconds_left(7) == 7


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (18_420, "5 h 07 min"), (183_600, "2 d 3 h")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert readable_time(seconds) == text


class FakeWriter:
    made: ClassVar[list["FakeWriter"]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, {}, False
        FakeWriter.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=FakeWriter))
    reporter = tensorboard.TensorBoardReporter(tmp_path / "tensorboard")
    run(Toy(1), tmp_path)
    run(Toy(2), tmp_path, ReporterGroup(SilentReporter(), reporter))
    (writer,) = FakeWriter.made
    assert (writer.folder, writer.purge_step, writer.closed) == (str(tmp_path / "tensorboard"), 2, True)
    assert set(writer.scalars) == {
        (name, 2) for name in ("loss", "samples", "time/seconds", "time/load", "time/samples_per_second")
    }


def test_tensorboard_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(BnasError, match=r"TensorBoard is not installed: pip install 'bnas\[tensorboard\]'"):
        tensorboard.TensorBoardReporter(tmp_path)


def test_whether_tensorboard_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert not tensorboard.is_installed()
    module = types.ModuleType("tensorboard")
    module.__spec__ = importlib.machinery.ModuleSpec("tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", module)
    assert tensorboard.is_installed()


def test_a_group_passes_everything_on(tmp_path: Path) -> None:
    outs = io.StringIO(), io.StringIO()
    group = ReporterGroup(*(PlainReporter(out, every_seconds=0) for out in outs))
    run(Toy(2, nan_at=0, nan_times=1), tmp_path, group)
    assert outs[0].getvalue() == outs[1].getvalue()
    assert len(outs[0].getvalue().splitlines()) == 5
