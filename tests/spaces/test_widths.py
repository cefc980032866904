"""The space `widths`: published codes and costs, slices and soft gates of every network form, sizes that do not fit."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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
from bnas.space import Gates, NetSpec, soft_gates
from experiments.job_files import load_job
from experiments.plot import draw_genotype
from search_spaces import make_space, space_of
from search_spaces.width_gates import Place, WidthGates
from search_spaces.widths import Widths

RES18_AUTO_A = [2, 4, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4]
RES18_AUTO_B = [3, 4, 4, 3, 1, 4, 4, 4, 3, 3, 3, 3]
VGG_AUTO_A = [0.5, 2, 1, 1, 1, 0.5]
VGG_AUTO_B = [2, 2, 4, 2, 4, 0.5]
# Every form of network once, small: (network, size, input shape).
FORMS: Mapping[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "vgg": ("vgg_small", {"channels": 4}, (2, 8, 8)),
    "vgg_oblong_prelu": ("vgg_small", {"channels": 4, "activation": "prelu"}, (1, 10, 17)),
    "vgg_imagenet": ("vgg_small", {"channels": 4, "stem": "imagenet", "activation": "relu"}, (3, 33, 40)),
    "resnet20": ("resnet20", {"channels": 4}, (2, 8, 8)),
    "resnet20_bireal": (
        "resnet20",
        {"channels": 4, "block": "bireal", "downsample": "real", "activation": "hardtanh"},
        (2, 7, 9),
    ),
    "resnet18_imagenet": (
        "resnet18",
        {"channels": 4, "stem": "imagenet", "block": "bireal", "activation": "prelu"},
        (3, 39, 33),
    ),
}


def spec_of(form: str, scheme: str = "bats") -> NetSpec:
    _, size, shape = FORMS[form]
    return NetSpec(shape, 3, scheme, {}, size)


def space_and_net(form: str, scheme: str = "bats", **args: Any) -> tuple[Widths, Any]:
    space = Widths(FORMS[form][0], **args)
    with seeding.borrowed(0, "net"):
        return space, space.supernet(spec_of(form, scheme))


def images(form: str, count: int = 4) -> Tensor:
    return torch.randn(count, *FORMS[form][2], generator=torch.Generator().manual_seed(1))


def drawn(space: Widths, seed: int) -> Genotype:
    return space.random(np.random.default_rng(seed))


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


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("form", FORMS)
def test_one_active_width_each_is_the_built_network(form: str, training: bool) -> None:
    space, net = space_and_net(form)
    genotype = drawn(space, 3)
    net(images(form), space.gates(genotype))
    built = space.build(genotype, spec_of(form))
    built.load_state_dict(net.state_for(genotype))
    for module in (net, built):
        module.train(training)
    with torch.no_grad():
        assert torch.equal(built(images(form)), net(images(form), space.gates(genotype)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("scheme", ["binary-activations", "bnn"])
@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_that_choose_are_that_choice(form: str, scheme: str, training: bool) -> None:
    """All widths active with weights 0 and 1, under schemes without a scale (a filter's scale depends on its slice)."""
    space, net = space_and_net(form, scheme)
    net.train(training)
    for seed in range(2):
        genotype = drawn(space, seed)
        weights = {
            d.name: torch.tensor([float(genotype.choice(d.name) == choice) for choice in d.choices])
            for d in space.decisions
        }
        with torch.no_grad():
            hard = net(images(form), space.gates(genotype))
            soft = net(images(form), soft_gates(space.decisions, weights))
        torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pick", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_some_active_widths_run_no_wider_than_the_widest_of_them(form: str, pick: tuple[int, int]) -> None:
    """What a shrinking search has: here x1 and x2 of every stage or second layer, x0.5 and x1 of the others."""
    space, net = space_and_net(form, "binary-activations")
    wide = {d.name for d in space.decisions if d.name.startswith("stage") or d.name in ("conv_0", "conv_2", "conv_4")}
    active = {d.name: ("x1", "x2") if d.name in wide else ("x0.5", "x1") for d in space.decisions}
    chosen = {name: active[name][pick[name in wide]] for name in active}
    weights = {name: torch.tensor([float(chosen[name] == choice) for choice in active[name]]) for name in active}
    widest: dict[str, int] = {}
    for name, module in net.named_modules():
        if name.endswith(".after"):
            module.register_forward_hook(lambda m, i, out, name=name: widest.update({name: out.shape[1]}))
    soft = net(images(form), Gates(active, weights))
    soft_widths = dict(widest)
    net(images(form), Gates({name: choices[-1:] for name, choices in active.items()}))
    assert soft_widths == widest
    hard = net(images(form), Gates({name: (choice,) for name, choice in chosen.items()}))
    torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_reach_every_decision(form: str) -> None:
    space, net = space_and_net(form, "binary-activations")
    weights = {d.name: torch.full((6,), 1 / 6, requires_grad=True) for d in space.decisions}
    logits = net(images(form), soft_gates(space.decisions, weights))
    logits.square().sum().backward()
    for name, weight in weights.items():
        assert weight.grad is not None
        assert weight.grad.abs().min() > 1e-5, name
        changed = {**weights, name: torch.linspace(0.0, 1.0, 6)}
        assert not torch.allclose(net(images(form), soft_gates(space.decisions, changed)), logits), name


@pytest.mark.parametrize("form", FORMS)
def test_a_straight_through_weight_of_1_changes_nothing_and_has_a_gradient(form: str) -> None:
    space, net = space_and_net(form)
    genotype = drawn(space, 0)
    hard = space.gates(genotype)
    weights = {name: torch.ones(1, requires_grad=True) for name in hard.active}
    logits = net(images(form), Gates(hard.active, weights))
    assert torch.equal(logits, net(images(form), hard))
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs() > 0 for weight in weights.values())


def test_a_gate_sums_the_choices_that_have_a_channel() -> None:
    channels = {"a": {"x1": 1, "x2": 2, "x4": 4}, "b": {"x1": 1, "x2": 2, "x4": 4}}
    weights = {"a": torch.tensor([0.2, 0.3, 0.5]), "b": torch.tensor([0.1, 0.6])}
    gates = WidthGates(Gates({"a": ("x1", "x2", "x4"), "b": ("x1", "x2")}, weights), channels, torch.device("cpu"))
    torch.testing.assert_close(gates.gate("a"), torch.tensor([1.0, 0.8, 0.5, 0.5]))
    torch.testing.assert_close(gates.gate("b"), torch.tensor([0.7, 0.6]))
    assert gates.widest() == {"a": 4, "b": 2}
    assert float(gates.expected("a")) == pytest.approx(0.2 * 1 + 0.3 * 2 + 0.5 * 4)
    around = gates.around(Place("b", "a", "b"))
    torch.testing.assert_close(around.equal, torch.tensor([0.2 * 0.1 + 0.3 * 0.6, 0.3 * 0.6]))
    unweighted = WidthGates(Gates({"a": ("x2", "x4"), "b": ("x4",)}), channels, torch.device("cpu"))
    torch.testing.assert_close(unweighted.gate("a"), torch.tensor([2.0, 2.0, 1.0, 1.0]))
    assert unweighted.gate("b") is None
    for chosen, equal in (("x4", True), ("x1", False)):
        plain = WidthGates(Gates({"a": (chosen,), "b": ("x4",)}), channels, torch.device("cpu"))
        assert plain.around(Place("b", "a", "b")).equal is equal


def test_a_gated_unit_scales_its_sums_and_does_not_round_them() -> None:
    unit = BinaryUnit(4, 3, make_scheme("bnn"), norm_after=False).eval()
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(unit(x, torch.full((4,), 0.3)), 0.3 * unit(x))
    only_first = unit(x, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert not torch.equal(only_first, unit(x))
    x[:, 1:] = -x[:, 1:]
    assert torch.equal(unit(x, torch.tensor([1.0, 0.0, 0.0, 0.0])), only_first)


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


def test_statistics_beyond_a_slice_are_left_alone() -> None:
    space, net = space_and_net("resnet20")
    norm = net.body[0].first.norm.norm
    net(images("resnet20"), space.gates(space.coded([2, *[1] * 11])))
    assert torch.count_nonzero(norm.running_mean) == 8 < len(norm.running_mean)


def test_soft_cost_is_that_of_the_expected_widths() -> None:
    """Of the paper's six layers at 8 x 8 pixels: linear in the width of each layer's input and of its output."""
    space, net = space_and_net("vgg")
    weights = {d.name: torch.full((6,), 1 / 6, requires_grad=True) for d in space.decisions}
    real, binary = net.expected_cost(soft_gates(space.decisions, weights))
    c = 4 * (0.25 + 0.5 + 1 + 2 + 3 + 4) / 6
    assert float(real.detach()) == pytest.approx(2 * 9 * c * 64 + 4 * c * 3)
    pairs = ((c, c, 64), (c, 2 * c, 16), (2 * c, 2 * c, 16), (2 * c, 4 * c, 4), (4 * c, 4 * c, 4))
    assert float(binary.detach()) == pytest.approx(sum(9 * a * b * pixels for a, b, pixels in pairs))
    (real + binary / 64).backward()
    assert all(bool((weight.grad > 0).all()) for weight in weights.values() if weight.grad is not None)


def test_norms_of_a_slice_start_with_slope_1_and_offset_0() -> None:
    space, net = space_and_net("resnet20")
    state = net.state_for(space.coded([0.5] * 12))
    assert torch.equal(state["body.0.first.after.1.weight"], torch.ones(2))
    assert torch.equal(state["body.0.first.after.1.bias"], torch.zeros(2))
    kept = net.body[0].first.conv
    assert torch.equal(state["body.0.first.conv.weight"], kept.weight[:2, :2])
    state["body.0.first.conv.weight"].zero_()
    assert kept.weight[:2, :2].count_nonzero() > 0


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
