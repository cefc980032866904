"""Values and gradients of the binarizers against reference vectors (float64, 1e-5)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bnas.binary import make_scheme, sign_pm1
from bnas.binary.estimators import Box
from bnas.binary.pre import centre, centre_and_clip
from bnas.layers import BinaryConv2d
from tests.core.binary_vectors import LAYERS, VECTORS, G, W, X, along, close, through, vector

ACTIVATIONS = [
    ("bnn", {}, "BNN", "act_out", "act_grad_inclusive"),
    ("xnor", {}, "BNN", "act_out", "act_grad_strict_XNOR_code"),
    ("bats", {}, "BNN", "act_out", "act_grad_strict_XNOR_code"),
    ("bats", {"strict": False}, "BNN", "act_out", "act_grad_inclusive"),
    ("binary-activations", {}, "BNN", "act_out", "act_grad_inclusive"),
    ("bireal", {}, "BiReal", "act_out", "act_grad"),
    ("xnor-plus-plus", {}, "BNN", "act_out", "act_grad_strict_XNOR_code"),
    ("binary-dense-net", {}, "BNN", "act_out", "act_grad_inclusive"),
    ("reactnet", {}, "BiReal", "act_out", "act_grad"),
    ("bnn-plus", {}, "BNN", "act_out", None),
    ("bnn-plus", {}, None, None, ("BNNplus", "ss_grad_beta5")),
    ("binary-dense-net", {}, None, None, ("BDN", "act_grad_clip1_3")),
    ("fda", {}, None, None, ("FDA", "grad_n9_w0_1")),
    ("dorefa", {"activation_bits": 2}, "DoReFa", "a2", "a2_grad"),
    ("wrpn", {"activation_bits": 2}, "WRPN", "a2", "a2_grad"),
    ("hwgq", {}, "HWGQ", "uniform3", "grad3"),
    ("hwgq", {"levels": "nonuniform"}, "HWGQ", "nonuniform2", "grad2"),
    ("eedn", {}, "EEDN", "neuron", "neuron_grad"),
    ("rebnet", {"levels": 2}, "ReBNet", "out", "grad_x"),
    ("dsq", {"activation_bits": 1}, "DSQ", "hard_1bit", "grad_1bit"),
    ("dsq", {"activation_bits": 2}, "DSQ", "hard_2bit", "grad_2bit"),
    ("self-binarizing", {}, "SelfBin", "tanh_nu1", "grad_nu1"),
    ("self-binarizing", {"nu_start": 5.0}, "SelfBin", "tanh_nu5", "grad_nu5"),
    ("irnet", {}, None, None, ("IRNet", "ede_grad_t0_1")),
    ("irnet", {"t_start": 1.0}, "BNN", "act_out", ("IRNet", "ede_grad_t1")),
    ("irnet", {"t_start": 10.0}, None, None, ("IRNet", "ede_grad_t10")),
    ("reste", {}, "BNN", "act_out", ("ReSTE", "o1")),
]


@pytest.mark.parametrize(("scheme", "options", "method", "value", "gradient"), ACTIVATIONS)
def test_activations(scheme: str, options: dict[str, Any], method: str, value: Any, gradient: Any) -> None:
    found, grad = through(make_scheme(scheme, options).activation(1), along(X), along(torch.ones_like(X)))
    check(found, method, value)
    check(grad, method, gradient)


def check(found: Tensor, method: str | None, key: str | tuple[str, str] | None) -> None:
    """A key of the method, or a (method, key) of its own; None where the vectors do not have it."""
    if isinstance(key, tuple):
        close(found, *key)
    elif key is not None and method is not None:
        close(found, method, key)


WEIGHTS = [
    ("bnn", {}, "BinaryConnect", "Wb", "grad_W"),
    ("xnor", {"weight_gradient": "paper"}, "XNOR", "What", "grad_paper"),
    ("xnor", {"weight_gradient": "exact"}, "XNOR", "What", "grad_exact_chain"),
    ("xnor", {"weight_gradient": "trainer"}, "XNOR", "What", "grad_official_trainer"),
    ("bireal", {"weight_gradient": "detached"}, "BiReal", "What", "grad_paper"),
    ("bireal", {"weight_gradient": "bypass"}, "BiReal", "What", "grad_official_torch"),
    ("reactnet", {}, "BiReal", "What", "grad_official_torch"),
    ("bwn", {}, "XNOR", "What", "grad_paper"),
    ("horq", {}, "XNOR", "What", "grad_paper"),
    ("hwgq", {}, "XNOR", "What", None),
    ("binary-connect", {}, "BinaryConnect", "Wb", "grad_W"),
    ("binary-dense-net", {}, "BDN", "Wb", "grad_W_clip1_3"),
    ("twn", {}, "TWN", "Wt_layer", "grad_W"),
    ("twn", {"over": "filter"}, "TWN", "Wt_filter", "grad_W"),
    ("dorefa", {}, "DoReFa", "w1", "w1_grad"),
    ("dorefa", {"weight_bits": 2}, "DoReFa", "w2", "w2_grad_max_detached"),
    ("dorefa", {"weight_bits": 2, "maximum": "through"}, "DoReFa", "w2", "w2_grad_through_max"),
    ("pact", {}, "DoReFa", "w2", "w2_grad_max_detached"),
    ("wrpn", {"weight_bits": 2}, "WRPN", "w2", "w2_grad"),
    ("wrpn", {"weight_bits": 4}, "WRPN", "w4", None),
    ("abcnet", {"weight_bases": 3}, "ABC", "Wapprox_M3", "grad_W_M3_identity_STE"),
    ("irnet", {"t_start": 1.0}, "IRNet", "out", "grad_W_t1"),
    ("adabin", {"t_start": 1.0}, "AdaBin", "W_out", "W_grad_t1"),
]


@pytest.mark.parametrize(("scheme", "options", "method", "value", "gradient"), WEIGHTS)
def test_weights(scheme: str, options: dict[str, Any], method: str, value: Any, gradient: Any) -> None:
    found, grad = through(make_scheme(scheme, options).weight(W), W, G)
    check(found, method, value)
    check(grad, method, gradient)


def test_weights_of_bats_have_the_value_of_xnor_at_the_start_and_the_gradients_of_a_learned_scale() -> None:
    binarizer = make_scheme("bats").weight(W).double()
    value, grad = through(binarizer, W, G)
    close(value, "XNOR", "What")
    alpha = torch.tensor(VECTORS["XNOR"]["alpha"], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(grad, alpha * G * (W.abs() < 1))
    expected = (G * sign_pm1(W)).sum(dim=(1, 2, 3), keepdim=True)
    (scale,) = binarizer.parameters()
    torch.testing.assert_close(scale.grad, expected)


def test_the_trainer_s_gradient_of_xnor_net_is_the_printed_one_times_n_and_the_share_of_other_channels() -> None:
    weight, upstream = torch.randn(2, 5, 3, 3, dtype=torch.float64), torch.randn(2, 5, 3, 3, dtype=torch.float64)
    paper, trainer = (
        through(make_scheme("xnor", {"weight_gradient": name}).weight(weight), weight, upstream)[1]
        for name in ("paper", "trainer")
    )
    torch.testing.assert_close(trainer, paper * 45 * (1 - 1 / 5))


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


@pytest.mark.parametrize(
    ("scheme", "options", "method"),
    [
        ("bnn", {"weight_gradient": "box"}, "BNN"),
        ("bireal", {"weight_gradient": "bypass"}, "BiReal_code"),
        ("xnor", {"input_scale": "map"}, "XNOR_with_K"),
        ("irnet", {"t_start": 1.0}, "IRNet_t1"),
    ],
)
def test_whole_layers(scheme: str, options: dict[str, Any], method: str) -> None:
    made = make_scheme(scheme, options)
    image = vector("XNOR", "I")
    x = image.clone().requires_grad_()
    layer = BinaryConv2d(2, 2, (1, 2), made)
    with torch.no_grad():
        layer.weight = torch.nn.Parameter(W.view(2, 2, 1, 2).clone())
    y = layer(made.activation(2)(x))
    y.sum().backward()
    assert x.grad is not None
    for found, key in ((y, "y"), (x.grad, "grad_I"), (layer.weight.grad, "grad_W")):
        torch.testing.assert_close(found, torch.tensor(LAYERS[method][key], dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        layer.eval()(make_scheme(scheme, options).activation(2)(image)).double(), y, rtol=0, atol=1e-6
    )
