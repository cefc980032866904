"""`bnas cross`: strategies by spaces, cut off and continued, bad input."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bnas import seeding
from bnas.stopping import StopRequest
from experiments.cross import TABLE, cross, space_jobs
from experiments.job_files import load_job, make_job
from tests.jobs import tiny_chain
from tests.jobs.test_compare import StopsAfter, content, without_times, write
from tests.jobs.tiny_chain import bnas

GIST = {"cells": 3, "channels": 4}
SPACES = {
    "bats": {
        "space": {"args": {"nodes": 1}},
        "search": {"size": tiny_chain.SIZE},
        "retrain": {"size": tiny_chain.SIZE},
    },
    "bnas_gist": {"space": {"args": {"nodes": 1}}, "search": {"size": GIST}, "retrain": {"size": GIST}},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chain.write_images(tmp_path_factory.mktemp("images") / "tiny.npz")


def test_a_table_of_both_also_when_cut_off(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = content(images, seeds=1, spaces=SPACES, compare=["random"])
    job = write(images, tmp_path, seeds=1, spaces=SPACES, compare=["random"])
    said = bnas(capsys, "cross", job, "--run", tmp_path / "whole")
    assert said.code == 0, said.err
    whole = json.loads((tmp_path / "whole" / TABLE).read_text())
    assert list(whole["spaces"]) == ["bats", "bnas_gist"]
    for found in whole["spaces"].values():
        assert [row["name"] for row in found["rows"]] == ["random"]
        assert [row["verified"] for row in found["rows"]] == ["yes"]
    assert "packed and verified: all" in said.out
    parts = []
    while not parts or not parts[-1].finished:
        with StopRequest() as stop:
            reporter = StopsAfter(3, stop)
            made = make_job(keys)
            parts.append(
                cross(made, tmp_path / "cut", reporter=lambda best, r=reporter: r, say=lambda text: None, stop=stop)
            )
    assert len(parts) > 2
    assert without_times(json.loads((tmp_path / "cut" / TABLE).read_text())) == without_times(whole)


def test_sizes_and_arguments_start_anew_in_another_space(images: Path) -> None:
    jobs = space_jobs(make_job(content(images, spaces={"bats": {}, "widths": {"search": {"size": {"channels": 4}}}})))
    assert jobs["bats"].search.size["groups"] == tiny_chain.SIZE["groups"]
    assert jobs["bats"].space.args["nodes"] == 1
    assert "groups" not in jobs["widths"].search.size
    assert jobs["widths"].search.size["channels"] == 4


def test_every_network_of_the_shipped_job_can_be_built() -> None:
    for name, job in space_jobs(load_job("digits_cross")).items():
        space, spec = job.make_space(), job.spec(job.retrain, (1, 8, 8), 10)
        for index in range(max(len(decision.choices) for decision in space.decisions)):
            scores = {
                d.name: [float(i == index % len(d.choices)) for i in range(len(d.choices))] for d in space.decisions
            }
            with torch.device("meta"), seeding.borrowed(0, name):
                assert list(space.build(space.derive(scores), spec).parameters())


@pytest.mark.parametrize(
    ("spaces", "said"),
    [
        ({}, "spaces is empty: name at least one search space, such as {bats: {}}"),
        ({"bat": {}}, "spaces: there is no search space bat; there are bats,"),
        ({"bats": 3}, "spaces.bats: expected a table of keys of the job"),
        ({"bats": {"search": {"size": {"cell": 3}}}}, "spaces: bats: search.size: unknown key 'cell'"),
    ],
)
def test_spaces_that_are_none(
    spaces: Any, said: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bnas(capsys, "cross", write(images, tmp_path, spaces=spaces), "--run", tmp_path / "run")
    assert found.code == 2
    assert said in found.err
    assert not (tmp_path / "run").exists()
