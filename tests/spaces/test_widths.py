"""The space `widths`: published codes and costs, units and shortcuts, sizes that do not fit."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnas import seeding
from bnas.binary import make_scheme
from bnas.cost import measure
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.layers import BinaryConv2d
from bnas.layers.activation import ACTIVATIONS
from bnas.layers.residual import BinaryUnit, PooledProjection, ResidualBlock
from bnas.space import NetSpec
from experiments.job_files import load_job
from experiments.plot import draw_genotype
from search_spaces import make_space, space_of
from search_spaces.widths import Widths
from tests.spaces.width_networks import FORMS, drawn, images, spec_of

RES18_AUTO_A = [2, 4, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4]

RES18_AUTO_B = [3, 4, 4, 3, 1, 4, 4, 4, 3, 3, 3, 3]

VGG_AUTO_A = [0.5, 2, 1, 1, 1, 0.5]

VGG_AUTO_B = [2, 2, 4, 2, 4, 0.5]


def cost_of(network: str, code: Sequence[float], **size: object) -> float:
    """Real + binary / 64 MACs in millions, in the form in which the code was published."""
    space = Widths(network)
    shape, classes = ((3, 32, 32), 10) if network == "vgg_small" else ((3, 224, 224), 1000)
    with torch.device("meta"):
        built = space.build(space.coded(code), NetSpec(shape, classes, "bnn", {}, size))
    return measure(built, shape).macs_effective / 1e6


@pytest.mark.parametrize(
    ("code", "counted", "printed"),
    [
        ([1] * 12, 145.0, 149),
        ([2] * 12, 343.0, 352),
        ([3] * 12, 594.0, 607),
        ([4] * 12, 898.0, 915),
        (RES18_AUTO_A, 484.7, 495),
        (RES18_AUTO_B, 646.8, 660),
    ],
)
def test_published_resnet18_codes_have_the_published_costs(code: list[float], counted: float, printed: float) -> None:
    """The table of the paper counts norms and additions too, within 3 % of the convolutions alone."""
    found = cost_of("resnet18", code, stem="imagenet")
    assert found == pytest.approx(counted, abs=0.1)
    assert found == pytest.approx(printed, rel=0.03)


@pytest.mark.parametrize(("code", "counted"), [([1] * 6, 13.06), (VGG_AUTO_A, 11.25), (VGG_AUTO_B, 59.02)])
def test_published_vgg_codes_have_the_published_costs(code: list[float], counted: float) -> None:
    assert cost_of("vgg_small", code) == pytest.approx(counted, abs=0.005)


def test_a_code_names_stages_first_and_then_the_blocks_of_each() -> None:
    assert dict(Widths("resnet18").coded(RES18_AUTO_B).choices) == {
        "stage_0": "x3",
        "stage_1": "x4",
        "stage_2": "x4",
        "stage_3": "x3",
        "block_0_0": "x1",
        **{f"block_{stage}_{block}": "x4" for stage, block in ((0, 1), (1, 0), (1, 1))},
        **{f"block_{stage}_{block}": "x3" for stage, block in ((2, 0), (2, 1), (3, 0), (3, 1))},
    }
    assert [d.name for d in Widths("resnet20").decisions][:4] == ["stage_0", "stage_1", "stage_2", "block_0_0"]
    assert [len(Widths(network).decisions) for network in ("vgg_small", "resnet18", "resnet20")] == [6, 12, 12]
    with pytest.raises(BnasError, match=r"a code for vgg_small has 6 ratios, got 3: \[1, 2, 4\]"):
        Widths("vgg_small").coded([1, 2, 4])
    with pytest.raises(BnasError, match=r"no choice of decision conv_0 named 'x5'; there are: x0.25, x0.5, x1"):
        Widths("vgg_small").coded([5, 1, 1, 1, 1, 1])


def test_uniform_resnet20_is_the_usual_one() -> None:
    """Convolutions counted by hand: 3 x 16 x 9; 6 of 16 x 16; 16 x 32 and 5 of 32 x 32; 32 x 64 and 5 of 64 x 64."""
    space = Widths("resnet20")
    size = {"block": "bireal", "downsample": "real"}
    network = space.build(space.coded([1] * 12), NetSpec((3, 32, 32), 10, "bireal", {}, size))
    binary = sum(m.weight.numel() for m in network.modules() if isinstance(m, BinaryConv2d))
    real = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert binary == 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    assert real == 9 * 3 * 16 + 16 * 32 + 32 * 64
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(0.27e6, rel=0.02)
    assert not any(isinstance(m, nn.PReLU | nn.ReLU | nn.Hardtanh) for m in network.modules())


@pytest.mark.parametrize(
    ("block", "inner", "carries_first"), [("basic", 4, False), ("bireal", 4, True), ("bireal", 6, False)]
)
def test_shortcuts_go_around_each_convolution_only_where_widths_allow(
    block: str, inner: int, carries_first: bool
) -> None:
    module = ResidualBlock(4, inner, 4, make_scheme("bnn"), block=block)
    nn.init.zeros_(module.second.after[1].weight)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(module(x), x + module.first(x) if carries_first else x)


@pytest.mark.parametrize("downsample", ["real", "binary"])
@pytest.mark.parametrize("side", [8, 7])
def test_a_downsampling_shortcut_halves_and_rounds_up(downsample: str, side: int) -> None:
    module = ResidualBlock(4, 6, 8, make_scheme("bnn"), block="basic", downsample=downsample)
    assert module(torch.randn(2, 4, side, side)).shape == (2, 8, 4, 4)
    assert isinstance(module.shortcut, PooledProjection) == (downsample == "real")


def test_a_pooled_projection_averages_the_pixels_there_are() -> None:
    projection = PooledProjection(1, 1)
    nn.init.ones_(projection.conv.weight)
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 10.0]]).view(1, 1, 3, 3)
    expected = torch.tensor([[3.0, 4.5], [7.5, 10.0]])
    torch.testing.assert_close(projection.conv(projection.pool(x))[0, 0], expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_exports_and_verifies(form: str) -> None:
    space = Widths(FORMS[form][0])
    spec = spec_of(form, "bireal")
    with seeding.borrowed(0, "init"):
        network = space.build(drawn(space, 5), spec)
    x = images(form, 8)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), torch.arange(8) % 3).backward()
        optimizer.step()
    c = spec.input_shape[0]
    packed = export(
        network.eval(), input_shape=spec.input_shape, classes=["a", "b", "c"], mean=[0.5] * c, std=[0.5] * c
    )
    report = verify(network, PackedNetwork(packed), x)
    assert report.ok, report.first_difference
    binary = sum(isinstance(m, BinaryConv2d) for m in network.modules())
    assert len(report.layers) == 2 * binary
    assert report.max_logit_error < 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_follows_the_norm(activation: str) -> None:
    unit = BinaryUnit(4, 4, make_scheme("bnn"), activation=activation).train()
    out = unit(torch.randn(8, 4, 6, 6))
    lowest, highest = out.min().item(), out.max().item()
    expected = {
        "none": lowest < -1.5 and highest > 1.5,
        "prelu": -1.5 < lowest < -0.1 and highest > 1.5,
        "rprelu": -1.5 < lowest < -0.1 and highest > 1.5,
        "relu": lowest == 0 and highest > 1.5,
        "hardtanh": (lowest, highest) == (-1, 1),
    }
    assert expected[activation], (lowest, highest)


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        ("resnet20", {"channels": 3}, "of 3 channels, x0.25 leaves no channel in .*: set channels to 4 or more"),
        ("resnet20", {"channels": -1}, "channels is -1; it must be an integer at least 0"),
        ("resnet20", {"stem": "cifar10"}, "no stem named 'cifar10'; there are: cifar, imagenet. Did you mean 'cifar'"),
        ("resnet20", {"block": "bi-real"}, "no block named 'bi-real'; there are: basic, bireal. Did you mean 'bireal'"),
        ("resnet20", {"downsample": "pool"}, "no downsample named 'pool'; there are: real, binary"),
        (
            "resnet20",
            {"activation": "gelu"},
            "no activation named 'gelu'; there are: none, relu, prelu, rprelu, hardtanh",
        ),
        ("vgg_small", {"block": "bireal"}, "block is bireal, but network vgg_small has no residual blocks"),
        ("vgg_small", {"downsample": "real"}, "downsample is real, but network vgg_small has no residual blocks"),
    ],
)
def test_sizes_that_do_not_fit_name_those_that_do(network: str, size: dict[str, object], message: str) -> None:
    space = Widths(network)
    spec = NetSpec((3, 32, 32), 10, "bireal", {}, size)
    with pytest.raises(BnasError, match=message):
        space.supernet(spec)
    with pytest.raises(BnasError, match=message):
        space.build(drawn(space, 0), spec)


def test_ratios_that_round_to_one_width_are_refused_with_the_channels_that_tell_them_apart() -> None:
    space = Widths("resnet20", (0.5, 0.55, 0.7))
    with pytest.raises(BnasError, match=r"of 16 channels, x0.5 and x0.55 both leave 8 .*: set channels to 20 or more"):
        space.build(drawn(space, 0), NetSpec((3, 32, 32), 10, "bireal"))
    spec = NetSpec((3, 32, 32), 10, "bireal", {}, {"channels": 20})
    assert space.channels(space.size(spec))["stage_1"] == {"x0.5": 20, "x0.55": 22, "x0.7": 28}


@pytest.mark.parametrize(
    ("network", "stem", "smallest"),
    [
        ("resnet20", "cifar", 4),
        ("resnet18", "cifar", 8),
        ("vgg_small", "cifar", 8),
        ("resnet18", "imagenet", 32),
        ("vgg_small", "imagenet", 32),
    ],
)
def test_an_image_too_small_for_the_reductions_is_refused(network: str, stem: str, smallest: int) -> None:
    space = Widths(network)
    size = {"channels": 4, "stem": stem}
    genotype = space.coded([1] * len(space.decisions))
    built = space.build(genotype, NetSpec((1, smallest, smallest), 2, "bnn", {}, size)).eval()
    assert built(torch.randn(1, 1, smallest, smallest)).shape == (1, 2)
    with pytest.raises(BnasError, match=f"too small.* at least {smallest} pixels"):
        space.build(genotype, NetSpec((1, smallest - 1, 99), 2, "bnn", {}, size))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"network": "resnet34"}, "no network named 'resnet34'; there are: vgg_small, resnet18, resnet20"),
        ({"ratios": [1, 0.5]}, r"ratios are one or more numbers that ascend, such as \[0.25, .*; got \[1, 0.5\]"),
        ({"ratios": [1, 1]}, "that ascend"),
        ({"ratios": []}, "one or more numbers"),
        ({"ratios": [0, 1]}, "each of the ratios is 0; it must be a finite number above 0"),
        ({"ratios": ["x1"]}, "each of the ratios is 'x1'"),
        ({"ratios": "x1"}, "argument ratios takes a list, got 'x1'"),
    ],
)
def test_arguments_that_make_no_space_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_space("widths", args)


def test_ratios_may_come_as_a_list_and_1_is_1_however_a_file_writes_it() -> None:
    space = make_space("widths", {"network": "vgg_small", "ratios": [0.5, 1.0, 2]})
    assert dict(space.args) == {"network": "vgg_small", "ratios": (0.5, 1, 2)}
    text = space.random(np.random.default_rng(0)).to_json()
    genotype = Genotype.from_json(text.replace("1,\n", "1.0,\n"))
    assert "1.0" in genotype.to_json()
    assert space_of(genotype).digest(genotype) == space.digest(Genotype.from_json(text))
    assert Widths("vgg_small").count() == 6**6


def test_facts_and_the_picture_of_a_chain() -> None:
    space = Widths("resnet18")
    genotype = space.coded(RES18_AUTO_A)
    assert space.facts(genotype) == {"depth": 16.0, "parameter_free": 0.0}
    assert Widths("vgg_small").facts(Widths("vgg_small").coded(VGG_AUTO_A))["depth"] == 5
    graph = space.graphs(genotype)["resnet18"]
    assert list(graph)[:5] == ["image", "stage_0", "block_0_0", "block_0_1", "stage_1"]
    assert {b: choice for _, b, choice in graph.edges.data("choice") if choice} == dict(genotype.choices)
    assert draw_genotype(space, genotype).get_size_inches().min() > 1


def test_the_shipped_resnet20_is_uniform_and_its_job_builds_it() -> None:
    text = (resources.files("search_spaces") / "genotypes" / "resnet20.json").read_text()
    genotype = Genotype.from_json(text)
    assert genotype == Widths("resnet20").coded([1] * 12)
    job = load_job("cifar10_resnet20_bireal")
    assert job.make_space().digest(genotype) == Widths("resnet20").digest(genotype)
    network = job.make_space().build(genotype, job.spec(job.retrain, (3, 32, 32), 10))
    assert sum(p.numel() for p in network.parameters()) == 273_722
    assert all(block.around_each for block in network.body)
    assert [type(block.shortcut) for block in network.body if block.shortcut is not None] == [PooledProjection] * 2
