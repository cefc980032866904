"""`bnas bench score`: no time where results differ, a row for each form else."""

from typing import Any

import pytest
from typer.testing import CliRunner

from experiments import bench_forms, bench_score
from experiments.bench_timing import Timing
from experiments.cli import app

SMALL = ["--batch", "4", "--images", "4", "--paths", "2", "--cells", "3", "--channels", "4", "--rounds", "3"]


def run(*more: str) -> Any:
    return CliRunner().invoke(app, ["bench", "score", *SMALL, "--space", "bats", "--threads", "1", *more])


@pytest.mark.parametrize("form", ["packed", "shared"])
def test_forms_that_differ_get_no_time(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = bench_score.logits
    monkeypatch.setattr(bench_score, "logits", lambda *given: logits(*given) * (1.0 + 1e-6 * (given[3] == form)))
    result = run()
    assert result.exit_code == 1
    assert "results differ" in result.output
    assert "1.00x" not in result.output


def test_each_form_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    forms: list[str] = []

    def in_turn(candidates: Any, rounds: int) -> dict[str, Timing]:
        forms.extend(candidates)
        return {name: Timing(4e5 / (1 + index), 1e3) for index, name in enumerate(candidates)}

    monkeypatch.setattr(bench_forms, "in_turn", in_turn)
    result = run("--norms", "recalibrated")
    assert result.exit_code == 0, result.output
    assert forms == ["float", "packed", "auto", "shared"]
    assert "4.00x" in result.output
    assert "2 paths that share are scored 1.33x as quick as apart" in result.output
    assert "convolution of bits" in result.output


def test_bad_input_says_what_there_is() -> None:
    assert "no norms named 'own'" in str(run("--norms", "own").exception)
    assert "no scheme named 'xnr'" in str(run("--scheme", "xnr").exception)
