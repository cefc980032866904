"""What every scheme of the table must satisfy."""

import inspect

import pytest
import torch

from bnas.binary import SCHEMES, Binarizer, make_scheme
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize

SHAPES = {"conv": (6, 4, 3, 3), "grouped": (6, 2, 3, 3), "linear": (5, 7)}


def weights(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Binarizer]:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight.view(-1)[0] = 0.0
    return weight, make_scheme(name).weight(weight)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_value_is_the_sum_of_its_terms_and_each_filter_has_one_magnitude(name: str, shape: tuple[int, ...]) -> None:
    weight, binarizer = weights(name, shape)
    value = binarizer(weight)
    assert value.shape == weight.shape
    if not binarizer.packs:
        assert torch.equal(value, weight)
        with pytest.raises(BnasError, match="no bits to pack"):
            binarizer.terms(weight)
        return
    total = sum(t.sign_pm1 if t.scale is None else t.sign_pm1 * t.scale for t in binarizer.terms(weight))
    assert torch.equal(value, total)
    for term in binarizer.terms(weight):
        assert set(term.sign_pm1.unique().tolist()) == {-1.0, 1.0}
        assert term.sign_pm1.view(-1)[0] == 1.0  # sign(0) = +1
    for one_filter in value:
        assert len(one_filter.abs().unique()) == 1


@pytest.mark.parametrize("name", SCHEMES)
def test_activations_are_plus_minus_one_with_sign_of_zero_positive(name: str) -> None:
    x = torch.tensor([[-1.5, -0.0, 0.0, 0.3, 2.0]]).view(1, 5, 1, 1)
    binarizer = make_scheme(name).activation(5)
    expected = torch.tensor([-1.0, 1, 1, 1, 1]) if binarizer.packs else x.view(-1)
    assert torch.equal(binarizer(x).view(-1), expected)


@pytest.mark.parametrize("name", SCHEMES)
def test_bfloat16_and_state_dict_round_trip(name: str) -> None:
    weight, binarizer = weights(name, (6, 4, 3, 3), torch.bfloat16)
    value = binarizer.to(torch.bfloat16)(weight)
    assert value.dtype == torch.bfloat16
    other = make_scheme(name).weight(torch.ones_like(weight)).to(torch.bfloat16)
    other.load_state_dict(binarizer.state_dict())
    assert torch.equal(other(weight), value)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_training_step_reaches_the_latent_weights_of_every_layer_kind(name: str) -> None:
    scheme = make_scheme(name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, 5, 5, generator=generator, requires_grad=True)
    norm, conv, linear = NormBinarize(4, scheme), BinaryConv2d(4, 6, 3, scheme, groups=2), BinaryLinear(6, 3, scheme)
    linear(conv(norm(x)).mean((2, 3)).tanh()).square().sum().backward()
    for tensor in (x, conv.weight, linear.weight):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0


OPTIONS = [(name, option) for name in SCHEMES for option in inspect.signature(SCHEMES[name]).parameters]
VALUES = {
    "strict": (True, False),
    "weight_gradient": ("exact", "trainer", "bypass", "detached", "paper", "identity", "box"),
}
VALUES |= {"centre": (True, False), "scale_start": ("mean_abs", "one")}


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=["-".join(o) for o in OPTIONS])
def test_every_option_changes_something(name: str, option: str) -> None:
    """Two values of each option give another value or another gradient, of weights or of activations."""
    seen = set()
    for value in VALUES[option]:
        try:
            scheme = make_scheme(name, {option: value})
        except BnasError:
            continue
        x = torch.tensor([[-1.0, 0.5, 1.0, 2.0], [0.3, -0.4, 1.0, -1.0]]).view(2, 4, 1, 1).requires_grad_()
        both = scheme.weight(x.detach())(x), scheme.activation(4)(x)
        grads = [torch.autograd.grad(y, x, torch.arange(8.0).view_as(x)) for y in both]
        seen.add(str([y.tolist() for y in both] + [g[0].tolist() for g in grads]))
    assert len(seen) >= 2


def test_unknown_names_and_wrong_types_have_messages() -> None:
    with pytest.raises(BnasError, match=r"no scheme named 'bierial'.*Did you mean 'bireal'\?"):
        make_scheme("bierial")
    with pytest.raises(BnasError, match=r"no option of scheme xnor named 'center'.*Did you mean 'centre'\?"):
        make_scheme("xnor", {"center": True})
    with pytest.raises(BnasError, match="option centre takes a bool, got 'yes'"):
        make_scheme("xnor", {"centre": "yes"})
    with pytest.raises(BnasError, match="no weight_gradient of scheme xnor named 'chain'"):
        make_scheme("xnor", {"weight_gradient": "chain"})
    with pytest.raises(BnasError, match="no weight_gradient of scheme bireal named 'paper'"):
        make_scheme("bireal", {"weight_gradient": "paper"})
    with pytest.raises(BnasError, match="no start of a learned scale named 'two'"):
        make_scheme("bats", {"scale_start": "two"}).weight(torch.ones(2, 2))
