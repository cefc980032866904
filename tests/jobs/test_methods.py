"""`bnas schemes`, starts from another network, lists of stages and ensembles, from the command line."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnas import checkpoint
from bnas.binary import SCHEMES
from experiments import api, deployment
from experiments.network import find_trained, load_trained
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas


def test_schemes_lists_every_scheme_with_value_gradient_and_packing(capsys: Any, tmp_path: Path) -> None:
    said = bnas(capsys, "schemes", "--json", tmp_path / "s.json")
    assert said.code == 0
    entries = {entry["name"]: entry for entry in json.loads((tmp_path / "s.json").read_text())["schemes"]}
    assert list(entries) == list(SCHEMES)
    assert all(f"{name}: {entry['about']}" in said.out for name, entry in entries.items())
    assert entries["bnn"]["packing"] == "one XNOR product"
    assert entries["abcnet"]["products"] == 25
    assert entries["twn"]["packing"] == "not: activations: real-valued (option activation: sign packs)"
    assert entries["bireal"]["weights"] == {
        "value": "mean_o|x| sign(x)",
        "gradient": "1[|u| < 1]; the scale a constant",
    }


def test_one_scheme_is_shown_with_its_options_and_drawn(capsys: Any, tmp_path: Path) -> None:
    said = bnas(capsys, "schemes", "dorefa", "--plot", tmp_path / "d.png")
    assert said.code == 0
    assert "option gradient_bits: 0" in said.out
    assert "option stochastic: none" in said.out
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
    said = bnas(capsys, "schemes", "dorefanet")
    assert said.code == 2
    assert "Did you mean 'dorefa'?" in said.err
    assert "a picture ends in .png, .svg, .pdf" in bnas(capsys, "schemes", "--plot", tmp_path / "d.gif").err


def test_a_picture_has_one_frame_for_each_scheme() -> None:
    from experiments.scheme_command import draw

    for count in (1, 4, 5):
        shown = [axes.get_title() for axes in draw(list(SCHEMES)[:count]).axes if axes.get_visible()]
        assert shown == list(SCHEMES)[:count]


def test_a_curve_is_the_value_and_the_gradient_of_each_point() -> None:
    from bnas.binary import make_scheme
    from experiments.scheme_command import curves

    x = torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]])
    value, gradient = curves(make_scheme("bnn").activation(1), x)
    assert value == [-1, -1, 1, 1, 1]
    assert gradient == [0, 1, 1, 1, 0]
    assert curves(make_scheme("bireal").activation(1), x)[1] == [0, 1, 2, 1, 0]


@pytest.fixture(scope="module")
def other(chain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second network of the same job, of another seed."""
    job = tiny_chain.make_job({**tiny_chain.content(chain.images), "seed": 5})
    genotype = api.load_genotype(chain.run / "genotype.json")
    return api.retrain(job, genotype, tmp_path_factory.mktemp("other")).files.folder


def test_an_ensemble_is_the_mean_of_the_probabilities(chain: Any, other: Path, capsys: Any, tmp_path: Path) -> None:
    said = bnas(capsys, "evaluate", chain.retraining, other, "--ensemble", "--json", tmp_path / "e.json")
    assert said.code == 0
    arrays = np.load(chain.images)
    images, labels = torch.from_numpy(arrays["test_images"]), torch.from_numpy(arrays["test_labels"])
    mean = torch.zeros(24, 3)
    for folder in (chain.retraining, other):
        trained = load_trained(find_trained(folder))
        with torch.no_grad():
            mean += trained.model(trained.card.normalization.apply(images)).softmax(dim=1) / 2
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["accuracy"] == pytest.approx(float((mean.argmax(dim=1) == labels).double().mean()))
    assert found["network"] == "2 together (trained, torch; trained, torch)"
    assert deployment.evaluate_ensemble([chain.packed, other]).images == 24


def test_what_cannot_be_an_ensemble_has_a_message(chain: Any, other: Path, capsys: Any, tmp_path: Path) -> None:
    assert "add --ensemble, or name one" in bnas(capsys, "evaluate", chain.packed, other).err
    assert "name two or more" in bnas(capsys, "evaluate", chain.packed, "--ensemble").err
    images = tiny_chain.write_images(tmp_path / "x.npz", ("right", "middle", "left"))
    genotype = api.load_genotype(chain.run / "genotype.json")
    strange = api.retrain(tiny_chain.job(images), genotype, tmp_path / "run").files.folder
    said = bnas(capsys, "evaluate", chain.packed, strange, "--ensemble")
    assert f"{strange} knows other classes than {chain.packed}, or in another order" in said.err


def test_a_network_starts_from_one_of_another_data_set_with_a_new_classifier(
    chain: Any, capsys: Any, tmp_path: Path
) -> None:
    images = tiny_chain.write_images(tmp_path / "two.npz", ("left", "right"))
    job = tiny_chain.content(images)
    # So small a rate that the weights are still those of the start.
    job["retrain"]["recipe"] |= {"learning_rate": 1e-9}
    file = tiny_chain.write_job(tmp_path / "job.yaml", job)
    line = ("retrain", chain.run / "genotype.json", "--job", file, "--run", tmp_path / "run")
    said = bnas(capsys, *line, "--init-from", chain.retraining)
    assert said.code == 0
    assert "left at its own start: classifier.weight, classifier.bias" in said.out.replace("\n", " ")
    given = load_trained(find_trained(chain.retraining)).model.state_dict()
    found = load_trained(find_trained(tmp_path / "run")).model.state_dict()
    assert found["classifier.weight"].shape[0] == 2
    name = next(name for name in given if name.endswith("conv.weight"))
    torch.testing.assert_close(found[name], given[name], rtol=0, atol=1e-6)


def test_a_run_does_not_go_on_from_other_weights_than_it_began_with(chain: Any, capsys: Any, tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    shutil.copy(chain.retraining / "checkpoint.pt", start)
    shutil.copy(chain.retraining / "job.yaml", tmp_path / "job.yaml")
    line = ("retrain", chain.run / "genotype.json", "--job", chain.run / "job.yaml", "--run", tmp_path / "run")
    began = bnas(capsys, *line, "--init-from", start)
    assert began.code == 0
    moved = tmp_path / "moved.pt"
    start.rename(moved)
    assert bnas(capsys, *line, "--init-from", moved).code == 0
    before = file_digest(moved)
    content = checkpoint.load(moved, kind="retrain")
    next(iter(content["state"]["trainer"]["model"].values())).add_(1)
    checkpoint.save(moved, content, kind="retrain")
    said = bnas(capsys, *line, "--init-from", moved)
    assert said.code == 2
    text = " ".join(said.err.split())
    assert f'retrain.init_from.weights: was "{before}", now "{file_digest(moved)}" (digests of {moved}, which' in text
    assert "To go on, give the old values." in text
    assert "--fresh" in text


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_starts_that_cannot_be_have_messages(chain: Any, capsys: Any, tmp_path: Path) -> None:
    line = ("retrain", chain.run, "--id", "start", "--init-from")
    assert (
        f"retrain.init_from: there is no file or folder {tmp_path / 'no'}" in bnas(capsys, *line, tmp_path / "no").err
    )
    said = bnas(capsys, *line, chain.retraining, "--init-from-search")
    assert "retrain.init_from: a network starts from one place" in said.err


def test_stages_of_a_list_run_one_after_the_other(chain: Any, capsys: Any, tmp_path: Path) -> None:
    values = tiny_chain.content(chain.images)
    values["retrain"] |= {
        "stage_list": [{"epochs": 1, "scheme": "real"}, {"epochs": 1, "binary_share": 0.5}, {"epochs": 1}]
    }
    values["retrain"]["recipe"] |= {"epochs": 3}
    file = tiny_chain.write_job(tmp_path / "job.yaml", values)
    said = bnas(capsys, "retrain", chain.run / "genotype.json", "--job", file, "--run", tmp_path / "run", "--id", "a")
    assert said.code == 0
    history = [json.loads(line) for line in (tmp_path / "run/retrain-a/history.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in history] == ["1: real", "2: bats", "3: bats"]
    assert bnas(capsys, "export", tmp_path / "run/retrain-a").code == 0
    assert bnas(capsys, "verify", tmp_path / "run/retrain-a/model.bnas").code == 0


def test_a_layerwise_retraining_that_was_stopped_midway_can_be_evaluated(chain: Any, tmp_path: Path) -> None:
    values = tiny_chain.content(chain.images)
    values["retrain"] |= {"stages": "layerwise"}
    values["retrain"]["recipe"] |= {"epochs": 4}
    done = api.retrain(
        tiny_chain.make_job(values), api.load_genotype(chain.run / "genotype.json"), tmp_path / "run", max_minutes=1e-9
    )
    assert not done.finished
    assert deployment.evaluate(done.files.folder).images == 24


@pytest.mark.parametrize(
    ("scheme", "what"),
    [
        ("horq", "its activations do not pack: their scales are computed from each input"),
        ("twn", "its activations are real-valued"),
    ],
)
def test_what_does_not_pack_is_refused_by_layer_name_with_the_reason(
    chain: Any, capsys: Any, tmp_path: Path, scheme: str, what: str
) -> None:
    values = tiny_chain.content(chain.images)
    values["retrain"] |= {"scheme": scheme}
    job = tiny_chain.make_job(values)
    done = api.retrain(job, api.load_genotype(chain.run / "genotype.json"), tmp_path / "run")
    said = bnas(capsys, "export", done.files.folder)
    assert said.code == 2
    assert "layer '" in said.err
    assert what in said.err.replace("\n", " ")
