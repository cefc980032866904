"""`bnas bench supernet`: no time where results differ, a time for each form else."""

from typing import Any

import pytest
from typer.testing import CliRunner

from experiments import bench_forms, bench_supernet
from experiments.cli import app

SMALL = ["--space", "bnas_gist", "--batch", "2", "--cells", "3", "--channels", "2", "--rounds", "3", "--threads", "1"]


def run(*more: str) -> Any:
    return CliRunner().invoke(app, ["bench", "supernet", *SMALL, *more])


def test_forms_that_differ_get_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench_supernet.plain_forward
    monkeypatch.setattr(bench_supernet, "plain_forward", lambda *given: plain(*given) * 1.001)
    result = run()
    assert result.exit_code == 1
    assert "results differ" in result.output
    assert "NCHW  " not in result.output


def test_each_form_has_a_row_and_each_goal_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def in_turn(candidates: Any, rounds: int) -> Any:
        from experiments.bench_timing import Timing

        calls.extend(candidates)
        return {name: Timing(2e5 / (1 + index), 1e3) for index, name in enumerate(candidates)}

    monkeypatch.setattr(bench_forms, "in_turn", in_turn)
    result = run()
    assert result.exit_code == 0, result.output
    assert calls == ["plain, NCHW", "plain, NHWC", "fast"]
    said = " ".join(result.output.split())
    assert "cpu, float32, batch 64, 8 cells, 16 channels: 1.8x; not measured at these sizes; 3.00x here" in said
    assert "cuda, float32, batch 64, 8 cells, 16 channels: 5.0x; not measured" in said
    assert "convolution, backward" in result.output


def test_bad_input_says_what_there_is() -> None:
    assert "no space with a super-network of cells named 'bat'" in str(run("--space", "bat").exception)
    assert "no precision named 'half'" in str(run("--precision", "half").exception)
