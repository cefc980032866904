"""What every scheme of the table must satisfy."""

import math

import pytest
import torch
from torch import Tensor, nn

from bnas.binary import SCHEMES, Binarizer, make_scheme
from bnas.binary.anneal import annealed_parts, set_progress
from bnas.binary.schemes import packing
from bnas.binary.terms import total
from bnas.cost import measure
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from bnas.layers.products import Operands

SHAPES = {"conv": (8, 8, 3, 3), "grouped": (8, 4, 3, 3), "linear": (5, 7)}
# Most values that one filter, or one sample, may take under each scheme whose levels are not two.
LEVELS = {"eedn": 3, "twn": 3, "power-of-two": 5, "wrpn": 3, "pact": 4, "abcnet": 32}
LEVELS_OF_ACTIVATIONS = {
    "dorefa": 4,
    "pact": 4,
    "wrpn": 4,
    "hwgq": 4,
    "lqnet": 4,
    "rebnet": 4,
    "horq": 4,
    "least-squares": 4,
}
LEVELS_OF_ACTIVATIONS |= {"abcnet": 32}


def numbers(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x.view(-1)[0] = 0.0
    return x


def weights(name: str, shape: tuple[int, ...]) -> tuple[Tensor, Binarizer]:
    scheme = make_scheme(name)
    weight = numbers(scheme.weight_shape(shape))
    return weight, scheme.weight(weight)


def evaluated(binarizer: Binarizer, x: Tensor) -> Tensor:
    """The value in evaluation, after one pass in training, so that whatever follows the data has moved."""
    with torch.no_grad():
        binarizer(x)
        value: Tensor = binarizer.eval()(x)
    return value


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_the_sum_of_their_terms_and_take_few_values(name: str, shape: tuple[int, ...]) -> None:
    weight, binarizer = weights(name, shape)
    value = evaluated(binarizer, weight)
    assert value.shape == shape
    check_terms(binarizer, weight, value)
    if binarizer.binarizes:
        assert max(len(one_filter.unique()) for one_filter in value) <= LEVELS.get(name, 2)
        assert len(value.unique()) > 1


@pytest.mark.parametrize("name", SCHEMES)
def test_activations_are_the_sum_of_their_terms_and_take_few_values(name: str) -> None:
    x = numbers((3, 8, 4, 4))
    binarizer = make_scheme(name).activation(8)
    value = evaluated(binarizer, x)
    assert value.shape == x.shape
    check_terms(binarizer, x, value)
    if binarizer.binarizes:
        assert max(len(sample.unique()) for sample in value) <= LEVELS_OF_ACTIVATIONS.get(name, 2)
        assert len(value.unique()) > 1


def check_terms(binarizer: Binarizer, x: Tensor, value: Tensor) -> None:
    if not binarizer.binarizes:
        with pytest.raises(BnasError, match="no bits to pack"):
            binarizer.terms(x)
        return
    terms = binarizer.terms(x)
    if binarizer.packing.terms:
        assert sum(not term.constant for term in terms) == binarizer.packing.terms
        assert len(terms) == binarizer.packing.all_terms
    for term in terms:
        assert set(term.sign_pm1.unique().tolist()) <= ({1.0} if term.constant else {-1.0, 1.0})
        assert term.scale is None or torch.isfinite(term.scale).all()
    if len(terms) == 1:
        assert torch.equal(value, total(terms))
    torch.testing.assert_close(value, total(terms), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_sign_of_zero_is_plus_wherever_a_sign_is_compared(name: str) -> None:
    x = torch.tensor([[-1.5, -0.0, 0.0, 0.3, 2.0]]).view(1, 5, 1, 1)
    binarizer = make_scheme(name).activation(5)
    if binarizer.compares:
        assert binarizer.eval()(x).flatten().tolist() == [-1.0, 1, 1, 1, 1]
    weight = torch.tensor([[-1.5, -0.0, 0.0, 1.5]])
    signs = make_scheme(name).weight(weight)
    if signs.packs and name != "recu":
        assert signs.terms(weight)[0].sign_pm1.flatten().tolist() == [-1.0, 1, 1, 1]


def operand(name: str, what: str, x: Tensor) -> Binarizer:
    scheme = make_scheme(name)
    return scheme.weight(x) if what == "weights" else scheme.activation(8)


def tensor_of(name: str, what: str) -> Tensor:
    return numbers(make_scheme(name).weight_shape(SHAPES["conv"]) if what == "weights" else (3, 8, 4, 4))


# Where bfloat16 gives more than a level rounded once: what the level is decided by, or made of, is itself computed from the
# tensor, in 8 bits. Everywhere else each number falls to the level that it has in float32.
ROUNDED = {
    "weights": ("twn", "pact", "abcnet", "adabin"),
    "activations": ("lqnet", "abcnet", "horq", "least-squares"),
}


@pytest.mark.parametrize("what", ROUNDED)
@pytest.mark.parametrize("name", SCHEMES)
def test_bfloat16_gives_the_levels_of_float32_rounded_once(name: str, what: str) -> None:
    x = tensor_of(name, what).to(torch.bfloat16)
    wide = operand(name, what, x.float())
    wide(x.float())
    narrow = operand(name, what, x.float())
    narrow.load_state_dict(wide.state_dict())
    value, right = narrow.to(torch.bfloat16).eval()(x), wide.eval()(x.float())
    assert value.dtype == torch.bfloat16
    if name in ROUNDED[what]:
        assert not torch.equal(value, right.to(torch.bfloat16)), "it is exact: leave it out of ROUNDED"
        far = (value.float() - right).abs() > 0.01 * right.abs().max()
        assert far.float().mean() < 0.02
    else:
        assert torch.equal(value, right.to(torch.bfloat16))
    leaf = x.clone().requires_grad_()
    narrow.train()(leaf).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("what", ROUNDED)
@pytest.mark.parametrize("name", SCHEMES)
def test_state_dict_round_trip(name: str, what: str) -> None:
    x, other = tensor_of(name, what), operand(name, what, torch.ones_like(tensor_of(name, what)))
    binarizer = operand(name, what, x)
    set_progress(binarizer, 0.25)
    binarizer(x)
    for dtype in (torch.float32, torch.bfloat16):
        binarizer, other, x = binarizer.to(dtype), other.to(dtype), x.to(dtype)
        set_progress(other, 0.75)
        other.load_state_dict(binarizer.state_dict())
        assert torch.equal(other.eval()(x), binarizer.eval()(x))
        assert [part.share for part in annealed_parts(other)] == [part.share for part in annealed_parts(binarizer)]
        assert all(part.share.dtype == torch.float64 for part in annealed_parts(binarizer))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_training_step_reaches_every_parameter_and_evaluation_is_the_product_of_the_values(name: str) -> None:
    scheme = make_scheme(name)
    torch.manual_seed(0)
    x = numbers((8, 8, 5, 5)).requires_grad_()
    norm, conv, linear = NormBinarize(8, scheme), BinaryConv2d(8, 8, 3, scheme, groups=2), BinaryLinear(8, 3, scheme)
    parts = torch.nn.ModuleList([norm, conv, linear])
    linear(norm(conv(norm(x))).mean((2, 3))).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    for parameter_name, parameter in parts.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    for layer in (conv, linear):
        assert layer.weight.grad.abs().max() > 0
    parts.eval()
    with torch.no_grad():
        binary = norm(x)
        expected = conv.multiply(binary, conv.binarizer(conv.weight))
        torch.testing.assert_close(conv(binary), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", SCHEMES)
def test_evaluation_multiplies_signs_by_signs_wherever_the_scheme_says_that_it_packs(name: str) -> None:
    scheme = make_scheme(name)
    norm, conv = NormBinarize(8, scheme), BinaryConv2d(8, 8, 3, scheme, padding=1)
    x = numbers((2, 8, 5, 5))
    with torch.no_grad():
        norm(x)
        conv(norm(x))
    norm.eval(), conv.eval()
    seen: list[tuple[Tensor, Tensor]] = []
    convolve = conv.convolve

    def watched(x: Tensor, weight: Tensor) -> Tensor:
        seen.append((x, weight))
        return convolve(x, weight)

    conv.convolve = watched  # type: ignore[method-assign]
    conv(norm(x))
    found = packing(scheme)
    if found.products == 0:
        assert conv.operands is Operands.REAL
        return
    terms = conv.binarizer.terms(conv.weight), norm.binarizer.terms(norm.norm(x))
    assert len(seen) == len(terms[0]) * len(terms[1])
    assert found.products == math.prod(len(side) for side in terms) == conv.products
    assert all(set(operand.unique().tolist()) <= {-1.0, 1.0} for pair in seen for operand in pair)
    assert conv.exact == (found.text == "one XNOR product")


# Codes without a sign that could be drawn.
UNDRAWN = {
    "weights": ("eedn", "twn", "power-of-two", "pact", "wrpn", "dsq", "lqnet", "self-binarizing"),
    "activations": ("eedn", "dorefa", "pact", "wrpn", "dsq", "hwgq", "lqnet", "self-binarizing"),
}


@pytest.mark.parametrize("what", UNDRAWN)
@pytest.mark.parametrize("name", SCHEMES)
def test_signs_may_be_drawn_in_training_and_are_signs_in_evaluation(name: str, what: str) -> None:
    plain, x = operand(name, what, tensor_of(name, what)), tensor_of(name, what)
    drawn = make_scheme(name, {"stochastic": what})
    make = (lambda: drawn.weight(x)) if what == "weights" else (lambda: drawn.activation(8))
    if name in UNDRAWN[what] or not plain.binarizes:
        with pytest.raises(BnasError, match=f"stochastic {what}: the {what}' binarizer: it"):
            make()
        return
    binarizer = make()
    torch.manual_seed(0)
    with torch.no_grad():
        once, again = binarizer(x), binarizer(x)
        torch.manual_seed(0)
        assert torch.equal(make()(x), once)
        assert not torch.equal(once, again)
        plain.load_state_dict(binarizer.state_dict())
        state = torch.get_rng_state()
        assert torch.equal(binarizer.eval()(x), plain.eval()(x))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(total(binarizer.terms(x)), binarizer(x))


@pytest.mark.parametrize("name", SCHEMES)
def test_the_first_line_of_a_scheme_says_what_it_is_and_where_from(name: str) -> None:
    first = (SCHEMES[name].__doc__ or "").splitlines()[0]
    assert name in ("real", "binary-activations", "binary-weights") or "20" in first.split("(")[1].split(")")[0]


@pytest.mark.parametrize("name", SCHEMES)
def test_the_cost_counts_every_filter_that_runs(name: str) -> None:
    scheme = make_scheme(name)
    before = BinaryConv2d(8, 16, 3, scheme, padding=1)
    model = nn.Sequential(before, nn.BatchNorm2d(16), nn.Flatten(), BinaryLinear(256, 3, scheme))
    convolution, _, _, linear = measure(model, (8, 4, 4)).layers
    for layer, module, macs in ((convolution, model[0], 16 * 8 * 9 * 16), (linear, model[3], 3 * 256)):
        assert layer.macs_real + layer.macs_binary == macs * max(module.products, 1)
        assert layer.weight_bits >= macs // layer.output_shape[-1] ** (2 * (layer is convolution))
