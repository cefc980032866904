"""Values and gradients of the binarizers against reference vectors (float64, 1e-5)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bnas.binary import Binarizer, make_scheme, sign_pm1
from bnas.binary.estimators import Box
from bnas.binary.pre import centre, centre_and_clip
from bnas.layers import BinaryConv2d

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/binarizer_vectors.json").read_text())
X = torch.tensor([-2, -1, -0.6, -0.25, 0, 0.25, 0.6, 1, 2], dtype=torch.float64)
W = torch.tensor([[[[0.5, -1.2]], [[0.3, -0.1]]], [[[-0.7, 0.2]], [[1.5, 0.4]]]], dtype=torch.float64)
G = torch.tensor([[[[1, -2]], [[0.5, 3]]], [[[-1, 0.25]], [[2, -0.5]]]], dtype=torch.float64)


def close(found: Tensor, method: str, key: str) -> None:
    expected = torch.tensor(VECTORS[method][key], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def through(binarizer: Binarizer, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = binarizer.double()(leaf)
    value.backward(upstream)
    assert leaf.grad is not None
    return value.detach(), leaf.grad


ACTIVATIONS = [
    ("bnn", {}, "BNN", "act_out", "act_grad_inclusive"),
    ("xnor", {}, "BNN", "act_out", "act_grad_strict_XNOR_code"),
    ("bats", {}, "BNN", "act_out", "act_grad_strict_XNOR_code"),
    ("bats", {"strict": False}, "BNN", "act_out", "act_grad_inclusive"),
    ("binary-activations", {}, "BNN", "act_out", "act_grad_inclusive"),
    ("bireal", {}, "BiReal", "act_out", "act_grad"),
]


@pytest.mark.parametrize(("scheme", "options", "method", "value", "gradient"), ACTIVATIONS)
def test_activations(scheme: str, options: dict[str, Any], method: str, value: str, gradient: str) -> None:
    found, grad = through(make_scheme(scheme, options).activation(9), X, torch.ones_like(X))
    close(found, method, value)
    close(grad, method, gradient)


WEIGHTS = [
    ("bnn", {}, "BinaryConnect", "Wb", "grad_W"),
    ("xnor", {"weight_gradient": "paper"}, "XNOR", "What", "grad_paper"),
    ("xnor", {"weight_gradient": "exact"}, "XNOR", "What", "grad_exact_chain"),
    ("xnor", {"weight_gradient": "trainer"}, "XNOR", "What", "grad_official_trainer"),
    ("bireal", {"weight_gradient": "detached"}, "BiReal", "What", "grad_paper"),
    ("bireal", {"weight_gradient": "bypass"}, "BiReal", "What", "grad_official_torch"),
]


@pytest.mark.parametrize(("scheme", "options", "method", "value", "gradient"), WEIGHTS)
def test_weights(scheme: str, options: dict[str, Any], method: str, value: str, gradient: str) -> None:
    found, grad = through(make_scheme(scheme, options).weight(W), W, G)
    close(found, method, value)
    close(grad, method, gradient)


def test_weights_of_bats_have_the_value_of_xnor_at_the_start_and_the_gradients_of_a_learned_scale() -> None:
    binarizer = make_scheme("bats").weight(W).double()
    value, grad = through(binarizer, W, G)
    close(value, "XNOR", "What")
    alpha = torch.tensor(VECTORS["XNOR"]["alpha"], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(grad, alpha * G * (W.abs() < 1))
    expected = (G * sign_pm1(W)).sum(dim=(1, 2, 3), keepdim=True)
    (scale,) = binarizer.parameters()
    torch.testing.assert_close(scale.grad, expected)


def test_bats_can_start_its_scale_at_one() -> None:
    (scale,) = make_scheme("bats", {"scale_start": "one"}).weight(W).parameters()
    assert torch.equal(scale, torch.ones(2, 1, 1, 1, dtype=scale.dtype))


def test_centred_weights_of_the_released_xnor_trainer() -> None:
    close(centre(W), "XNOR", "W_mean_centred")
    assert torch.equal(centre_and_clip(W), centre(W).clamp(-1, 1))
    value = make_scheme("xnor", {"centre": True}).weight(W)(W)
    assert torch.equal(torch.sign(value), torch.sign(centre_and_clip(W)))
    assert not torch.equal(torch.sign(value), torch.sign(W))


def test_box_limit_and_strictness_at_the_edge() -> None:
    edge = torch.tensor([-1.3, 1.3, 1.31])
    assert Box(1.3).derivative(edge).tolist() == [1, 1, 0]
    assert Box(1.3, strict=True).derivative(edge).tolist() == [0, 0, 0]


LAYERS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/binarizer_layer_vectors.json").read_text())
IMAGE = torch.tensor(VECTORS["XNOR"]["I"], dtype=torch.float64)


@pytest.mark.parametrize(
    ("scheme", "options", "method"),
    [
        ("bnn", {"weight_gradient": "box"}, "BNN"),
        ("bireal", {"weight_gradient": "bypass"}, "BiReal_code"),
    ],
)
def test_whole_layers(scheme: str, options: dict[str, Any], method: str) -> None:
    made = make_scheme(scheme, options)
    x = IMAGE.clone().requires_grad_()
    layer = BinaryConv2d(2, 2, (1, 2), made)
    with torch.no_grad():
        layer.weight = torch.nn.Parameter(W.view(2, 2, 1, 2).clone())
    y = layer(made.activation(2)(x))
    y.sum().backward()
    assert x.grad is not None
    for found, key in ((y, "y"), (x.grad, "grad_I"), (layer.weight.grad, "grad_W")):
        torch.testing.assert_close(found, torch.tensor(LAYERS[method][key], dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.eval()(make_scheme(scheme).activation(2)(IMAGE)).double(), y, rtol=0, atol=1e-6)
