"""Operands and their stand-ins, sensitivity of layers, duplicate filters, forward and gradient errors."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas.binary import make_scheme
from bnas.binary_errors import binary_errors, forward_errors, gradient_errors
from bnas.data import Batches, ImageSet, Normalization
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from bnas.operands import RealInputs, fitted, kind, layers, other_input, other_weight, product
from bnas.sensitivity import duplicates, sensitivity
from bnas.training.metrics import accuracy, recalibrate


class Net(nn.Module):
    """Stem, (norm, sign, 3x3), (norm, sign, 1x1, twice from one sign), classifier."""

    def __init__(self, scheme: str, **options: object) -> None:
        super().__init__()
        made = make_scheme(scheme, options)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first_norm, self.first = NormBinarize(4, made), BinaryConv2d(4, 4, 3, made, padding=1, groups=2)
        self.norm = NormBinarize(4, made)
        self.left, self.right = (BinaryConv2d(4, 4, 1, made) for _ in range(2))
        self.last = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(self.first_norm(x))
        binary = self.norm(x)
        x = self.last(x + self.left(binary) + self.right(binary))
        logits: Tensor = self.classifier(x.clamp_min(0).mean(dim=(2, 3)))
        return logits


BINARY = ("first", "left", "right")


def batches(count: int = 24, seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(count) % 3)
    return Batches(images, 8, seed=0, normalization=Normalization.of(images))


def net(scheme: str, **options: object) -> Net:
    torch.manual_seed(0)
    made = Net(scheme, **options)
    recalibrate(made, made, batches(), 3)
    return made.eval()


def test_fitted_is_least_squares() -> None:
    value, like = torch.randn(3, 5), torch.randn(3, 5)
    found = fitted(value, like, [1])
    for row, (a, b) in enumerate(zip(value.numpy(), like.numpy(), strict=True)):
        factor = np.linalg.lstsq(a[:, None], b, rcond=None)[0]
        np.testing.assert_allclose(found[row].numpy(), a * factor, rtol=1e-4)
    assert torch.equal(fitted(torch.zeros(1, 5), like[:1], [1]), torch.zeros(1, 5))


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("xnor", {}),
        ("xnor", {"input_scale": "map"}),
        ("bnn", {}),
        ("reactnet", {}),
        ("abcnet", {}),
        ("binary-activations", {}),
    ],
)
def test_the_product_of_its_own_operands_is_the_layer(scheme: str, options: dict) -> None:
    model = net(scheme, **options)
    x = next(batches().in_order())[0]
    for layer in layers(model).values():
        own = layer.binarizer(layer.weight) if isinstance(layer, BinaryConv2d) else layer.weight
        seen = []
        handle = layer.register_forward_hook(lambda m, i, o, seen=seen: seen.append((i[0], o)))
        with torch.no_grad():
            model(x)
            torch.testing.assert_close(product(layer, seen[0][0], own), seen[0][1], rtol=1e-4, atol=1e-4)
        handle.remove()
    made = BinaryLinear(4, 3, make_scheme("xnor")).eval()
    signs = torch.ones(2, 4)
    torch.testing.assert_close(product(made, signs, made.binarizer(made.weight)), made(signs))


def test_stand_ins() -> None:
    model = net("bnn")
    real = other_weight(model.first)
    binary = model.first.binarizer(model.first.weight)
    for found, latent, sign in zip(real, model.first.weight, binary, strict=True):
        ratio = (found / latent).flatten()
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        torch.testing.assert_close((found * sign).sum(), found.square().sum())
    stem = other_weight(model.stem)
    assert all(len(torch.unique(filter.abs())) == 1 for filter in stem)
    torch.testing.assert_close(stem.abs().mean((1, 2, 3)), model.stem.weight.abs().mean((1, 2, 3)))
    assert other_weight(net("binary-activations").first) is None
    x = torch.randn(6, 4, 3, 3)
    two = other_input(model.stem, x, RealInputs())
    assert all(len(torch.unique(channel)) == 2 for channel in two.transpose(0, 1))
    assert torch.equal(two > x.mean((0, 2, 3), keepdim=True), x > x.mean((0, 2, 3), keepdim=True))


def test_real_inputs_are_what_was_binarized() -> None:
    model = net("reactnet")
    with torch.no_grad():
        model.norm.binarizer.pre.shift.copy_(torch.tensor([0.5, -0.5, 0.0, 1.0]))
    seen: dict[str, Tensor | None] = {}
    inputs = RealInputs()
    for name in ("left", "right", "classifier"):
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(lambda m, i, name=name: seen.__setitem__(name, inputs.of(i[0])))
    entering = []
    model.norm.register_forward_pre_hook(lambda m, i: entering.append(i[0]))
    with torch.no_grad(), inputs.watching(model):
        model(next(batches().in_order())[0])
    assert seen["classifier"] is None
    expected = model.norm.norm(entering[0]) + torch.tensor([0.5, -0.5, 0.0, 1.0]).view(1, -1, 1, 1)
    for name in ("left", "right"):
        torch.testing.assert_close(seen[name], expected)
    assert not inputs._of


def test_kinds_in_words() -> None:
    made = make_scheme("bnn")
    assert kind(BinaryConv2d(4, 4, 3, made)) == "3x3"
    assert kind(BinaryConv2d(4, 4, 5, made, dilation=2, groups=4)) == "5x5 dilation 2 depthwise"
    assert kind(nn.Conv2d(4, 4, 1, 2, groups=2)) == "1x1 2 groups stride 2"
    assert kind(nn.Linear(2, 2)) == "linear"


class Reals(nn.Module):
    """A binary convolution with other weights in its place."""

    def __init__(self, layer: BinaryConv2d, weight: Tensor) -> None:
        super().__init__()
        self.layer, self.other = layer, weight

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.convolve(x, self.other)


def test_sensitivity_is_that_of_networks_with_the_layer_replaced() -> None:
    model = net("xnor")
    # Statistics that are not those of the images.
    model.last.running_mean.add_(torch.tensor([1.0, -1.0, 0.5, 0.0]))
    with torch.no_grad():
        # All classes are answered, so that accuracies differ.
        model.classifier.bias.sub_(torch.cat([model(x) for x, _ in batches().in_order()]).mean(0))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, calibration = batches(), batches(16, 1)

    def of(changed: nn.Module) -> float:
        recalibrate(changed, changed, calibration, 2)
        return accuracy(changed.eval(), images)

    done = []
    found = sensitivity(model, images, calibration, calibration_batches=2, progress=lambda *n: done.append(n))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert done[-1] == (5, 5)
    by_name = {layer.name: layer for layer in found.layers}
    assert found.trained == accuracy(model, images)
    assert found.baseline == of(copy.deepcopy(model))
    assert found.baseline != found.trained
    for name in BINARY:
        replaced = copy.deepcopy(model)
        replaced.set_submodule(name, Reals(replaced.get_submodule(name), other_weight(model.get_submodule(name))))
        assert by_name[name].weights == pytest.approx(of(replaced) - found.baseline)
        assert by_name[name].was == "binary"
        assert by_name[name].both is not None
    for name in ("stem", "classifier"):
        replaced = copy.deepcopy(model)
        with torch.no_grad():
            replaced.get_submodule(name).weight.copy_(other_weight(model.get_submodule(name)))
        assert by_name[name].weights == pytest.approx(of(replaced) - found.baseline)
        assert (by_name[name].was, by_name[name].duplicates) == ("real", None)
    changes = [value for each in found.layers for value in (each.weights, each.input, each.both)]
    assert any(changes)


def test_what_has_no_other_kind_is_not_measured() -> None:
    found = {each.name: each for each in sensitivity(net("binary-activations"), batches(), batches()).layers}
    assert (found["first"].weights, found["first"].both) == (None, None)
    assert found["first"].input is not None


def test_duplicates_are_counted_up_to_the_sign_and_group_by_group() -> None:
    layer = BinaryConv2d(2, 4, (1, 2), make_scheme("xnor"))
    signs = torch.tensor([[1, -1, 1, 1], [-1, 1, -1, -1], [1, 1, 1, 1], [1, -1, 1, 1]], dtype=torch.float32)
    with torch.no_grad():
        layer.weight.copy_(signs.view(4, 2, 1, 2) * torch.rand(4, 2, 1, 2).clamp_min(0.1))
    assert duplicates(layer) == 2
    grouped = BinaryConv2d(4, 4, (1, 2), make_scheme("xnor"), groups=2)
    with torch.no_grad():
        grouped.weight.copy_(layer.weight)
    assert duplicates(grouped) == 1
    assert duplicates(BinaryConv2d(2, 4, 1, make_scheme("real"))) is None
    assert duplicates(nn.Conv2d(2, 2, 1)) is None


def test_forward_errors_are_numpys() -> None:
    model = net("bireal")
    x = next(batches().in_order())[0]
    seen = []
    model.left.register_forward_hook(lambda m, i, o: seen.append(o))
    model.norm.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    found = forward_errors(model, x)
    assert set(found) == set(BINARY)
    with torch.no_grad():
        real = np.einsum("nchw,oc->nohw", model.norm.norm(seen[0]).numpy(), model.left.weight[:, :, 0, 0].numpy())
    y = seen[1].numpy()
    size = np.linalg.norm(real)
    assert found["left"][0] == pytest.approx(np.linalg.norm(y - real) / size, rel=1e-4)
    factor = (y * real).sum((0, 2, 3), keepdims=True) / (y * y).sum((0, 2, 3), keepdims=True)
    assert found["left"][1] == pytest.approx(np.linalg.norm(factor * y - real) / size, rel=1e-4)


def test_zeroise_is_nearer_where_no_scale_fits_the_output() -> None:
    model, labels = net("bnn"), torch.arange(8) % 3
    x = next(batches().in_order())[0]
    with torch.no_grad():
        model.left.weight.mul_(0.01)
        model.right.weight.copy_(model.right.weight.sign())
    errors = {each.name: each for each in binary_errors(model, x, labels)}
    assert errors["left"].zero_is_nearer
    assert not errors["right"].zero_is_nearer
    assert errors["left"].forward_scaled < 1


def test_a_true_derivative_delivers_what_it_promises() -> None:
    """tanh(nu w) of self-binarizing weights is differentiated as it is: differences of small steps agree."""
    model = net("self-binarizing").double()
    x, labels = next(batches().in_order())[0].double(), torch.arange(8) % 3
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = gradient_errors(model, x, labels, step=1e-5)
    assert set(found) == set(BINARY)
    for delivered, cosine in found.values():
        assert delivered == pytest.approx(1, abs=1e-3)
        assert cosine == pytest.approx(1, abs=1e-3)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training


def test_gradient_errors_are_a_function_of_the_seed() -> None:
    model = net("bnn")
    x, labels = next(batches().in_order())[0], torch.arange(8) % 3
    state = torch.get_rng_state()
    first, again, other = (gradient_errors(model, x, labels, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first == again
    assert {name: cosine for name, (_, cosine) in first.items()} != {n: c for n, (_, c) in other.items()}
    # The direction along the gradient is no random one.
    assert {name: delivered for name, (delivered, _) in first.items()} == {n: d for n, (d, _) in other.items()}
    assert gradient_errors(net("real"), x, labels) == {}
