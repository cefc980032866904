"""The commands, typed one after the other: what they print, what they write, and how they end."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bnas.deploy import file
from bnas.genotype import Genotype
from experiments import api, cli
from experiments.assembly import make_retraining
from experiments.deployment import Prediction
from experiments.job_files import load_job
from experiments.job_text import our_defaults
from search_spaces import SPACES
from strategies import STRATEGIES
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas

COMMANDS = [command.callback.__name__ for command in cli.app.registered_commands]


@pytest.fixture
def image(tmp_path, chain):
    path = tmp_path / "middle.png"
    Image.fromarray(np.load(chain.images)["test_images"][1, 0]).save(path)
    return path


def rows(text):
    """The lines of a table of facts: name -> value."""
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines() if "  " in line.strip())


def test_the_chain_from_a_job_file_to_a_packed_network(capsys, tmp_path, monkeypatch, chain):
    monkeypatch.chdir(tmp_path)
    said = bnas(capsys, "search", chain.job_file, "--json", "s.json")
    assert (said.code, said.err) == (0, "")
    assert "finished after" in said.out
    assert said.out.splitlines()[-2:] == ["next: bnas retrain runs/tiny", "wrote s.json"]
    found = json.loads((tmp_path / "s.json").read_text())
    assert (found["status"], found["rounds_done"]) == ("finished", found["rounds_total"])
    assert rows(said.out)["digest"] == found["digest"]
    genotype = Genotype.from_json((tmp_path / "runs/tiny/genotype.json").read_text())
    assert found["genotype"] == genotype.to_dict()

    said = bnas(capsys, "retrain", "runs/tiny", "--json", "r.json")
    assert said.code == 0
    folder = "runs/tiny/retrain-bats-seed0"
    assert said.out.splitlines()[-3:] == [
        f"wrote {folder}/checkpoint.pt",
        f"next: bnas export {folder}",
        "wrote r.json",
    ]
    trained = json.loads((tmp_path / "r.json").read_text())
    assert trained["checkpoint"] == f"{folder}/checkpoint.pt"
    assert 0 <= trained["last_round"]["accuracy"] <= 1

    said = bnas(capsys, "export", "runs/tiny", "--json", "e.json")
    packed = tmp_path / folder / "model.bnas"
    exported = json.loads((tmp_path / "e.json").read_text())
    assert exported["bytes"] == packed.stat().st_size
    assert exported["binary_weight_bytes"] == file.load(packed).binary_weight_bytes()
    assert said.out.startswith(f"wrote {folder}/model.bnas: ")
    assert f"\nnext: bnas verify {folder}/model.bnas\n" in said.out

    said = bnas(capsys, "verify", packed, "--json", "v.json")
    assert said.code == 0
    verified = json.loads((tmp_path / "v.json").read_text())
    assert rows(said.out)["verified"] == "yes"
    assert verified["ok"] is True
    assert rows(said.out)["layers equal"] == f"{len(verified['layers'])} of {len(verified['layers'])}"
    assert rows(said.out)["compared on"] == verified["compared_on"] == "48 training images"

    # Of the packed file and of its folder, the same accuracy: they are the same network.
    accuracies = []
    for what in (packed, packed.parent):
        said = bnas(capsys, "evaluate", what, "--json", "a.json")
        content = json.loads((tmp_path / "a.json").read_text())
        assert rows(said.out)["accuracy"] == f"{content['accuracy']:.4f}"
        assert (content["images"], content["classes"], content["note"]) == (24, 3, None)
        accuracies.append(content["accuracy"])
    assert accuracies[0] == accuracies[1]


def test_the_same_line_goes_on_and_a_finished_run_does_nothing(capsys, tmp_path, chain):
    said = bnas(capsys, "search", chain.job_file, "--run", chain.run)
    assert said.code == 0
    assert "nothing was left to do" in said.out
    assert rows(said.out)["found"] == str(chain.run / "genotype.json")


def test_fresh_says_where_the_old_run_is_kept(capsys, tmp_path, chain):
    line = ("search", chain.job_file, "--run", tmp_path / "run", "--set", "search.options.epochs=1")
    assert bnas(capsys, *line).code == 0
    said = bnas(capsys, *line, "--fresh")
    assert said.out.startswith(f"what was in {tmp_path / 'run'} is kept in {tmp_path / 'run.old-1'}\n")
    assert (tmp_path / "run.old-1/genotype.json").read_bytes() == (tmp_path / "run/genotype.json").read_bytes()


def test_fresh_moves_nothing_where_the_job_is_wrong(capsys, tmp_path, chain):
    shutil.copytree(chain.run, tmp_path / "run")
    line = ("search", chain.job_file, "--run", tmp_path / "run", "--fresh", "--set")
    for wrong in ("data.path=nope.npz", "retrain.size.auxiliary=true", "device=cuda:99"):
        assert bnas(capsys, *line, wrong).code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_search_that_runs_out_of_its_minutes_says_how_to_go_on(capsys, tmp_path, chain, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = bnas(capsys, "search", chain.job_file, "--fresh", "--run", "r", "--max-minutes", "1e-9", "--json", "s.json")
    assert said.code == 3
    assert said.out.splitlines()[-1] == (
        f"to go on: bnas search {chain.job_file} --run r --max-minutes 1e-9 --json s.json"
    )
    assert json.loads((tmp_path / "s.json").read_text())["status"] == "stopped"
    assert bnas(capsys, "search", chain.job_file, "--run", "r").code == 0
    said = bnas(capsys, "retrain", "r", "--max-minutes", "1e-9")
    assert said.code == 3
    assert said.out.splitlines()[-1] == "to go on: bnas retrain r --max-minutes 1e-9"


def test_a_published_genotype_enters_at_retrain(capsys, tmp_path, chain, monkeypatch):
    monkeypatch.chdir(tmp_path)
    genotype = api.random_genotype(chain.job)
    (tmp_path / "paper.json").write_text(genotype.to_json())
    said = bnas(capsys, "retrain", "paper.json", "--job", chain.job_file, "--id", "mine", "--set", "seed=3")
    assert said.code == 0
    assert (tmp_path / "runs/paper/retrain-mine/checkpoint.pt").exists()
    assert load_job(str(tmp_path / "runs/paper/retrain-mine/job.yaml")).seed == 3


def test_the_genotype_of_a_run_stands_for_the_run(capsys, chain):
    said = bnas(capsys, "retrain", chain.run / "genotype.json")
    assert said.code == 0
    assert f"wrote {chain.retraining / 'checkpoint.pt'}\n" in said.out
    assert "nothing was left to do" in said.out


def test_a_retraining_is_found_from_its_own_folder(capsys, chain, monkeypatch):
    monkeypatch.chdir(chain.retraining)
    assert bnas(capsys, "export", ".").out.startswith("wrote model.bnas: ")
    assert bnas(capsys, "verify", "model.bnas").code == 0
    assert bnas(capsys, "evaluate", "checkpoint.pt").code == 0
    assert bnas(capsys, "summary", ".").code == 0


def test_the_genotype_is_written_in_every_form(capsys, tmp_path, chain):
    genotype = api.genotype_of_round(api.RunDir(chain.run).files_for_search())
    said = bnas(capsys, "export", chain.run, "--what", "genotype")
    assert Genotype.from_json(said.out) == genotype
    said = bnas(capsys, "export", chain.run, "--what", "genotype", "--format", "yaml")
    assert Genotype.from_dict(yaml.safe_load(said.out)) == genotype
    for name, start in (("a.json", b"{"), ("a.yml", b"format"), ("a.dot", b"digraph"), ("a.svg", b"<?xml")):
        said = bnas(capsys, "export", chain.run, "--what", "genotype", "--to", tmp_path / name)
        assert said.out == f"wrote {tmp_path / name}\n"
        assert (tmp_path / name).read_bytes().startswith(start)
    bnas(capsys, "export", tmp_path / "a.yml", "--what", "genotype", "--format", "darts", "--to", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text().startswith("Genotype(normal=[(")
    said = bnas(capsys, "export", chain.run, "--what", "genotype", "--to", tmp_path / "b.png", "--json", tmp_path / "b")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "b").read_text()) == genotype.to_dict()


def test_the_genotype_of_a_round(capsys, chain):
    history = api.History(chain.run / "history.jsonl").read()
    for number in (1, len(history)):
        said = bnas(capsys, "export", chain.run, "--what", "genotype", "--round", number)
        assert json.loads(said.out)["choices"] == history[number - 1]["genotype"]


def test_a_picture_beside_the_genotype_and_its_edges_as_json(capsys, tmp_path, chain):
    (tmp_path / "found.json").write_text((chain.run / "genotype.json").read_text())
    said = bnas(capsys, "plot", tmp_path / "found.json", "--json", tmp_path / "edges")
    assert said.out.splitlines() == [f"wrote {tmp_path / 'found.png'}", f"wrote {tmp_path / 'edges'}"]
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    edges = json.loads((tmp_path / "edges").read_text())
    choices = api.load_genotype(tmp_path / "found.json").choices
    drawn = [choice for graph in edges.values() for *_, choice in graph if choice is not None]
    assert sorted(drawn) == sorted(choice for _, choice in choices)
    bnas(capsys, "plot", chain.run, "--round", 1, "--to", tmp_path / "cell.svg")
    assert (tmp_path / "cell.svg").read_bytes().startswith(b"<?xml")


def test_summary_lists_every_layer_the_totals_and_our_defaults(capsys, tmp_path, chain):
    said = bnas(capsys, "summary", chain.run, "--json", tmp_path / "s")
    content = json.loads((tmp_path / "s").read_text())
    lines = [line.rstrip() for line in said.out.splitlines()]
    assert lines[0] == "bats under bats, 3 classes, images of 1 x 8 x 8"
    shown = [line for line in lines if re.search(r"(Conv2d|Norm\w+|PReLU|Linear) ", line)]
    layers = [layer for layer in content["layers"] if layer["parameters"]]
    assert len(shown) == len(layers)
    for line, layer in zip(shown, layers, strict=True):
        name, kind, shape, *_ = line.split()
        assert (name, kind) == (layer["name"].split(".")[-1], layer["kind"])
        assert shape == "x".join(map(str, layer["output_shape"]))
    assert sum(layer["macs_binary"] for layer in layers) == content["totals"]["macs_binary"]
    assert f"{content['totals']['parameters']:,} parameters" in said.out
    assert f"real-valued: {', '.join(content['real_valued'])}" in said.out
    assert content["real_valued"] == ["stem.body.0", "classifier"]
    assert content["our_defaults"] == json.loads(json.dumps(our_defaults(chain.job)))
    for key in content["our_defaults"]:
        assert any(line.startswith(f"{key} ") for line in lines), key
    assert max(map(len, lines)) <= 100
    assert [lines.count(block) for block in ("cells.0", "cells.1", "cells.2", "stem.body")] == [1, 1, 1, 1]
    assert lines.count("  preprocess.0") == 3


def test_summary_of_a_job_a_genotype_and_a_retraining(capsys, tmp_path, chain):
    said = bnas(capsys, "summary", chain.job_file, "--set", "retrain.scheme=bnn", "--json", tmp_path / "s")
    assert "under bnn" in said.out
    assert "an architecture drawn at random stands for the one to be found\n" in said.out
    assert json.loads((tmp_path / "s").read_text())["note"].startswith("an architecture drawn at random")
    path = tmp_path / "g.yaml"
    bnas(capsys, "export", chain.run, "--what", "genotype", "--to", path)
    of_file = bnas(capsys, "summary", path, "--job", chain.job_file)
    of_retraining = bnas(capsys, "summary", chain.retraining)
    assert bnas(capsys, "summary", chain.retraining / "checkpoint.pt").out == of_retraining.out
    assert of_file.out == of_retraining.out == bnas(capsys, "summary", chain.run).out


def test_predict_shows_classes_from_the_most_probable_on(capsys, tmp_path, chain, image):
    said = bnas(capsys, "predict", chain.packed, image, "--json", tmp_path / "p")
    probabilities = json.loads((tmp_path / "p").read_text())["probabilities"]
    assert sum(probabilities.values()) == pytest.approx(1)
    assert sorted(probabilities) == sorted(tiny_chain.CLASSES)
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    assert [line.split() for line in said.out.splitlines()[1:4]] == [[k, f"{v:.4f}"] for k, v in probabilities.items()]


def test_predict_shows_ten_classes_and_counts_the_others(capsys, tmp_path, chain, image, monkeypatch):
    many = {f"class {i}": 1 / 12 for i in range(12)}
    monkeypatch.setattr("experiments.deployment.predict", lambda *given, **options: Prediction(many, "cpu"))
    said = bnas(capsys, "predict", chain.packed, image, "--json", tmp_path / "p")
    assert "and 2 more classes\n" in said.out
    assert json.loads((tmp_path / "p").read_text()) == {"probabilities": many, "backend": "cpu"}


def test_verify_ends_with_1_and_names_the_first_layer_of_a_planted_flip(capsys, tmp_path, chain):
    packed = file.load(chain.packed)
    convs = [op for op in packed.program.ops if op.kind == "binary_conv2d"]
    flipped = dict(packed.tensors)
    name = convs[3].tensors["weight"]
    flipped[name] = flipped[name].copy()
    # The checksum is made anew, so that only the comparison with the trained network can notice.
    flipped[name].flat[0] ^= 1
    file.save(file.Packed(packed.program, flipped), tmp_path / "flipped.bnas")
    said = bnas(capsys, "verify", tmp_path / "flipped.bnas", "--checkpoint", chain.retraining, "--json", tmp_path / "v")
    assert said.code == 1
    assert said.err == f"error: {tmp_path / 'flipped.bnas'} is not the trained network\n"
    report = json.loads((tmp_path / "v").read_text())
    assert report["ok"] is False
    assert str(convs[3]) in rows(said.out)["first difference"] == report["first_difference"]
    assert rows(said.out)["verified"] == "no"
    assert [entry["name"] for entry in report["layers"] if not entry["equal"]] == [convs[3].name]


def test_evaluate_on_other_images(capsys, tmp_path, chain):
    other = tiny_chain.write_images(tmp_path / "other.npz", ("a", "middle", "right"))
    said = bnas(
        capsys, "evaluate", chain.packed, "--data", "npz", "--path", other, "--limit", 5, "--json", tmp_path / "e"
    )
    content = json.loads((tmp_path / "e").read_text())
    assert content["images"] == 5
    assert content["note"] == "1 of 3 classes have other names than in the training: 'left' is 'a' in the data"
    assert rows(said.out)["note"] == content["note"]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_init_writes_a_job_that_loads_and_can_begin(capsys, tmp_path, space, strategy):
    path = tmp_path / "my.yaml"
    said = bnas(capsys, "init", path, "--space", space, "--strategy", strategy)
    assert said.out == f"wrote {path}\nnext: bnas search {path} --run runs/my\n"
    job = load_job(str(path))
    assert (job.space.name, job.search.strategy, job.data.name) == (space, strategy, "digits")
    if strategy == "random" and space in ("bats", "widths"):
        data = api.read_data(job)
        make_retraining(job, api.random_genotype(job), data, torch.device("cpu"))


def test_init_takes_the_path_of_the_images(capsys, tmp_path, chain):
    bnas(capsys, "init", tmp_path / "a.yaml", "--data", "npz", "--path", chain.images)
    assert api.read_data(load_job(str(tmp_path / "a.yaml"))).classes == tiny_chain.CLASSES


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_says_what_each_option_is(capsys, command):
    said = bnas(capsys, command, "--help")
    assert said.code == 0
    assert f"Example: bnas {command}" in said.out
    if command != "init":
        assert "--json" in said.out


def test_the_commands_of_the_chain_are_there():
    chain = {"init", "search", "retrain", "export", "verify", "evaluate", "predict", "summary", "plot", "demo"}
    assert chain <= set(COMMANDS)


def test_help_of_all_lists_the_commands_and_exit_codes(capsys):
    for line in ((), ("--help",)):
        said = bnas(capsys, *line)
        assert all(re.search(rf"│ {command} ", said.out) for command in COMMANDS)
        assert "Exit codes: 0 done; 1 verify found a difference" in said.out
    assert re.fullmatch(r"bnas \d+\.\d+\.\d+\n", bnas(capsys, "--version").out)
