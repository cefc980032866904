"""The published genotypes that ship: as their sources have them, of their spaces, of the published sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnas import seeding
from bnas.binary import make_scheme
from bnas.cost import measure
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.space import NetSpec, soft_gates
from search_spaces import make_space, space_of
from search_spaces.bnas_gist import CONFIGURATIONS
from search_spaces.published import FOLDER, PUBLISHED, about, published

# space, its arguments, then normal and reduction cell: nodes are parted by "|", an edge is operation:source.
CELLS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "darts_v1": (
        "darts",
        {"nodes": 4},
        "sep_conv_3x3:1 sep_conv_3x3:0 | skip_connect:0 sep_conv_3x3:1 | skip_connect:0 sep_conv_3x3:1 |"
        " sep_conv_3x3:0 skip_connect:2",
        "max_pool_3x3:0 max_pool_3x3:1 | skip_connect:2 max_pool_3x3:0 | max_pool_3x3:0 skip_connect:2 |"
        " skip_connect:2 avg_pool_3x3:0",
    ),
    "darts_v2": (
        "darts",
        {"nodes": 4},
        "sep_conv_3x3:0 sep_conv_3x3:1 | sep_conv_3x3:0 sep_conv_3x3:1 | sep_conv_3x3:1 skip_connect:0 |"
        " skip_connect:0 dil_conv_3x3:2",
        "max_pool_3x3:0 max_pool_3x3:1 | skip_connect:2 max_pool_3x3:1 | max_pool_3x3:0 skip_connect:2 |"
        " skip_connect:2 max_pool_3x3:1",
    ),
    "pcdarts_cifar": (
        "darts",
        {"nodes": 4},
        "sep_conv_3x3:1 skip_connect:0 | sep_conv_3x3:0 dil_conv_3x3:1 | sep_conv_5x5:0 sep_conv_3x3:1 |"
        " avg_pool_3x3:0 dil_conv_3x3:1",
        "sep_conv_5x5:1 max_pool_3x3:0 | sep_conv_5x5:1 sep_conv_5x5:2 | sep_conv_3x3:0 sep_conv_3x3:3 |"
        " sep_conv_3x3:1 sep_conv_3x3:2",
    ),
    "pcdarts_imagenet": (
        "darts",
        {"nodes": 4},
        "skip_connect:1 sep_conv_3x3:0 | sep_conv_3x3:0 skip_connect:1 | sep_conv_3x3:1 sep_conv_3x3:3 |"
        " sep_conv_3x3:1 dil_conv_5x5:4",
        "sep_conv_3x3:0 skip_connect:1 | dil_conv_5x5:2 max_pool_3x3:1 | sep_conv_3x3:2 sep_conv_3x3:1 |"
        " sep_conv_5x5:0 sep_conv_3x3:3",
    ),
    "bnas_a": (
        "bnas_gist",
        {"nodes": 4},
        "zeroise:1 dil_conv_3x3:0 | conv_3x3:1 zeroise:2 | zeroise:2 zeroise:3 | zeroise:3 zeroise:4",
        "max_pool_3x3:0 zeroise:1 | max_pool_3x3:0 zeroise:2 | zeroise:3 zeroise:2 | zeroise:3 zeroise:4",
    ),
    "bnas_imagenet": (
        "bnas_gist",
        {"nodes": 4},
        "conv_3x3:1 dil_conv_3x3:0 | conv_3x3:1 conv_3x3:2 | conv_3x3:2 dil_conv_3x3:1 | dil_conv_3x3:1 conv_3x3:0",
        "max_pool_3x3:0 max_pool_3x3:1 | max_pool_3x3:0 conv_3x3:2 | max_pool_3x3:0 dil_conv_3x3:3 |"
        " max_pool_3x3:0 dil_conv_3x3:4",
    ),
    "ebnas": (
        "bnas_gist",
        {"nodes": 4, "identity": True},
        "conv_3x3:0 max_pool_3x3:1 | max_pool_3x3:0 max_pool_3x3:1 | conv_3x3:1 conv_5x5:0 |"
        " max_pool_3x3:0 dil_conv_3x3:1",
        "conv_5x5:0 conv_5x5:1 | conv_3x3:1 dil_conv_5x5:2 | dil_conv_5x5:2 conv_3x3:1 | max_pool_3x3:0 conv_3x3:1",
    ),
    "dcp_nas_l": (
        "cp_nas",
        {"nodes": 4},
        "sep_conv_5x5:1 max_pool_3x3:0 | dil_conv_3x3:2 skip_connect:0 | sep_conv_3x3:3 avg_pool_3x3:1 |"
        " dil_conv_3x3:4 avg_pool_3x3:3",
        "max_pool_3x3:0 sep_conv_3x3:1 | dil_conv_3x3:1 sep_conv_3x3:0 | max_pool_3x3:1 dil_conv_5x5:2 |"
        " dil_conv_5x5:2 sep_conv_5x5:1",
    ),
}
# network, then one ratio for each width: VGG's six layers; ResNet-18's four stages, then its eight blocks.
CODES = {
    "vgg_auto_a": ("vgg_small", [0.5, 2, 1, 1, 1, 0.5]),
    "vgg_auto_b": ("vgg_small", [2, 2, 4, 2, 4, 0.5]),
    "res18_auto_a": ("resnet18", [2, 4, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4]),
    "res18_auto_b": ("resnet18", [3, 4, 4, 3, 1, 4, 4, 4, 3, 3, 3, 3]),
    "resnet20": ("resnet20", [1] * 12),
}
WIDTHS = {
    "vgg_small": [f"conv_{i}" for i in range(6)],
    "resnet18": [*(f"stage_{s}" for s in range(4)), *(f"block_{s}_{b}" for s in range(4) for b in range(2))],
    "resnet20": [*(f"stage_{s}" for s in range(3)), *(f"block_{s}_{b}" for s in range(3) for b in range(3))],
}
SHAPES = {"CIFAR-10": ((3, 32, 32), 10), "ImageNet": ((3, 224, 224), 1000)}
# The counts of E to H are those of test_published_cells.py.
NETWORKS = [(name, n) for name in PUBLISHED for n in about(name)["networks"] if n not in ("E", "F", "G", "H")]


def from_cells(space: str, args: dict[str, Any], *cells: str) -> Genotype:
    choices = {}
    for kind, text in zip(("normal", "reduction"), cells, strict=True):
        for target, pair in enumerate(text.split("|"), 2):
            for edge in pair.split():
                op, source = edge.split(":")
                choices[f"{kind}.edge_{source}_{target}"] = op
    return Genotype.make(space, args, choices)


def test_the_catalogue_is_the_folder() -> None:
    assert sorted(PUBLISHED.values()) == sorted(path.name for path in FOLDER.iterdir())
    assert set(PUBLISHED) == set(CELLS) | set(CODES)
    assert all(file == f"{name}.json" for name, file in PUBLISHED.items())


@pytest.mark.parametrize("name", CELLS)
def test_published_cells(name: str) -> None:
    assert published(name) == from_cells(*CELLS[name])
    assert len(published(name).choices) == 16


@pytest.mark.parametrize("name", CODES)
def test_published_codes(name: str) -> None:
    network, code = CODES[name]
    found = published(name)
    assert (found.space, dict(found.space_args)["network"]) == ("widths", network)
    assert dict(found.choices) == {width: f"x{ratio:g}" for width, ratio in zip(WIDTHS[network], code, strict=True)}


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_every_published_network_is_built_and_has_its_parameters(name: str, network: str) -> None:
    known = about(name)["networks"][network]
    shape, classes = SHAPES[known["dataset"]]
    make_scheme(known.get("scheme", "xnor"), known.get("scheme_options"))
    spec = NetSpec(shape, classes, known.get("scheme", "xnor"), known.get("scheme_options", {}), known["size"])
    genotype = published(name)
    with torch.device("meta"):
        built = space_of(genotype).build(genotype, spec)
    assert built.classifier.out_features == classes
    if "parameters_millions" in known:
        found = sum(p.numel() for part, p in built.named_parameters() if not part.startswith("auxiliary")) / 1e6
        digits = len(str(known["parameters_millions"]).split(".")[1])
        assert round(found, digits) == known["parameters_millions"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_says_where_it_comes_from(name: str) -> None:
    said = about(name)
    released = ["repository", "file"] if "repository" in said else []
    assert list(said) == ["what", "paper", *released, "called", "networks"]
    assert all(isinstance(said[key], str) and said[key] for key in said if key != "networks")
    assert said.get("repository", "https://github.com/").startswith("https://github.com/")
    allowed = {"dataset", "scheme", "scheme_options", "size", "parameters_millions", "accuracy_percent"}
    assert said["networks"]
    for known in said["networks"].values():
        assert {"dataset", "size"} <= set(known) <= allowed
        assert 50 < known.get("accuracy_percent", 60) < 100


def test_the_sizes_of_bnas_are_its_configurations() -> None:
    both = {**about("bnas_a")["networks"], **about("bnas_imagenet")["networks"]}
    searched = {"real_preprocess": False, "pool_norm": False}
    assert {name: known["size"] for name, known in both.items()} == {
        name: {**size, **searched} for name, size in CONFIGURATIONS.items()
    }
    millions = {"A": 5.578, "C": 42.361, "D": 28.408, "E": 31.998, "F": 39.781, "G": 37.343, "H": 160.017}
    assert {name: known["parameters_millions"] for name, known in both.items()} == millions


def test_a_name_that_is_not_there() -> None:
    for read in (published, about):
        with pytest.raises(
            BnasError, match=r"no published genotype named 'bnas_b'; there are: darts_v1, .*Did you mean"
        ):
            read("bnas_b")


def test_a_file_that_is_no_longer_of_its_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FOLDER / "bnas_a.json").read_text().replace('"zeroise"', '"zeroed"')
    (tmp_path / "bnas_a.json").write_text(text)
    monkeypatch.setattr("search_spaces.published.FOLDER", tmp_path)
    with pytest.raises(BnasError, match=r"no choice of decision normal.edge_1_2 named 'zeroed'"):
        published("bnas_a")


SMALL = {"cells": 3, "channels": 4, "real_preprocess": False}


def test_identity_is_an_option_that_leaves_the_published_space_as_it_is() -> None:
    plain, more = make_space("bnas_gist"), make_space("bnas_gist", {"identity": True})
    assert plain.args == {"nodes": 4}
    assert more.args == {"nodes": 4, "identity": True}
    assert plain.decisions[0].choices == more.decisions[0].choices[:-1]
    assert more.decisions[0].choices[-1] == "identity"
    drawn = more.random(np.random.default_rng(0))
    assert space_of(drawn).args == more.args
    with pytest.raises(BnasError, match="this space was made with"):
        plain.check(drawn)
    assert make_space("bnas_gist").decisions == plain.decisions


def test_identity_passes_a_node_on_and_is_two_binary_convolutions_where_the_map_is_halved() -> None:
    space = make_space("bnas_gist", {"nodes": 1, "identity": True})
    genotype = space.genotype(
        {f"{kind}.edge_{s}_2": op for kind in ("normal", "reduction") for s, op in enumerate(("identity", "zeroise"))}
    )
    spec = NetSpec((2, 8, 8), 5, "bnn", {}, {**SMALL, "skips": "none"})
    with seeding.borrowed(0, "net"):
        network = space.build(genotype, spec).eval()
        x = torch.randn(2, 12, 8, 8)
    normal, reduction = network.cells[0], network.cells[1]
    assert torch.equal(normal(x, x), normal.preprocess[0](x))
    halved = reduction(x, normal(x, x))
    assert halved.shape == (2, 8, 4, 4)
    before = reduction.preprocess[0](x)
    op = reduction.edges["edge_0_2"]["identity"]
    signs = op.norm(before)
    even, odd = op.even.weight.sign(), op.odd.weight.sign()
    by_hand = torch.cat(
        [
            torch.nn.functional.conv2d(signs, even, stride=2),
            torch.nn.functional.conv2d(signs[:, :, 1:, 1:], odd, stride=2),
        ],
        dim=1,
    )
    torch.testing.assert_close(halved, op.after(by_hand), rtol=0, atol=1e-5)
    assert [type(layer).__name__ for layer in op.after] == ["BatchNorm2d", "Activation"]
    assert space.facts(genotype)["parameter_free"] == 1


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_identity_in_the_super_network_is_that_of_the_built_one_and_is_packed(training: bool) -> None:
    space = make_space("bnas_gist", {"nodes": 2, "identity": True})
    genotype = space.genotype(
        {
            f"{kind}.edge_{s}_{t}": op
            for kind in ("normal", "reduction")
            for s, t, op in ((0, 2, "identity"), (1, 2, "conv_3x3"), (0, 3, "identity"), (2, 3, "identity"))
        }
    )
    spec = NetSpec((2, 8, 8), 5, "bats", {}, SMALL)
    with seeding.borrowed(0, "net"):
        net = space.supernet(spec).train()
        x = torch.randn(6, 2, 8, 8)
    net(x, space.gates(genotype))
    built = space.build(genotype, spec)
    built.load_state_dict(net.state_for(genotype))
    net.train(training)
    built.train(training)
    with torch.no_grad():
        torch.testing.assert_close(built(x), net(x, space.gates(genotype)), rtol=0, atol=0)
    real, binary = net.expected_cost(space.gates(genotype))
    cost = measure(built, spec.input_shape, as_deployed=True)
    assert (float(real), float(binary)) == (cost.macs_real, cost.macs_binary)
    weights = {d.name: torch.full((len(d.choices),), 0.1, requires_grad=True) for d in space.decisions}
    net.train()(x, soft_gates(space.decisions, weights)).square().sum().backward()
    position = space.decisions[0].choices.index("identity")
    assert all(w.grad is not None and w.grad[position] != 0 for w in weights.values())
    packed = export(built.eval(), input_shape=spec.input_shape, classes=list("abcde"), mean=[0.5] * 2, std=[0.5] * 2)
    assert verify(built, PackedNetwork(packed), x).ok
