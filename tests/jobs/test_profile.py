"""`bnas profile`: the table, what a budget reads of it, the comparison with a whole network, bad input."""

import json
from pathlib import Path
from typing import Any

import pytest

from bnas.errors import BnasError
from bnas.latency import LatencyTable, Timing
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas


def job_of(folder: Path, **limits: Any) -> Path:
    content = tiny_chain.content(folder / "tiny.npz", strategy="random", size={"channels": 4})
    content["space"] = {"name": "widths", "args": {"network": "vgg_small", "ratios": [0.5, 1]}}
    content["search"]["options"] = {"samples": 2, "epochs": 1, "budget": limits}
    content["retrain"] |= {"scheme": "bireal", "size": {"channels": 8}}
    return tiny_chain.write_job(folder / "job.yaml", content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("profile")
    tiny_chain.write_images(made / "tiny.npz")
    return made


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    path = folder / "table.json"
    from experiments import profile_command

    profile_command.run(str(job_of(folder)), [], path, "reference", 1, 8, None, None)
    return path


def test_the_table_says_where_it_was_measured_and_predicts_what_is_measured(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(table.read_text())
    assert {"backend", "threads", "torch", "processor"} <= set(content["about"])
    assert content["about"]["fused"] is False
    assert all({"median_us", "spread_us", "runs"} == set(row) for row in content["rows"].values())
    kinds = {key.split(":")[0] for key in content["rows"]}
    assert {"binary_conv2d", "threshold", "conv2d", "linear"} <= kinds
    job = job_of(folder, latency_us=1e9, latency_table=str(table))
    said = bnas(capsys, "search", job, "--run", tmp_path / "run", "--json", tmp_path / "search.json")
    assert said.code == 0, said.err
    winner = json.loads((tmp_path / "search.json").read_text())["latency"]
    assert f"{winner['predicted_us']:.0f} us, the sum of" in said.out
    assert f"{winner['measured_us']:.0f} +- {winner['measured_spread_us']:.0f} us, median" in said.out
    said = bnas(capsys, "summary", tmp_path / "run", "--json", tmp_path / "summary.json")
    assert "predicted / measured" in said.out
    assert json.loads((tmp_path / "summary.json").read_text())["latency"]["predicted_us"] == winner["predicted_us"]
    words = ("--table", table, "--backend", "reference", "--runs", 1)
    said = bnas(capsys, "profile", job, *words, "--check", tmp_path / "run", "--json", tmp_path / "check.json")
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "check.json").read_text())
    assert f"{found['predicted_us']:.0f} us, the sum of" in said.out
    assert found["predicted_us"] == winner["predicted_us"] > 0
    again = bnas(capsys, "profile", job, *words, "--patience", 1, "--json", tmp_path / "again.json")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again.json").read_text())["steps"] >= len(content["rows"])


def test_a_latency_budget_below_the_fastest_names_it(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = bnas(capsys, "search", job_of(folder, latency_us=1e-3, latency_table=str(table)), "--run", tmp_path / "run")
    assert said.code == 2
    assert "within the budget (latency_us <= 0.001). The cheapest found costs" in said.err
    assert "latency_us" in said.err.split("costs")[1]


def test_an_operation_that_is_not_in_the_table_is_named_with_the_remedy(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = LatencyTable.load(table)
    LatencyTable({k: v for k, v in cut.rows.items() if "linear" not in k}, cut.about).save(tmp_path / "cut.json")
    job = job_of(folder, latency_us=1e9, latency_table=str(tmp_path / "cut.json"))
    said = bnas(capsys, "search", job, "--run", tmp_path / "run")
    assert said.code == 2
    assert "has no measurement of 'linear: #1 real" in said.err
    assert "measure with `bnas profile JOB --table FILE`, which adds what is missing" in said.err


def test_a_table_measured_otherwise_is_not_mixed(folder: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = bnas(capsys, "profile", job_of(folder), "--table", table, "--backend", "cpu")
    assert said.code == 2
    assert "was measured otherwise (backend reference -> cpu, fused False -> True" in said.err


def test_a_winner_is_not_measured_where_its_table_was_not(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = LatencyTable.load(table)
    LatencyTable(there.rows, {**there.about, "processor": "another"}).save(tmp_path / "there.json")
    job = job_of(folder, latency_us=1e9, latency_table=str(tmp_path / "there.json"))
    said = bnas(capsys, "summary", job, "--json", tmp_path / "summary.json")
    assert said.code == 0, said.err
    assert "there.json was measured otherwise (processor another -> " in said.out
    assert json.loads((tmp_path / "summary.json").read_text())["latency"]["measured_us"] is None
    (tmp_path / "there.json").unlink()
    said = bnas(capsys, "summary", job)
    assert said.code == 0
    assert "not compared: cannot read" in said.out


def test_no_steps_are_timed_on_a_gpu(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = bnas(capsys, "profile", job_of(folder), "--table", tmp_path / "t.json", "--backend", "triton")
    assert said.code == 2
    assert "a table of steps is for cpu, reference, and `bnas bench` times whole networks on triton" in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not a latency table: JSONDecodeError"),
        ("{}", "is not a latency table: KeyError: 'format'"),
        ('{"format": "x"}', "its format is 'x', not 'bnas-latency'"),
        ('{"format": "bnas-latency", "version": 9}', "has version 9; this release reads version 3"),
        ('{"format": "bnas-latency", "version": 3, "about": {}, "rows": {"a": {"b": 1}}}', "is not a latency table"),
    ],
)
def test_a_file_that_is_no_table(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(BnasError, match=message):
        LatencyTable.load(tmp_path / "t.json")
    with pytest.raises(BnasError, match="cannot read"):
        LatencyTable.load(tmp_path / "none.json")


def test_the_prediction_is_the_sum_of_medians() -> None:
    table = LatencyTable({"a": Timing(1.5, 0.1, 3), "b": Timing(2.0, 0.1, 3)}, {})
    assert table.predict({"a": 2, "b": 1}) == 5.0
    with pytest.raises(BnasError, match="the table has no measurement of 'c' and 1 more steps"):
        table.predict({"a": 1, "c": 1, "d": 1})
