"""The space `group_mobilenet`: costs, layout, slices and mixtures of one weight, the three modules, what does not fit."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
from bnas.layers.activation import ACTIVATIONS, RPReLU
from bnas.layers.blocks import ConvNorm
from bnas.space import Gates, NetSpec, soft_gates
from bnas.training.updates import latent_weights
from experiments.job_files import load_job
from experiments.plot import draw_genotype
from search_spaces import group_mobilenet, make_space
from search_spaces.group_layers import (
    Layer,
    Place,
    PointwiseUnit,
    SharedBinaryConv2d,
    SharedConv2d,
    SpatialUnit,
    narrowed,
    places,
    widened,
)
from search_spaces.group_mobilenet import MOBILENET, GroupMobileNet

SMALL: Mapping[str, Any] = {"layers": (2, 4, 4), "groups": (1, 2, 4), "group_channels": 1, "channels": 4}
# Every module in both forms, small: (size, input shape).
FORMS: Mapping[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "M1": ({"module": "M1", "stem": "imagenet", "activation": "prelu"}, (3, 9, 14)),
    "M2": ({"module": "M2", "stem": "imagenet"}, (3, 8, 8)),
    "M2_cifar": ({"module": "M2", "stem": "cifar", "activation": "relu"}, (1, 5, 4)),
    "M3": ({"module": "M3", "stem": "imagenet", "activation": "hardtanh"}, (2, 7, 9)),
    "M3_cifar": ({"module": "M3", "stem": "cifar", "channels": 8}, (2, 4, 6)),
}


def spec_of(form: str, scheme: str = "bats") -> NetSpec:
    size, shape = FORMS[form]
    return NetSpec(shape, 3, scheme, {}, size)


def space_and_net(form: str, scheme: str = "bats") -> tuple[GroupMobileNet, Any]:
    space = GroupMobileNet(**SMALL)
    with seeding.borrowed(0, "net"):
        return space, space.supernet(spec_of(form, scheme))


def images(form: str, count: int = 4) -> Tensor:
    return torch.randn(count, *FORMS[form][1], generator=torch.Generator().manual_seed(1))


def drawn(space: GroupMobileNet, seed: int) -> Genotype:
    return space.random(np.random.default_rng(seed))


def every(space: GroupMobileNet, pick: int) -> Genotype:
    """The first (0) or the last (-1) group number of every layer."""
    return space.genotype({d.name: d.choices[pick] for d in space.decisions})


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


@pytest.mark.parametrize(("groups", "into"), [(1, 1), (1, 2), (1, 4), (2, 4), (2, 12), (4, 4)])
def test_slices_are_the_blocks_on_the_diagonal(groups: int, into: int) -> None:
    """One input channel at a time, as a grouped convolution reads them."""
    out, entering = 24, 12
    weight = torch.randn(out, entering // groups, 3, 3).to(memory_format=torch.channels_last)
    slices = narrowed(weight, groups, into)
    assert slices.shape == (out, entering // into, 3, 3)
    for o in range(out):
        first_of_slice = o // (out // into) * (entering // into)
        first_of_weight = o // (out // groups) * (entering // groups)
        for i in range(entering // into):
            assert torch.equal(slices[o, i], weight[o, first_of_slice + i - first_of_weight])
    back = widened(slices, into, groups)
    assert torch.equal(narrowed(back, groups, into), slices)
    assert back.count_nonzero() == slices.numel()
    x = torch.randn(2, entering, 4, 4)
    torch.testing.assert_close(F.conv2d(x, back, groups=groups), F.conv2d(x, slices, groups=into))


def shared_conv(scheme: str, options: Mapping[str, Any], stride: int = 1) -> SharedBinaryConv2d:
    conv = SharedBinaryConv2d(8, make_scheme(scheme, options), (1, 2, 4), stride=stride)
    # Learned scales that have moved apart.
    with torch.no_grad():
        for parameter in conv.narrower.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    return conv


def alone(conv: SharedBinaryConv2d, scheme: str, options: Mapping[str, Any], groups: int) -> BinaryConv2d:
    """The convolution of that number of groups, by itself."""
    plain = BinaryConv2d(8, 8, 3, make_scheme(scheme, options), stride=conv.stride[0], padding=1, groups=groups)
    plain.load_state_dict(conv.state_of(groups))
    return plain.train(conv.training)


SCHEMES = [
    ("binary-activations", {}),
    ("bnn", {}),
    ("xnor", {"centre": True}),
    ("bireal", {}),
    ("bireal", {"weight_gradient": "bypass"}),
    ("bats", {}),
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
@pytest.mark.parametrize("numbers", [(1, 2, 4), (2, 4), (4, 1)], ids=str)
def test_a_mixture_is_the_weighted_sum_of_the_grouped_convolutions(
    numbers: tuple[int, ...], scheme: str, options: dict[str, Any], training: bool
) -> None:
    """Its scales are those of each slice, and so are the gradients of the latent weight."""
    conv = shared_conv(scheme, options, stride=2).train(training)
    x = torch.randn(3, 8, 6, 6).sign()
    gates = torch.rand(len(numbers), requires_grad=True)
    mixture = conv(x, list(zip(numbers, gates, strict=True)))
    singles = [alone(conv, scheme, options, g) for g in numbers]
    outputs = [single(x) for single in singles]
    expected = sum(gate * output for gate, output in zip(gates.detach(), outputs, strict=True))
    torch.testing.assert_close(mixture, expected, rtol=1e-4, atol=1e-4)
    seed = torch.randn_like(mixture)
    mixture.backward(seed)
    assert gates.grad is not None
    torch.testing.assert_close(
        gates.grad, torch.stack([(output * seed).sum() for output in outputs]).detach(), rtol=1e-4, atol=1e-3
    )
    if training:
        expected.backward(seed)
        parts = [
            widened(s.weight.grad, g, 1) for g, s in zip(numbers, singles, strict=True) if s.weight.grad is not None
        ]
        torch.testing.assert_close(conv.weight.grad, sum(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_number_is_the_grouped_convolution(
    groups: int, scheme: str, options: dict[str, Any], training: bool
) -> None:
    conv = shared_conv(scheme, options).train(training)
    x = torch.randn(3, 8, 6, 6).sign()
    out = conv(x, [(groups, None)])
    assert torch.equal(out, alone(conv, scheme, options, groups)(x))
    # A gate of a single number is the unit's to apply.
    assert torch.equal(out, conv(x, [(groups, torch.tensor(0.3))]))


def test_a_mixture_has_no_more_channels_a_group_than_its_fewest_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[tuple[int, ...], int]] = []
    plain = F.conv2d

    def watched(x: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        ran.append((tuple(weight.shape), named.get("groups", rest[-1] if rest else 1)))
        return plain(x, weight, *rest, **named)

    monkeypatch.setattr(F, "conv2d", watched)
    x = torch.randn(1, 8, 4, 4).sign()
    binary, real = shared_conv("bnn", {}), SharedConv2d(8, 16, (1, 2, 4))
    for numbers in ((1, 2, 4), (2, 4), (4,), None):
        chosen = None if numbers is None else [(g, None) for g in numbers]
        binary(x, chosen)
        real(x, chosen)
    assert ran[::2] == [((8, 8, 3, 3), 1), ((8, 4, 3, 3), 2), ((8, 2, 3, 3), 4), ((8, 8, 3, 3), 1)]
    assert ran[1::2] == [((16, 8, 1, 1), 1), ((16, 4, 1, 1), 2), ((16, 2, 1, 1), 4), ((16, 8, 1, 1), 1)]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("form", FORMS)
def test_one_active_number_each_is_the_built_network(form: str, training: bool) -> None:
    space, net = space_and_net(form)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    for seed in range(3):
        genotype = drawn(space, seed)
        net.train()(images(form), space.gates(genotype))
        built = space.build(genotype, spec_of(form))
        built.load_state_dict(net.state_for(genotype))
        for module in (net, built):
            module.train(training)
        with torch.no_grad():
            assert torch.equal(built(images(form)), net(images(form), space.gates(genotype)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("scheme", ["binary-activations", "bireal"])
@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_that_choose_are_that_choice(form: str, scheme: str, training: bool) -> None:
    space, net = space_and_net(form, scheme)
    genotype = drawn(space, 1)
    # Running statistics that are not those of the start, under which sums of signs fall on thresholds.
    net.train()(images(form), space.gates(genotype))
    net.train(training)
    weights = {d.name: torch.tensor([float(genotype.choice(d.name) == c) for c in d.choices]) for d in space.decisions}
    with torch.no_grad():
        hard = net(images(form), space.gates(genotype))
        soft = net(images(form), soft_gates(space.decisions, weights))
    torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_reach_every_decision(form: str) -> None:
    space, net = space_and_net(form, "binary-activations")
    weights = {d.name: torch.full((len(d.choices),), 1 / len(d.choices), requires_grad=True) for d in space.decisions}
    logits = net(images(form), soft_gates(space.decisions, weights))
    logits.square().sum().backward()
    for name, weight in weights.items():
        assert weight.grad is not None
        # Beside the common part, which a softmax takes away.
        assert (weight.grad - weight.grad.mean()).abs().max() > 1e-4, name
        changed = {**weights, name: torch.linspace(0.0, 1.0, len(weight))}
        assert not torch.allclose(net(images(form), soft_gates(space.decisions, changed)), logits), name


@pytest.mark.parametrize("form", FORMS)
def test_a_straight_through_weight_of_1_changes_nothing_and_has_a_gradient(form: str) -> None:
    space, net = space_and_net(form)
    hard = space.gates(drawn(space, 0))
    weights = {name: torch.ones(1, requires_grad=True) for name in hard.active}
    logits = net(images(form), Gates(hard.active, weights))
    assert torch.equal(logits, net(images(form), hard))
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs() > 1e-4 for weight in weights.values())


def test_numbers_without_gates_count_1_each() -> None:
    space, net = space_and_net("M2", "bireal")
    plain = Gates({d.name: d.choices for d in space.decisions})
    ones = soft_gates(space.decisions, {d.name: torch.ones(len(d.choices)) for d in space.decisions})
    torch.testing.assert_close(net(images("M2"), plain), net(images("M2"), ones))


@pytest.mark.parametrize("side", [6, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_shortcut_goes_around_each_convolution(stride: int, side: int) -> None:
    """With the norm behind a convolution at 0, a unit is its shortcut."""
    scheme = make_scheme("bireal")
    unit = SpatialUnit(BinaryConv2d(4, 4, 3, scheme, stride=stride, padding=1), scheme, "prelu")
    x = torch.randn(2, 4, side, side)
    assert unit(x).shape == unit.shortcut(x).shape
    nn.init.zeros_(unit.after[0].weight)  # type: ignore[arg-type]
    if stride == 1:
        assert torch.equal(unit(x), x)
    else:
        # Of the pixels that there are: the last row and column of an odd map stand for themselves.
        torch.testing.assert_close(unit(x)[:, :, 1, 1], x[:, :, 2:4, 2:4].mean(dim=(2, 3)))
        torch.testing.assert_close(unit(x)[:, :, 2, 2], x[:, :, 4:6, 4:6].mean(dim=(2, 3)))
    for c_out in (4, 8, 12):
        pointwise = PointwiseUnit(4, c_out, scheme, "prelu")
        assert not torch.equal(pointwise(x), torch.cat([x] * (c_out // 4), dim=1))
        nn.init.zeros_(pointwise.after[0].weight)  # type: ignore[arg-type]
        assert torch.equal(pointwise(x), torch.cat([x] * (c_out // 4), dim=1))


def test_m3_is_two_binary_convolutions_side_by_side() -> None:
    """Each with its own norm, scales and shortcut, reading the same signs."""
    scheme = make_scheme("bireal")
    wide = PointwiseUnit(4, 8, scheme, "none")
    halves = [PointwiseUnit(4, 4, scheme, "none") for _ in range(2)]
    for half, part in zip(halves, (slice(0, 4), slice(4, 8)), strict=True):
        with torch.no_grad():
            half.conv.weight.copy_(wide.conv.weight[part])
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(wide(x), torch.cat([half(x) for half in halves], dim=1))


def test_a_real_pointwise_has_no_shortcut() -> None:
    layer = Layer(4, Place(1, 2, 1), make_scheme("bireal"), (2,), module="M1", activation="none", shared=False)
    nn.init.zeros_(layer.pointwise.after[0].weight)  # type: ignore[union-attr, index, arg-type]
    assert layer(torch.randn(2, 4, 5, 5)).count_nonzero() == 0


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


def test_latent_weights_of_the_supernet_are_those_of_its_binary_convolutions() -> None:
    _, net = space_and_net("M2", "bireal")
    names = {entry.name for entry in latent_weights(net)}
    assert names == {f"body.{i}.spatial.conv.weight" for i in range(3)} | {"body.2.pointwise.conv.weight"}


@pytest.mark.parametrize("form", ["M1", "M2", "M3"])
def test_soft_cost_is_the_weighted_sum_of_the_choices(form: str) -> None:
    space, net = space_and_net(form)
    shares = {d.name: torch.softmax(torch.arange(len(d.choices)).float(), 0) for d in space.decisions}
    real, binary = net.expected_cost(soft_gates(space.decisions, shares))
    base = dict(every(space, 0).choices)

    def cost(choices: dict[str, str]) -> tuple[int, int]:
        found = measure(space.build(space.genotype(choices), spec_of(form)), FORMS[form][1])
        return found.macs_real, found.macs_binary

    expected = np.array(cost(base), dtype=float)
    for decision in space.decisions:
        for share, choice in zip(shares[decision.name].tolist(), decision.choices, strict=True):
            expected += share * (np.array(cost({**base, decision.name: choice})) - np.array(cost(base)))
    assert (float(real), float(binary)) == pytest.approx(tuple(expected), rel=1e-6)
    dense, grouped = cost(base), cost(dict(every(space, -1).choices))
    assert grouped[1] < dense[1]
    assert (grouped[0] < dense[0]) == (form == "M2")


@pytest.mark.parametrize("module", ["M2", "M3"])
def test_a_space_without_the_number_1_is_sliced_from_its_fewest_groups(module: str) -> None:
    space = GroupMobileNet(layers=(2, 4, 4), groups=(2, 4), group_channels=1, channels=4)
    spec = NetSpec((2, 8, 8), 3, "bats", {}, {"stem": "imagenet", "module": module})
    net = space.supernet(spec)
    x = torch.randn(2, 2, 8, 8)
    for pick in (0, -1):
        genotype = every(space, pick)
        built = space.build(genotype, spec)
        built.load_state_dict(net.state_for(genotype))
        assert torch.equal(built(x), net(x, space.gates(genotype)))
        cost = measure(built, spec.input_shape)
        real, binary = net.expected_cost(space.gates(genotype))
        assert (float(real), float(binary)) == (cost.macs_real, cost.macs_binary)


def test_shared_weights_are_handed_out_as_copies() -> None:
    space, net = space_and_net("M2")
    state = net.state_for(every(space, 0))
    before = net.state_dict()["body.0.spatial.conv.weight"].clone()
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(net.state_dict()["body.0.spatial.conv.weight"], before)


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


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"module": "M4"}, "no module named 'M4'; there are: M1, M2, M3"),
        ({"stem": "cifar10"}, "no stem named 'cifar10'; there are: cifar, imagenet. Did you mean 'cifar'"),
        ({"activation": "gelu"}, "no activation named 'gelu'; there are: none, relu, prelu, rprelu, hardtanh"),
        ({"channels": -1}, "channels is -1; it must be an integer at least 0"),
        (
            {"channels": 16},
            r"channels 16: layer_00 has 16 channels, and group number 4 leaves 4 channels a group \(at least 8 are "
            r"allowed; the space was made for 32\): channels of 32 or 36 would do",
        ),
        (
            {"channels": 34},
            "layer_00 has 34 channels, and group number 4 does not divide them .*: channels of 32 or 36",
        ),
    ],
)
def test_sizes_that_do_not_fit_name_those_that_do(size: dict[str, object], message: str) -> None:
    space = GroupMobileNet()
    spec = NetSpec((3, 32, 32), 10, "bireal", {}, size)
    with pytest.raises(BnasError, match=message):
        space.supernet(spec)
    with pytest.raises(BnasError, match=message):
        space.build(every(space, -1), spec)


@pytest.mark.parametrize("channels", [36, 64])
def test_the_channels_that_a_message_names_do_fit(channels: int) -> None:
    space = GroupMobileNet()
    space.check_fits(space.size(NetSpec((3, 32, 32), 10, "bnn", {}, {"channels": channels})), space.numbers)


def test_a_found_network_fits_wherever_its_own_numbers_do() -> None:
    space = GroupMobileNet()
    spec = NetSpec((3, 32, 32), 10, "bireal", {}, {"channels": 8})
    with torch.device("meta"):
        assert space.build(every(space, 0), spec).classifier.in_features == 256
    with pytest.raises(BnasError, match="layer_00 has 8 channels"):
        space.build(every(space, -1), spec)


@pytest.mark.parametrize(("stem", "smallest"), [("cifar", 8), ("imagenet", 32)])
def test_an_image_too_small_for_the_reductions_is_refused(stem: str, smallest: int) -> None:
    space = GroupMobileNet(channels=8)
    size = {"stem": stem}
    built = space.build(every(space, 0), NetSpec((1, smallest, smallest), 2, "bnn", {}, size)).eval()
    assert built(torch.randn(1, 1, smallest, smallest)).shape == (1, 2)
    with pytest.raises(BnasError, match=f"too small.* at least {smallest} pixels"):
        space.build(every(space, 0), NetSpec((1, smallest - 1, 99), 2, "bnn", {}, size))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"groups": []},
            r"groups are one or more numbers, each a larger multiple of .*, such as \[1, 2, 4, .*; got \[\]",
        ),
        ({"groups": [1, 2, 3]}, r"groups are one or more .*; got \[1, 2, 3\]"),
        ({"groups": [1, 1]}, r"each a larger multiple of the one before.*; got \[1, 1\]"),
        ({"groups": [0, 1]}, "each of the groups is 0; it must be an integer at least 1"),
        ({"groups": [1.5]}, "each of the groups is 1.5"),
        ({"groups": 8}, "argument groups takes a list, got 8"),
        ({"layers": []}, r"layers are one or more numbers, each the same as .*, such as \[2, 4, 4, 8.*; got \[\]"),
        ({"layers": [2, 3]}, r"layers are one or more .*; got \[2, 3\]"),
        ({"layers": [4, 2]}, r"layers are one or more .*; got \[4, 2\]"),
        ({"layers": [True]}, "each of the layers is True"),
        ({"group_channels": 0}, "group_channels is 0; it must be an integer at least 1"),
        ({"channels": 0}, "channels is 0; it must be an integer at least 1"),
        (
            {"channels": 9, "groups": [2, 4]},
            r"layer_00 has 9 channels, and none of the groups \[2, 4\] leaves it 8 or more a group: channels of 16 or 18",
        ),
        ({"channels": 21, "groups": [2, 4]}, "none of the groups .*: channels of 20 or 22 would do"),
        ({"channels": 4}, r"layer_00 has 4 channels, .*: channels of 8 or 9 would do"),
    ],
)
def test_arguments_that_make_no_space_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_space("group_mobilenet", args)


def test_the_shipped_job_makes_its_networks() -> None:
    job = load_job("cifar10_group_mobilenet")
    space = job.make_space()
    assert space.name == "group_mobilenet"
    with torch.device("meta"):
        for part in (job.search, job.retrain):
            spec = job.spec(part, (3, 32, 32), 10)
            assert spec.scheme == "bireal"
            space.build(space.random(np.random.default_rng(0)), spec)


def test_a_scheme_whose_filters_are_made_of_fewer_cannot_share_weights_between_numbers_of_groups():
    with pytest.raises(BnasError, match="numbers of groups cannot share a weight"):
        SharedBinaryConv2d(8, make_scheme("cbcn"), (1, 2))
