"""The space `group_mobilenet`: costs, layout, real layers, its graph, and every form trained and packed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnas import seeding
from bnas.cost import measure
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.layers import BinaryConv2d
from bnas.layers.activation import ACTIVATIONS, RPReLU
from bnas.layers.blocks import ConvNorm
from bnas.space import NetSpec
from experiments.job_files import load_job
from experiments.plot import draw_genotype
from search_spaces import group_mobilenet, make_space
from search_spaces.group_layers import (
    Place,
    places,
)
from search_spaces.group_mobilenet import MOBILENET, GroupMobileNet
from tests.spaces.group_mobilenets import FORMS, SMALL, drawn, every, images, spec_of


@pytest.mark.parametrize(
    ("module", "pick", "real", "binary"),
    [
        ("M1", 0, 140.3, 4688.4),
        ("M2", 0, 140.3, 4688.4),
        ("M3", 0, 11.9, 4816.9),
        ("M1", -1, 140.3, 598.9),
        ("M2", -1, 24.7, 598.9),
        ("M3", -1, 11.9, 727.4),
    ],
)
def test_costs_of_the_imagenet_form_are_those_of_the_docstring(
    module: str, pick: int, real: float, binary: float
) -> None:
    space = GroupMobileNet()
    spec = NetSpec((3, 224, 224), 1000, "bireal", {}, {"stem": "imagenet", "module": module})
    with torch.device("meta"):
        cost = measure(space.build(every(space, pick), spec), spec.input_shape)
    assert cost.macs_real / 1e6 == pytest.approx(real, abs=0.05)
    assert cost.macs_binary / 1e6 == pytest.approx(binary, abs=0.05)
    assert f"{cost.macs_effective / 1e6:.1f}" in str(group_mobilenet.__doc__)


def test_pointwise_convolutions_cost_what_those_of_mobilenet_do() -> None:
    """Howard et al. 2017, table 1, in MACs: 1x1 convolutions of 32 x 64 at 112 x 112 up to 1024 x 1024 at 7 x 7."""
    space = GroupMobileNet()
    with torch.device("meta"):
        spec = NetSpec((3, 224, 224), 1000, "bireal", {}, {"stem": "imagenet"})
        cost = measure(space.build(every(space, 0), spec), spec.input_shape)
    found = sum(layer.macs_binary for layer in cost.layers if "pointwise.conv" in layer.name)
    rows = [(32, 64, 112), (64, 128, 56), (128, 128, 56), (128, 256, 28), (256, 256, 28), (256, 512, 14)]
    rows += [(512, 512, 14)] * 5 + [(512, 1024, 7), (1024, 1024, 7)]
    assert found == sum(a * b * side * side for a, b, side in rows)


@pytest.mark.parametrize(("stem", "image", "last"), [("imagenet", 224, 7), ("cifar", 32, 4), ("cifar", 27, 4)])
def test_maps_end_at_the_stated_size(stem: str, image: int, last: int) -> None:
    space = GroupMobileNet(channels=8)
    spec = NetSpec((3, image, image), 10, "bnn", {}, {"stem": stem})
    with torch.device("meta"):
        layers = measure(space.build(every(space, 0), spec), spec.input_shape).layers
    assert [layer.output_shape for layer in layers if layer.name == "body.12.pointwise.conv"] == [(256, last, last)]


def test_layers_halve_the_map_where_the_channels_change_but_for_the_first_ones() -> None:
    assert [p.stride for p in places(MOBILENET, "imagenet")] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    assert [p.stride for p in places(MOBILENET, "cifar")] == [1, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    assert places((1, 3), "imagenet") == [Place(1, 1, 1), Place(1, 3, 1)]


def test_a_layer_chooses_among_the_numbers_that_leave_enough_channels() -> None:
    space = make_space("group_mobilenet", {"channels": 16})
    choices = {d.name: d.choices for d in space.decisions}
    assert len(choices) == 13
    assert choices["layer_00.groups"] == ("1", "2")
    assert choices["layer_01.groups"] == ("1", "2", "4")
    assert choices["layer_05.groups"] == ("1", "2", "4", "8", "16")
    assert choices["layer_12.groups"] == ("1", "2", "4", "8", "16", "32")
    assert GroupMobileNet(channels=24, groups=(1, 16)).numbers[:3] == [(1,), (1,), (1,)]
    assert GroupMobileNet(channels=24, groups=(3, 6), group_channels=8).numbers[:2] == [(3,), (3, 6)]


@pytest.mark.parametrize(
    ("module", "real"), [("M1", {(4, 8): 1, (8, 16): 1}), ("M2", {(4, 8): 4, (8, 16): 2}), ("M3", {})]
)
def test_real_layers_are_those_that_the_module_states(module: str, real: dict[tuple[int, int], int]) -> None:
    """And the stem. The last layer's 1x1 keeps the channels, so it is binary under every module."""
    space = GroupMobileNet(**SMALL)
    genotype = space.genotype({"layer_00.groups": "4", "layer_01.groups": "2", "layer_02.groups": "1"})
    network = space.build(genotype, NetSpec((3, 8, 8), 3, "bireal", {}, {"module": module, "stem": "imagenet"}))
    stem, *others = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert stem.in_channels == 3
    assert {(m.in_channels, m.out_channels): m.groups for m in others} == real
    binary = {name: m.groups for name, m in network.named_modules() if isinstance(m, BinaryConv2d)}
    assert [binary[f"body.{i}.spatial.conv"] for i in range(3)] == [4, 2, 1]
    assert binary["body.2.pointwise.conv"] == 1
    assert len(binary) == 6 - len(real)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_follows_every_norm_behind_a_searched_convolution(activation: str) -> None:
    wanted = {
        "none": nn.Identity,
        "relu": nn.ReLU,
        "prelu": nn.PReLU,
        "rprelu": RPReLU,
        "hardtanh": nn.Hardtanh,
    }[activation]
    size = {"module": "M1", "stem": "imagenet", "activation": activation}
    space = GroupMobileNet(**SMALL)
    network = space.build(drawn(space, 0), NetSpec((3, 8, 8), 3, "bireal", {}, size))
    after = [m for name, m in network.named_modules() if name.endswith(".after")]
    assert len(after) == 6
    assert all(isinstance(m[0], nn.BatchNorm2d) and isinstance(m[1].body, wanted) for m in after)  # type: ignore[index]
    assert isinstance(network.stem, ConvNorm)
    assert len(network.stem) == 2


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_exports_and_verifies(form: str) -> None:
    space, spec = GroupMobileNet(**SMALL), spec_of(form, "bireal")
    x = images(form, 8)
    with seeding.borrowed(0, "init"):
        network = space.build(drawn(space, 5), spec)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(x), torch.arange(8) % 3).backward()
        optimizer.step()
    c = spec.input_shape[0]
    packed = export(
        network.eval(), input_shape=spec.input_shape, classes=["a", "b", "c"], mean=[0.5] * c, std=[0.5] * c
    )
    report = verify(network, PackedNetwork(packed), x)
    assert report.ok, report.first_difference
    assert len(report.layers) == 2 * sum(isinstance(m, BinaryConv2d) for m in network.modules())
    assert report.max_logit_error < 1e-3


def test_every_group_number_that_is_offered_packs() -> None:
    """32 groups of 8 channels are bits of four groups to a word."""
    space = GroupMobileNet(layers=(32, 32), channels=8)
    assert space.numbers == [(1,), (1, 2, 4, 8, 16, 32)]
    spec = NetSpec((1, 4, 4), 3, "bats", {}, {})
    with seeding.borrowed(0, "init"):
        network = space.build(every(space, -1), spec)
    x = torch.randn(4, 1, 4, 4)
    network(x)
    packed = export(network.eval(), input_shape=(1, 4, 4), classes=["a", "b", "c"], mean=[0.5], std=[0.5])
    report = verify(network, PackedNetwork(packed), x)
    assert report.ok, report.first_difference


def test_facts_graph_and_picture() -> None:
    space = make_space("group_mobilenet", {"channels": 16})
    genotype = every(space, -1)
    assert space.facts(genotype) == {"depth": 26.0, "parameter_free": 0.0}
    (graph,) = space.graphs(genotype).values()  # type: ignore[attr-defined]
    path = ["image", "stem", *(f"layer_{i:02d}" for i in range(13)), "classes"]
    assert list(graph.edges) == list(pairwise(path))
    assert graph.edges["stem", "layer_00"]["choice"] == "conv_3x3_2_groups"
    assert graph.edges["layer_11", "layer_12"]["choice"] == "conv_3x3_32_groups"
    (plain,) = space.graphs(every(space, 0)).values()  # type: ignore[attr-defined, arg-type]
    assert plain.edges["stem", "layer_00"]["choice"] == "conv_3x3_1_group"
    assert draw_genotype(space, genotype).get_size_inches()[0] > 1


def test_the_shipped_job_makes_its_networks() -> None:
    job = load_job("cifar10_group_mobilenet")
    space = job.make_space()
    assert space.name == "group_mobilenet"
    with torch.device("meta"):
        for part in (job.search, job.retrain):
            spec = job.spec(part, (3, 32, 32), 10)
            assert spec.scheme == "bireal"
            space.build(space.random(np.random.default_rng(0)), spec)
