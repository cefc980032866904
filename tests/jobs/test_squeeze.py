"""Widening and squeezing: the selector against its vector, widths from slopes, the command."""

import json

import pytest
import torch

from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.space import NetSpec
from experiments import api
from experiments.job_files import make_job
from search_spaces import make_space
from search_spaces.squeeze import kept_channels, squeezed
from tests.core.binary_vectors import VECTORS
from tests.jobs.tiny_chain import bnas

SPEC = NetSpec((1, 8, 8), 3, "bnn", {}, {"channels": 4})


def test_kept_channels():
    given = VECTORS["WnS"]
    assert kept_channels(torch.tensor(given["bn_gamma"]), given["keep_threshold"]) == given["kept"]


def test_widths_are_the_smallest_that_hold_what_counts():
    space = make_space("widths", {"network": "resnet20", "ratios": [0.5, 1, 2]})
    wide = space.genotype({decision.name: "x2" for decision in space.decisions})
    network = space.build(wide, SPEC)
    slopes = {
        name: p for name, p in network.named_parameters() if "norm" in name or ".after.1" in name or "stem.1" in name
    }
    with torch.no_grad():
        for parameter in slopes.values():
            parameter.fill_(0.0)
        network.body[0].second.norm.norm.weight[:3] = -0.5  # block_0_0: 3 of 8
        network.body[1].first.after[1].weight[:2] = 0.5  # block_0_1: 2 of 8
        network.stem[1].weight[:1] = 0.5  # stage_0: 3 of 8, in three norms
        network.body[2].second.after[1].weight[1:3] = 0.5
        network.body[2].first.norm.norm.weight[0] = 0.5
        network.body[8].second.after[1].weight.fill_(0.2)  # stage_2: all
    found, kept = squeezed(space, wide, SPEC, network, 0.1)
    assert {name: kept[name] for name in ("block_0_0", "block_0_1", "stage_0", "stage_2", "block_2_2")} == {
        "block_0_0": (3, 8),
        "block_0_1": (2, 8),
        "stage_0": (3, 8),
        "stage_2": (32, 32),
        "block_2_2": (0, 32),
    }
    chosen = dict(found.choices)
    assert (chosen["block_0_0"], chosen["block_0_1"], chosen["stage_0"]) == ("x1", "x0.5", "x1")
    assert (chosen["stage_2"], chosen["block_2_2"]) == ("x2", "x0.5")


def test_other_spaces_have_no_widths():
    space = make_space("fixed")
    genotype = space.genotype({"network": "resnet20"})
    with pytest.raises(BnasError, match="space fixed has no widths to squeeze"):
        squeezed(space, genotype, SPEC, torch.nn.Identity(), 0.1)


def test_a_network_is_squeezed_and_trained_anew(capsys, tmp_path):
    args = {"network": "vgg_small", "ratios": [0.5, 1, 2]}
    recipe = {"epochs": 1, "batch_size": 512, "learning_rate": 0.05}
    retrain = {"scheme": "bnn", "size": {"channels": 4}, "recipe": recipe, "losses": {"slimming": {"weight": 1.0}}}
    job = make_job({"space": {"name": "widths", "args": args}, "retrain": retrain})
    space = job.make_space()
    wide = space.genotype({decision.name: "x2" for decision in space.decisions})
    folder = api.retrain(job, wide, tmp_path).files.folder
    said = bnas(capsys, "squeeze", folder, "--threshold", 10, "--json", tmp_path / "s.json")
    assert said.code == 0, said.err
    found = Genotype.from_json((folder / "squeezed.json").read_text())
    assert set(dict(found.choices).values()) == {"x0.5"}
    assert json.loads((tmp_path / "s.json").read_text())["kept"]["conv_0"] == [0, 8]
    assert f"next: bnas retrain {folder / 'squeezed.json'} --job " in said.out
    assert api.retrain(job, found, tmp_path / "narrow").finished
    assert "threshold is -1" in bnas(capsys, "squeeze", folder, "--threshold", "-1").err
