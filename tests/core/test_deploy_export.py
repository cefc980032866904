"""From trained networks to packed ones: what is packed computes the same, what cannot be packed is refused by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnas.binary.binarizer import Binarizer, BitTerm
from bnas.binary.outputs import InputMap
from bnas.binary.scales import MeanAbs
from bnas.binary.schemes import Scheme, make_scheme
from bnas.deploy import shapes
from bnas.deploy.ir import Program
from bnas.deploy.pack import export
from bnas.deploy.runtime import Bits, PackedNetwork
from bnas.errors import BnasError
from bnas.kernels.packing import unpack_weights
from bnas.layers import BinaryConv2d, BinaryLinear, ChannelShuffle, DropPath, NormBinarize, RPReLU
from tests.core.packed_networks import CLASSES, SHAPE, Cell, images, packed, trained

BITS = make_scheme("bnn")
REAL = make_scheme("real")


class Net(nn.Module):
    """A body that may be anything, and a forward that may use it in any way; then, unless flat, one logit a channel."""

    def __init__(self, body, forward=None, flat=False, **more):
        super().__init__()
        self.body = body
        self.flat = flat
        self.how = forward
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, x):
        x = self.body(x) if self.how is None else self.how(self, x)
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1) if not self.flat else x


def run_both(model, shape=SHAPE):
    """Logits of the trained network and of the packed one."""
    x = images(6, shape)
    with torch.no_grad():
        logits = model.eval()(x)
    network = PackedNetwork(packed(model, shape, tuple(map(str, range(logits.shape[1])))))
    return logits, network(x), network


@pytest.mark.parametrize("scheme", ["bnn", "xnor", "bireal", "bats", "binary-activations"])
def test_a_cell_computes_the_same_packed(scheme):
    model = trained(Cell(scheme))
    logits, run, _ = run_both(model)
    assert torch.allclose(logits, run, atol=1e-4)
    assert torch.equal(logits.argmax(1), run.argmax(1))
    # Not the same answer whatever the image.
    assert logits.std(0).min() > 0.01


def test_the_packed_weights_are_the_signs_and_the_scale_is_one_a_filter():
    model = trained(Cell("xnor"))
    program, tensors = packed(model).program, packed(model).tensors
    op = next(op for op in program.ops if op.name == "mix.conv")
    weight = model.mix.conv.weight.detach()
    assert np.array_equal(unpack_weights(tensors[op.tensors["weight"]], 48), np.where(weight >= 0, 1, -1))
    assert np.allclose(tensors[op.tensors["scale"]], weight.abs().mean((1, 2, 3)), rtol=1e-6)
    assert tensors[op.tensors["scale"]].shape == (12,)


def test_a_scale_of_one_is_left_out():
    ops = packed(trained(Cell("bnn"))).program.ops
    assert all("scale" not in op.tensors for op in ops if op.kind.startswith("binary"))


def test_binary_activations_keep_real_weights_and_read_unpacked_bits():
    ops = packed(trained(Cell("binary-activations"))).program.ops
    kinds = [op.kind for op in ops if op.name in ("conv.norm", "conv.conv")]
    assert kinds == ["threshold", "unpack", "conv2d"]
    assert not any(op.kind.startswith("binary") for op in ops)


def test_layers_keep_the_modes_that_they_had():
    model = Cell("bnn").train()
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    packed(model)
    assert [module.training for module in model.modules()] == modes
    assert model.training
    assert not model.stem.training


def test_export_does_not_change_with_the_mode():
    model = trained(Cell("bats"))
    a = packed(model)
    b = packed(model.train())
    assert a.program == b.program
    assert all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_readers_that_want_other_groups_get_a_threshold_each():
    norm = NormBinarize(8, BITS)
    one, four = BinaryConv2d(8, 8, 3, BITS, padding=1), BinaryConv2d(8, 8, 3, BITS, padding=1, groups=4)

    def forward(net, x):
        bits = net.norm(x)
        return net.four(bits) + net.one(bits) + net.four(bits)

    logits, run, network = run_both(trained(Net(None, forward, norm=norm, one=one, four=four), (8, 5, 5)), (8, 5, 5))
    assert torch.equal(logits, run)
    thresholds = [op for op in network.program.ops if op.kind == "threshold"]
    assert [op.attributes["groups"] for op in thresholds] == [4, 1]
    assert thresholds[0].tensors == thresholds[1].tensors


def test_operations_that_the_output_does_not_need_are_dropped():
    def forward(net, x):
        net.unused(x)
        return net.body(x)

    _, _, network = run_both(Net(nn.ReLU(), forward, unused=nn.Conv2d(3, 7, 1)))
    assert [op.kind for op in network.program.ops] == ["relu", "global_avg_pool", "flatten"]
    assert not network.packed.tensors


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        (nn.Conv2d(3, 4, 3, 2, 1, 2, bias=True), ["conv2d"]),
        (nn.Conv2d(3, 6, (4, 3), padding="same", groups=3, bias=False), ["conv2d"]),
        (nn.Conv2d(3, 6, (4, 3), padding="valid"), ["conv2d"]),
        (nn.BatchNorm2d(3), ["batch_norm"]),
        (nn.BatchNorm2d(3, affine=False), ["batch_norm"]),
        (nn.PReLU(3), ["prelu"]),
        (nn.PReLU(), ["prelu"]),
        (RPReLU(3), ["batch_norm", "prelu", "batch_norm"]),
        (nn.ReLU(inplace=True), ["relu"]),
        (nn.Hardtanh(-0.5, 0.25), ["hardtanh"]),
        (nn.ReLU6(), None),
        (nn.MaxPool2d(3, 2, 1), ["max_pool2d"]),
        (nn.MaxPool2d((3, 2), dilation=2, ceil_mode=True), ["max_pool2d"]),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), ["avg_pool2d"]),
        (nn.AvgPool2d((2, 4), ceil_mode=True), ["avg_pool2d"]),
        (nn.AdaptiveAvgPool2d((1, 1)), ["global_avg_pool"]),
        (ChannelShuffle(3, 3), ["channel_shuffle"]),
        (nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Dropout2d(), DropPath(0.3)), []),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(243), nn.Linear(243, 4)), ["flatten", "batch_norm", "linear"]),
        (
            nn.Sequential(NormBinarize(3, BITS), nn.Flatten(), BinaryLinear(243, 5, BITS)),
            ["threshold", "flatten", "binary_linear"],
        ),
        (nn.Sequential(NormBinarize(3, BITS), nn.MaxPool2d(2)), ["threshold", "unpack", "max_pool2d"]),
        (
            nn.Sequential(NormBinarize(3, BITS), BinaryConv2d(3, 4, 3, BITS, padding=(2, 1, 0, -1), pad_value=-1.0)),
            ["threshold", "binary_conv2d"],
        ),
        (
            nn.Sequential(
                NormBinarize(3, make_scheme("binary-activations")),
                BinaryConv2d(3, 4, 3, make_scheme("binary-activations"), padding=(2, 1, 0, -1), pad_value=1.0),
            ),
            ["threshold", "unpack", "conv2d"],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_each_layer_computes_the_same(body, kinds):
    if kinds is None:
        with pytest.raises(
            BnasError, match="layer 'body': ReLU6 cannot be packed; what can: NormBinarize, BinaryConv2d"
        ):
            packed(Net(body))
        return
    flat = body(images(2)).dim() == 2
    logits, run, network = run_both(trained(Net(body, flat=flat)))
    assert torch.allclose(logits, run, atol=1e-5)
    tail = [] if flat else ["global_avg_pool", "flatten"]
    assert [op.kind for op in network.program.ops] == kinds + tail


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: sum([x, net.body(x), x]),
        lambda net, x: torch.add(x, net.body(x)),
        lambda net, x: x.add(net.body(x)),
        lambda net, x: torch.cat(tensors=[x, net.body(x)], dim=1),
        lambda net, x: torch.cat([torch.cat([x], 1), net.body(x)], -3 + 4),
        lambda net, x: F.relu(x).relu().contiguous() + torch.relu(net.body(x)),
        lambda net, x: F.dropout(x, 0.5, net.training),
        lambda net, x: x.mean((2, 3)),
        lambda net, x: torch.mean(x, dim=[-1, -2], keepdim=True),
        lambda net, x: torch.flatten(x, start_dim=1).flatten(1),
    ],
)
def test_each_function_computes_the_same(forward):
    model = Net(nn.Conv2d(3, 3, 1), forward)
    model.flat = forward(model, images(2)).dim() == 2
    logits, run, _ = run_both(trained(model))
    assert torch.allclose(logits, run, atol=1e-5)


def test_a_value_added_in_place_is_not_lost():
    def forward(net, x):
        x = net.body(x)
        x += net.body(x)
        return x

    logits, run, _ = run_both(trained(Net(nn.Conv2d(3, 3, 1), forward)))
    assert torch.allclose(logits, run, atol=1e-5)


def test_shapes_that_were_inferred_are_those_that_run():
    network = PackedNetwork(packed(trained(Cell("bats"))))
    inferred = shapes.infer(network.program, {name: t.shape for name, t in network.packed.tensors.items()})
    seen = {}
    network.run(images(2), lambda op, value: seen.update({op.output: value}))
    for name, value in seen.items():
        shape = value.shape if isinstance(value, Bits) else tuple(value.shape[1:])
        assert inferred[name].shape == shape
        assert inferred[name].is_bits == isinstance(value, Bits)
    assert len(seen) == len(network.program.ops)


ESTIMATOR = BITS.activation(1).estimator


class Given(Binarizer):
    """Weights whose terms are given."""

    def __init__(self, terms):
        super().__init__(ESTIMATOR)
        self.given = terms

    def terms(self, x):
        return self.given


def with_weight(binarizer):
    return Scheme(lambda weight: binarizer, BITS.activation)


ONES = torch.ones(4, 3, 1, 1)


def binary(scheme, activations=BITS):
    return nn.Sequential(NormBinarize(3, activations), BinaryConv2d(3, 4, 1, scheme))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (binary(REAL, REAL), r"layer 'body.0' \(NormBinarize\): its activations are real-valued: retrain"),
        (
            binary(BITS, make_scheme("horq")),
            r"'body.0' \(NormBinarize\): its activations do not pack: their scales are .* each input; with option "
            r"input_scale: average they are constants and pack: sum of 2 m_l sign",
        ),
        (
            binary(with_weight(Binarizer(ESTIMATOR, scale=MeanAbs(over="position")))),
            r"'body.1' \(BinaryConv2d\): its weights do not pack: their scales are computed from each input: mean_nhw|x|",
        ),
        (
            binary(Scheme(BITS.weight, BITS.activation, lambda c: InputMap()), BITS),
            r"'body.1' \(BinaryConv2d\): it does not pack: its input scale K is a map of real numbers",
        ),
        (BinaryConv2d(3, 4, 1, BITS), r"layer 'body' \(BinaryConv2d\): its input is real-valued"),
        (
            nn.Sequential(NormBinarize(3, BITS), nn.ReLU(), BinaryConv2d(3, 4, 1, BITS)),
            r"layer 'body.2' \(BinaryConv2d\): its input is real-valued: .* reads the output of a NormBinarize",
        ),
        (
            binary(with_weight(Given((BitTerm(ONES, torch.ones(1, 3, 1, 1)),)))),
            r"its scale has the shape \[1, 3, 1, 1\]; only one scale per filter",
        ),
        (
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            r"layer 'body' \(Conv2d\): its padding_mode is 'reflect'",
        ),
        (nn.BatchNorm2d(3, track_running_stats=False), r"\(BatchNorm2d\): it keeps no running statistics"),
        (nn.AvgPool2d(2, divisor_override=3), "it has a divisor_override"),
        (nn.AdaptiveAvgPool2d(2), "it pools to 2; only 1, a whole map"),
        (nn.Flatten(2), "it flattens dimensions 2 to -1; only 1 to -1"),
        (nn.Sequential(nn.Sequential(nn.Sigmoid())), "layer 'body.0.0': Sigmoid cannot be packed; what can: "),
    ],
)
def test_a_layer_that_cannot_be_packed_is_named(body, message):
    with pytest.raises(BnasError, match=message):
        packed(Net(body))


class Multiplied(nn.Module):
    def forward(self, x):
        return x * 2


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net.body(x), "layer 'body': the function mul cannot be packed; what can: .*the function add"),
        (lambda net, x: x.view(2, -1), "layer 'Net': the method view cannot be packed"),
        (lambda net, x: x + 1.5, r"layer 'Net' \(the function add\): it adds the constant 1.5"),
        (lambda net, x: torch.add(x, x, alpha=2), "it adds with alpha=2"),
        (lambda net, x: torch.cat([x, x]), "it joins along dimension 0; only channels"),
        (lambda net, x: x.mean(1), "it averages over dimensions 1; only"),
        (lambda net, x: F.dropout(x), "it drops values in evaluation too"),
        (
            lambda net, x: torch.mean(x, (2, 3), dtype=torch.float64),
            "its arguments are not among those that are packed",
        ),
        (lambda net, x: x if x.sum() > 0 else -x, "Net cannot be traced: its forward depends on values"),
        (lambda net, x: torch.relu(net.table), "the parameter table used outside of a layer"),
        (lambda net, x: torch.relu(torch.zeros(2, 3)) + x, "the parameter _tensor_constant0 used outside"),
    ],
)
def test_a_function_that_cannot_be_packed_is_named(forward, message):
    net = Net(Multiplied(), forward)
    net.table = nn.Parameter(torch.zeros(1))
    with pytest.raises(BnasError, match=message):
        packed(net)


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_a_network_takes_one_input_and_gives_one_output():
    with pytest.raises(BnasError, match="more than one input: 'x' and 'y'"):
        packed(Two())
    with pytest.raises(BnasError, match="returns more than its logits"):
        packed(Pair())


def test_logits_and_classes_agree():
    with pytest.raises(BnasError, match="the output is real 5; 2 classes need real 2"):
        packed(trained(Cell("bnn")), classes=("a", "b"))
    assert packed(trained(Cell("bnn"))).program.classes == CLASSES


def test_about_is_kept_as_it_will_be_read_back():
    model = Net(nn.ReLU())
    made = export(
        model, input_shape=SHAPE, classes="abc", mean=(0, 0, 0), std=(1, 1, 1), about={"size": (1, 2), "by": None}
    )
    assert made.program.about == {"size": [1, 2], "by": None}
    assert Program.from_json(made.program.to_json()) == made.program
