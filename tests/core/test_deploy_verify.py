"""verify: a packed network that is the trained one passes; any planted difference is found and its layer named."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from bnas.binary.schemes import make_scheme
from bnas.deploy.file import Packed
from bnas.deploy.ir import Program
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from tests.core.packed_networks import Cell, images, packed, trained


def changed(made, name, change):
    """The packed network with one tensor changed in place."""
    tensors = {key: tensor.copy() for key, tensor in made.tensors.items()}
    change(tensors[name])
    return PackedNetwork(Packed(made.program, tensors))


def flip_bit(words):
    words.reshape(-1)[0] ^= 1


def number(value):
    """Put `value` in the place of the second number (the first channel of a norm has no slope)."""

    def change(tensor):
        tensor.reshape(-1)[1] = value

    return change


def failing(report):
    return [layer.name for layer in report.layers if not layer.equal]


@pytest.mark.parametrize("scheme", ["bnn", "xnor", "bireal", "bats", "binary-activations"])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_exported_network_is_the_trained_one(scheme, seed):
    model = trained(Cell(scheme), seed=seed)
    report = verify(model, PackedNetwork(packed(model)), images(40))
    assert report.ok
    assert report.first_difference is None
    assert (report.images, report.backend, report.argmax_equal) == (40, "cpu", 1.0)
    assert (report.sign_flips, report.max_logit_error < 1e-3) == (0, True)
    # Five norms in front of convolutions of the cell and one of the hidden layer: every sign of every image.
    assert report.signs == 40 * (3 * 12 * 81 + 48 * 25 + 12)
    compared = {layer.name: layer.compared for layer in report.layers}
    assert compared["conv.norm"] == 40 * 12 * 81
    binary = {"conv.conv": 40 * 12 * 81, "reduce.odd": 40 * 12 * 25, "hidden": 40 * 16}
    if scheme != "binary-activations":
        assert compared.items() >= binary.items()


@pytest.mark.parametrize(
    ("tensor", "change", "said", "parity"),
    [
        (
            "conv.conv.weight",
            flip_bit,
            r"layer 'conv.conv' \(binary_conv2d\): 1 bits of its weight differ",
            ["conv.conv"],
        ),
        ("reduce.odd.weight", flip_bit, r"layer 'reduce.odd' \(binary_conv2d\): 1 bits of its weight", ["reduce.odd"]),
        ("hidden.weight", flip_bit, r"layer 'hidden' \(binary_linear\): 1 bits of its weight differ", ["hidden"]),
        (
            "mix.norm.value",
            number(np.nan),
            r"layer 'mix.norm' \(threshold\): 1 of 48 numbers of its value differ",
            ["mix.norm"],
        ),
        (
            "norm.flip",
            lambda flip: np.bitwise_xor(flip, 1, out=flip),
            r"layer 'norm' \(threshold\): 12 of 12 numbers of its flip",
            ["norm"],
        ),
        (
            "dilated.conv.scale",
            number(2.0),
            r"layer 'dilated.conv' \(binary_conv2d\): 1 of 12 numbers of its scale",
            [],
        ),
        ("stem.body.0.weight", number(-0.0), r"layer 'stem.body.0' \(conv2d\): 1 of 324 numbers of its weight", []),
        ("classifier.bias", number(1.0), r"layer 'classifier' \(linear\): 1 of 5 numbers of its bias", []),
    ],
)
def test_a_planted_difference_is_found_and_its_layer_named(tensor, change, said, parity):
    model = trained(Cell("bats"))
    report = verify(model, changed(packed(model), tensor, change), images(20))
    assert not report.ok
    assert not report.contents_ok
    assert failing(report) == parity
    assert re.search(said, report.first_difference)
    assert report.to_dict()["first_difference"] == report.first_difference


def test_zero_and_minus_zero_are_not_the_same_content():
    model = trained(Cell("bats"))
    model.classifier.bias.data[1] = 0.0
    report = verify(model, changed(packed(model), "classifier.bias", number(-0.0)), images(4))
    assert "1 of 5 numbers of its bias" in report.first_difference


def test_a_layer_that_computes_otherwise_is_found_though_the_contents_agree(monkeypatch):
    model = trained(Cell("bats"))
    network = PackedNetwork(packed(model))
    network._tensors["mix.conv.weight"] = network._tensors["mix.conv.weight"] ^ np.uint32(1)
    report = verify(model, network, images(20))
    assert (report.ok, report.contents_ok, failing(report)) == (False, True, ["mix.conv"])
    assert report.first_difference.startswith("layer 'mix.conv' (binary_conv2d): ")
    assert report.first_difference.endswith("of 6000 integer sums differ on equal input")


def test_a_trained_network_that_changed_since_is_found():
    model = trained(Cell("bats"))
    network = PackedNetwork(packed(model))
    model.mix.norm.norm.running_mean += 0.5
    report = verify(model, network, images(20))
    assert report.first_difference.startswith("layer 'mix.norm' (threshold): ")
    assert failing(report) == ["mix.norm"]
    assert report.sign_flips > 0


def with_program(made, change):
    program = json.loads(made.program.to_json())
    change(program)
    return PackedNetwork(Packed(Program.from_json(json.dumps(program)), made.tensors))


def pad_with_minus_one(program):
    for op in program["ops"]:
        if op["name"] == "conv.conv":
            op["attributes"]["pad_value"] = -1


def rewire(program):
    program["ops"][-1]["name"] = "other"


def test_a_different_operation_is_found_and_named():
    model = trained(Cell("bats"))
    report = verify(model, with_program(packed(model), pad_with_minus_one), images(4))
    assert not report.ok
    assert report.layers == ()
    assert report.signs == 0
    assert report.first_difference.startswith("layer 'conv.conv' (binary_conv2d) of the trained network is ")
    assert "'pad_value': -1" in report.first_difference
    report = verify(model, with_program(packed(model), rewire), images(4))
    assert "layer 'other' (linear)" in report.first_difference


def test_a_network_with_more_operations_is_found():
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    short = nn.Sequential(nn.ReLU(), *pool)
    long = nn.Sequential(nn.ReLU(), *pool, nn.Identity(), nn.ReLU())
    network = PackedNetwork(packed(short, classes=tuple("abc")))
    report = verify(long, network, images(2))
    assert report.first_difference == "the trained network has 4 operations, the file 3"


class Ties(nn.Module):
    """Inputs that are whole numbers, and norms whose thresholds are whole numbers too."""

    def __init__(self):
        super().__init__()
        scheme = make_scheme("bats")
        self.norm = NormBinarize(6, scheme)
        self.conv = BinaryConv2d(6, 4, 3, scheme, padding=1)
        self.second = NormBinarize(4, make_scheme("bnn"))
        self.last = BinaryConv2d(4, 3, 3, make_scheme("bnn"), padding=1)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            self.norm.norm.weight.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0, 2.0, -0.5]))
            self.norm.norm.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0, 0.0, 0.0]))
            self.norm.norm.running_mean.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, -1.0, 2.0]))
            self.conv.binarizer.scale.scale.fill_(1.0)
            self.second.norm.weight.copy_(torch.tensor([1.0, -1.0, 0.0, -3.0]))

    def forward(self, x):
        return self.pool(self.last(self.second(self.conv(self.norm(x)))))


def test_ties_at_the_threshold_and_slopes_of_zero_or_below():
    model = Ties().eval()
    x = torch.randint(-3, 4, (30, 6, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    made = packed(model, (6, 5, 5), tuple("abc"))
    value, flip = made.tensors["norm.value"], made.tensors["norm.flip"]
    assert value.tolist() == [0.0, 1.0, -np.inf, np.inf, -1.0, 2.0]
    assert flip.tolist() == [0, 1, 0, 0, 0, 1]
    assert all((x[:, c] == value[c]).any() for c in (0, 1, 4, 5))
    seen = {}
    PackedNetwork(made).run(x, lambda op, bits: seen.update({op.output: bits}))
    bits = seen["norm"].unpack()
    assert (bits[x.numpy() == value.reshape(1, -1, 1, 1)] == 1).all()
    assert (bits[:, 2] == 1).all()
    assert (bits[:, 3] == -1).all()
    sums = seen["conv"]
    assert (sums == 0).any()
    report = verify(model, PackedNetwork(made), x)
    assert (report.ok, report.sign_flips, report.max_logit_error) == (True, 0, 0.0)


def test_a_layer_used_twice_is_compared_at_both_places():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            scheme = make_scheme("bnn")
            self.norm, self.conv = NormBinarize(4, scheme), BinaryConv2d(4, 4, 3, scheme, padding=1)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, x):
            x = x + self.conv(self.norm(x))
            return self.pool(x + self.conv(self.norm(x)))

    model = trained(Twice(), (4, 5, 5))
    report = verify(model, PackedNetwork(packed(model, (4, 5, 5), tuple("abcd"))), images(6, (4, 5, 5)))
    assert (report.ok, report.sign_flips, report.signs) == (True, 0, 2 * 6 * 4 * 25)


def test_signs_that_lie_in_two_groupings_are_counted_once():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            scheme = make_scheme("bnn")
            self.norm = NormBinarize(4, scheme)
            self.one, self.two = BinaryConv2d(4, 4, 1, scheme), BinaryConv2d(4, 4, 1, scheme, groups=2)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, x):
            bits = self.norm(x)
            return self.pool(self.one(bits) + self.two(bits))

    model = trained(Both(), (4, 5, 5))
    report = verify(model, PackedNetwork(packed(model, (4, 5, 5), tuple("abcd"))), images(6, (4, 5, 5)))
    assert (report.ok, report.sign_flips, report.signs) == (True, 0, 6 * 4 * 25)
    assert [layer.name for layer in report.layers] == ["norm", "norm", "one", "two"]


def test_the_model_is_left_as_it_was():
    model = trained(Cell("bats")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    verify(model, PackedNetwork(packed(model)), images(3))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_report_is_json():
    model = trained(Cell("bats"))
    told = json.loads(json.dumps(verify(model, PackedNetwork(packed(model)), images(3)).to_dict()))
    assert told.keys() == {
        "ok",
        "first_difference",
        "contents_ok",
        "backend",
        "images",
        "argmax_equal",
        "sign_flips",
        "signs",
        "max_logit_error",
        "layers",
    }
    assert told["layers"][0] == {
        "name": "conv.norm",
        "kind": "threshold",
        "compared": 3 * 12 * 81,
        "different": 0,
        "equal": True,
    }


def test_what_cannot_be_verified_is_refused():
    model = trained(Cell("bats"))
    network = PackedNetwork(packed(model))
    with pytest.raises(BnasError, match="there are no images to verify"):
        verify(model, network, images(0))
    with pytest.raises(BnasError, match=r"the shape \[N, 3, 9, 9\]; found \[2, 3, 8, 8\]"):
        verify(model, network, images(2, (3, 8, 8)))
    with pytest.raises(
        BnasError, match=r"the trained network, packed for the file's image size and classes: .*real-valued"
    ):
        verify(trained(Cell("real")), network, images(2))
