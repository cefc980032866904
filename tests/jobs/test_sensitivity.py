"""`bnas sensitivity` and `bnas errors` on a trained network: tables, JSON, the picture, and what is refused."""

import json

import pytest

from experiments import api
from experiments.job_files import make_job
from tests.jobs.tiny_chain import bnas

SIZE = {"channels": 4, "blocks": 1}


def trained(folder, scheme):
    recipe = {"epochs": 1, "batch_size": 256}
    job = make_job(
        {
            "space": {"name": "fixed", "args": {"networks": ["resnet20"]}},
            "retrain": {"scheme": scheme, "size": SIZE, "recipe": recipe},
        }
    )
    return api.retrain(job, api.random_genotype(job), folder).files.folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), "xnor")


def test_sensitivity(capsys, folder, tmp_path):
    said = bnas(capsys, "sensitivity", folder, "--images", 20, "--json", tmp_path / "s.json")
    assert said.code == 0, said.err
    assert "20 images of the validation half of the training split of digits" in said.out
    assert (folder / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "s.json").read_text())
    layers = {each["name"]: each for each in content["layers"]}
    assert {name for name, each in layers.items() if each["was"] == "binary"} == {
        f"body.{block}.{conv}.conv" for block in range(3) for conv in ("first", "second")
    }
    assert {name for name, each in layers.items() if each["was"] == "real"} == {
        "stem.0",
        "body.1.shortcut.conv",
        "body.2.shortcut.conv",
        "classifier",
    }
    assert layers["body.0.first.conv"]["filters"] == 4
    assert all(isinstance(each[part], float) for each in layers.values() for part in ("weights", "input", "both"))
    first = next(line for line in said.out.splitlines() if line.startswith("body.0.first.conv"))
    assert f"{layers['body.0.first.conv']['weights']:+.4f}" in first


def test_errors(capsys, folder, tmp_path):
    said = bnas(capsys, "errors", folder, "--images", 16, "--json", tmp_path / "e.json")
    assert said.code == 0, said.err
    content = json.loads((tmp_path / "e.json").read_text())
    assert [each["name"] for each in content["layers"]][:2] == ["body.0.first.conv", "body.0.second.conv"]
    assert {each["kind"]: each["layers"] for each in content["kinds"]} == {"3x3": 4, "3x3 stride 2": 2}
    for each in content["layers"]:
        assert 0 < each["forward_scaled"] < 1
        assert each["zero_is_nearer"] == (each["forward"] > 1)
        assert -1 <= each["cosine"] <= 1
    again = bnas(capsys, "errors", folder, "--images", 16, "--seed", 1, "--json", tmp_path / "f.json")
    assert again.code == 0
    other = json.loads((tmp_path / "f.json").read_text())
    assert [e["forward"] for e in other["layers"]] == [e["forward"] for e in content["layers"]]
    assert [e["cosine"] for e in other["layers"]] != [e["cosine"] for e in content["layers"]]


def test_what_is_refused(capsys, folder, tmp_path):
    assert "no file or folder" in bnas(capsys, "sensitivity", tmp_path / "nowhere").err
    said = bnas(capsys, "sensitivity", folder, "--plot", tmp_path / "a.txt")
    assert said.code == 2
    assert "a picture ends in .png, .svg, .pdf" in said.err
    assert "--images is 1; it must be an integer at least 2" in bnas(capsys, "errors", folder, "--images", 1).err
    real = trained(tmp_path, "real")
    assert "the network is real-valued under scheme real" in " ".join(bnas(capsys, "errors", real).err.split())
