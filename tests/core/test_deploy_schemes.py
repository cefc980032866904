"""Packing every scheme: the packed network computes what the trained one does, or is refused for the stated reason."""

import pytest
import torch
from torch import nn

from bnas.binary import SCHEMES, make_scheme
from bnas.binary.outputs import materialize
from bnas.binary.schemes import packing
from bnas.cost import measure
from bnas.deploy.file import Packed
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from bnas.seeding import borrowed
from tests.core.packed_networks import images, packed, trained

SHAPE, CLASSES = (3, 6, 6), ("cat", "dog", "fox")
# Schemes whose default options do not pack.
REFUSED = {
    "real": r"layer 'norm' \(NormBinarize\): its activations are real-valued",
    "binary-weights": "its activations are real-valued",
    "binary-connect": "its activations are real-valued",
    "bwn": "its activations are real-valued",
    "twn": r"layer 'norm' .*real-valued \(option activation: sign packs\): retrain with a scheme that",
    "horq": r"layer 'norm' \(NormBinarize\): its activations do not pack: .* with option input_scale: average they are",
    "least-squares": "their scales are computed from each input; with option input_scale: average they are constants",
}
# Of options: how many products, or the reason.
OPTIONS = [
    ("xnor", {"input_scale": "map"}, "computed from each input; option input_scale: none leaves them out"),
    ("xnor-plus-plus", {"gamma": "full"}, r"layer 'conv' .*: it does not pack: its scale Gamma differs"),
    ("horq", {"input_scale": "position"}, "their scales are computed from each input"),
    ("horq", {"input_scale": "average", "order": 3}, 3),
    ("least-squares", {"input_scale": "average"}, 2),
    ("least-squares", {"input_scale": "average", "activations": "ls-1"}, 1),
    ("least-squares", {"input_scale": "average", "activations": "ls-T", "weights": "gf-3"}, 6),
    ("least-squares", {"input_scale": "average", "activations": "gf-2", "weights": "ls-T"}, 4),
    ("binary-connect", {"magnitude": "glorot", "activation": "sign"}, 1),
    ("bwn", {"activation": "sign"}, 1),
    ("twn", {"activation": "sign"}, 2),
    ("twn", {"over": "filter", "activation": "sign"}, 2),
    ("power-of-two", {"weight_bits": 2}, 2),
    ("power-of-two", {"weight_bits": 5}, 9),
    ("power-of-two", {"activation": "relu"}, "its activations are real-valued"),
    ("rebnet", {"levels": 1}, 1),
    ("rebnet", {"levels": 3}, 3),
    ("dorefa", {"activation_bits": 1}, 2),
    ("dorefa", {"weight_bits": 3, "activation_bits": 4}, 15),
    ("dsq", {"weight_bits": 2, "activation_bits": 2}, 9),
    ("wrpn", {"weight_bits": 3}, 12),
    ("lqnet", {"weight_bits": 2, "activation_bits": 3}, 8),
    ("hwgq", {"levels": "nonuniform"}, 3),
    ("abcnet", {"weight_bases": 1, "activation_bases": 2, "over": "filter"}, 2),
    ("adabin", {"activation": "code"}, 4),
]


class Net(nn.Module):
    """A convolution with padding and groups, a strided one, and a binary classifier of the flattened map."""

    def __init__(self, scheme_name, options=None, channels=8):
        super().__init__()
        scheme = make_scheme(scheme_name, options or {})
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = NormBinarize(channels, scheme)
        self.conv = BinaryConv2d(channels, channels, 3, scheme, padding=1, groups=2)
        self.middle = NormBinarize(channels, scheme)
        self.down = BinaryConv2d(channels, channels, 1, scheme, stride=2)
        self.last = NormBinarize(channels, scheme)
        # Gamma of a whole map has no form for vectors.
        gamma = (options or {}).get("gamma") is None
        self.head = BinaryLinear(channels, 3, scheme) if gamma else nn.Linear(channels, 3)

    def forward(self, x):
        x = self.conv(self.norm(self.stem(x)))
        x = self.down(self.middle(x))
        x = self.last(nn.functional.adaptive_avg_pool2d(x, 1))
        return self.head(torch.flatten(x, 1))


def ready(scheme_name, options=None):
    """With statistics of its own activations, and learned scales, shifts and bounds that a training could leave."""
    with borrowed(3, "ready"), torch.no_grad():
        model = Net(scheme_name, options)
        materialize(model, images(2, SHAPE))
        for norm in (model.norm.norm, model.middle.norm, model.last.norm):
            # The average over all batches, so that few of them suffice; slopes of both signs, and of 0.
            norm.momentum = None
            norm.weight.mul_(torch.tensor([1.0, -1.0] * 4))
        model.norm.norm.weight[3] = 0
        for name, parameter in model.named_parameters():
            if name.endswith("norm.bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
            elif "binarizer" in name:
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter)).add_(0.02)
        model.train()
        for _ in range(3):
            model(torch.randn(8, *SHAPE))
    return model.eval()


def check_equal(model, products):
    network = PackedNetwork(packed(model, SHAPE, CLASSES))
    report = verify(model, network, images(12, SHAPE))
    assert report.ok, report.first_difference
    assert (report.argmax_equal, report.sign_flips) == (1.0, 0)
    assert report.max_logit_error < 1e-4
    for layer in ("conv", "down", "head"):
        of_layer = [op for op in network.program.ops if op.name == layer and op.kind.startswith("binary")]
        assert len(of_layer) == products
        assert sum(parity.name == layer for parity in report.layers) == products
    with torch.no_grad():
        assert model(images(12, SHAPE)).std(0).max() > 1e-3


class Read(nn.Module):
    """A sum of signs read in two groupings, and as the real value that it is, whole and flattened."""

    def __init__(self, scheme_name):
        super().__init__()
        scheme = make_scheme(scheme_name)
        self.norm = NormBinarize(8, scheme)
        self.one, self.two = BinaryConv2d(8, 8, 1, scheme), BinaryConv2d(8, 8, 3, scheme, padding=1, groups=2)
        self.head = nn.Linear(8 * 16, 3)

    def forward(self, x):
        bits = self.norm(x)
        y = self.one(bits) + self.two(bits) + nn.functional.relu(bits)
        return self.head(torch.flatten(y, 1)) + self.head(torch.flatten(bits, 1))


@pytest.mark.parametrize("name", ["abcnet", "rebnet", "adabin", "lqnet"])
def test_a_sum_of_signs_has_several_readers(name):
    with borrowed(1, name):
        model = Read(name)
        model.norm.momentum = None
        model(torch.randn(8, 8, 4, 4))
        x = torch.randn(6, 8, 4, 4)
    network = PackedNetwork(packed(model.eval(), (8, 4, 4), CLASSES))
    report = verify(model, network, x)
    assert report.ok, report.first_difference
    assert report.sign_flips == 0
    assert report.signs == 6 * 8 * 16 * model.norm.binarizer.packing.all_terms
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)


class Flat(nn.Module):
    """A binary layer that reads a whole map of several pixels, flattened."""

    def __init__(self, scheme_name):
        super().__init__()
        scheme = make_scheme(scheme_name)
        self.norm, self.conv = NormBinarize(3, scheme), BinaryConv2d(3, 6, 3, scheme, padding=1)
        self.last, self.hidden = NormBinarize(6, scheme), BinaryLinear(6 * 36, 7, scheme)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        x = self.last(self.conv(self.norm(x)))
        return self.head(torch.relu(self.hidden(torch.flatten(x, 1))))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["bats", "xnor", "abcnet", "rebnet"])
def test_a_flattened_map_keeps_its_signs_and_their_order(name, order):
    model = trained(Flat(name), SHAPE).to(memory_format=order)
    x = images(6, SHAPE).contiguous(memory_format=order)
    network = PackedNetwork(packed(model, SHAPE, CLASSES))
    report = verify(model, network, x)
    assert report.ok, report.first_difference
    assert (report.argmax_equal, report.sign_flips) == (1.0, 0)
    assert {parity.compared for parity in report.layers if parity.name == "hidden"} == {6 * 7}


def test_a_layer_that_is_not_given_its_signs_is_named():
    model = trained(Flat("rebnet"), SHAPE)
    # The same values in another tensor, which brings no terms along.
    model.hidden.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(),))
    report = verify(model, PackedNetwork(packed(model, SHAPE, CLASSES)), images(2, SHAPE))
    assert str(report.first_difference) == (
        "layer 'hidden' (binary_linear) does not run in the trained network, or not on signs"
    )


@pytest.mark.parametrize(("tensor", "said"), [("norm.value.1", "norm"), ("conv.weight.0", "conv")])
def test_a_planted_difference_in_one_of_several_signs_is_found(tensor, said):
    model = ready("rebnet")
    made = packed(model, SHAPE, CLASSES)
    tensors = {name: array.copy() for name, array in made.tensors.items()}
    if tensor.startswith("conv"):
        tensors[tensor].reshape(-1)[0] ^= 1
    else:
        tensors[tensor][0] += 1
    report = verify(model, PackedNetwork(Packed(made.program, tensors)), images(12, SHAPE))
    assert not report.ok
    assert {parity.name for parity in report.layers if not parity.equal} == {said}
    differing = [parity.different for parity in report.layers if parity.name == said]
    # Both products have that weight; only the second sign has that threshold.
    assert [count > 0 for count in differing] == ([True, True] if said == "conv" else [False, True])


def test_padding_with_a_sign_is_refused_where_there_are_several():
    scheme = make_scheme("rebnet")
    body = nn.Sequential(
        NormBinarize(3, scheme),
        BinaryConv2d(3, 3, 3, scheme, padding=1, pad_value=1.0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    with pytest.raises(BnasError, match=r"layer '1' \(BinaryConv2d\): it pads with 1, and its operands are sums"):
        packed(body, SHAPE, CLASSES)


def test_costs_count_every_product_of_signs():
    model = Net("abcnet")
    cost = {layer.name: layer for layer in measure(model, SHAPE).layers}
    one = {layer.name: layer for layer in measure(Net("bnn"), SHAPE).layers}
    for name in ("conv", "down"):
        assert (cost[name].macs_real, cost[name].macs_binary) == (0, 25 * one[name].macs_binary)
    assert cost["norm"].activation_bytes == 5 * one["norm"].activation_bytes
    assert measure(Net("horq"), SHAPE).macs_binary == 0


@pytest.mark.parametrize("name", SCHEMES)
def test_each_scheme_packs_as_it_says_or_is_refused(name):
    said, model = packing(make_scheme(name)), ready(name)
    if name in REFUSED:
        assert said.products == 0
        with pytest.raises(BnasError, match=REFUSED[name]):
            packed(model, SHAPE, CLASSES)
    elif name == "binary-activations":
        # Real weights on unpacked signs: the network packs, its products are real ones.
        assert said.products == 0
        check_equal(model, 0)
    else:
        assert said.products > 0
        check_equal(model, said.products)


@pytest.mark.parametrize(("name", "options", "expected"), OPTIONS)
def test_options_pack_as_they_say_or_are_refused(name, options, expected):
    said, model = packing(make_scheme(name, options)), ready(name, options)
    if isinstance(expected, str):
        assert said.products == 0
        with pytest.raises(BnasError, match=expected):
            packed(model, SHAPE, CLASSES)
    else:
        assert said.products == expected
        check_equal(model, expected)
