"""Scheme: how a layer's operands become few-valued. A new method is a few lines made of the four parts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnas.binary.binarizer import Binarizer, Real
from bnas.binary.estimators import Box
from bnas.binary.outputs import Output
from bnas.binary.pre import rectify, unchanged
from bnas.binary.terms import Packing
from bnas.errors import BnasError, check_choice
from bnas.options import check_number

Shape = tuple[int, ...]
Make = Callable[[Tensor], Binarizer]
MakeActivation = Callable[[int], Binarizer]

# In front of binary weights: max(x, 0) as in the papers, what the norm gives, or signs, which pack.
ACTIVATIONS = ("relu", "none", "sign")
MOST_BITS = 8


def _same(shape: Shape) -> Shape:
    return shape


def _kaiming(weight: Tensor) -> object:
    return nn.init.kaiming_uniform_(weight, a=5**0.5)


def spread(weight: Tensor) -> object:
    """Uniform over [-1, 1]: where the levels are fixed numbers, a usual start would round to 0 throughout. Ours."""
    return nn.init.uniform_(weight, -1.0, 1.0)


def _no_output(channels: int) -> Output:
    return Output()


@dataclass(frozen=True)
class Scheme:
    """How a layer's weights and the activations in front of it become +-1, or a sum of few such terms.

    `weight(W)` makes the binarizer of the weight tensor W [O, I, ...] (a learned scale starts from its values);
    `activation(C)` that of activations with C channels, [N, C, ...]; `output(O)` what is done to the layer's product.
    `weight_shape`: the shape of the latent weight for that of the convolution; `BnasError` for one that it cannot be.
    `weight_start` fills the latent weight before training.
    """

    weight: Make
    activation: MakeActivation
    output: Callable[[int], Output] = field(default=_no_output)
    weight_shape: Callable[[Shape], Shape] = field(default=_same)
    weight_start: Callable[[Tensor], object] = field(default=_kaiming)


class SchemePacking(NamedTuple):
    """`products`: XNOR products that the packed network has for one of a layer, 0 where it does not pack; `text` why."""

    products: int
    text: str


def packing(scheme: Scheme) -> SchemePacking:
    """Whether and how a layer under this scheme packs."""
    weight_binarizer = scheme.weight(torch.ones(scheme.weight_shape((8, 8, 3, 3))))
    weight = weight_binarizer.packing
    activation_binarizer = scheme.activation(8)
    activation, output = activation_binarizer.packing, scheme.output(8)
    reasons = [
        f"{what}: {part.why}" for what, part in (("weights", weight), ("activations", activation)) if not part.terms
    ]
    if output.packing is not None:
        reasons.append(output.packing)
    if reasons:
        return SchemePacking(0, f"not: {'; '.join(reasons)}")
    if activation_binarizer.compares and weight_binarizer.packs:
        return SchemePacking(1, "one XNOR product")
    products = weight.all_terms * activation.all_terms
    name = "one XNOR product" if products == 1 else f"{products} XNOR products"
    parts = [f"{what}: {_why(part)}" for what, part in (("weights", weight), ("activations", activation))]
    return SchemePacking(products, f"{name} ({'; '.join(parts)})")


def _why(part: Packing) -> str:
    return f"{part.why} and an offset" if part.offset else part.why


def real_weight(weight: Tensor) -> Binarizer:
    return Real()


def real_activation(channels: int) -> Binarizer:
    return Real()


def activations(scheme: str, activation: str) -> MakeActivation:
    """One of ACTIVATIONS for a scheme that is one of weights; sign(x) has the gradient 1[|x| <= 1]."""
    check_choice(f"activation of scheme {scheme}", activation, ACTIVATIONS)
    if activation == "sign":
        return lambda channels: Binarizer(Box())
    return lambda channels: Real(rectify if activation == "relu" else unchanged, "activation: sign")


def check_bits(scheme: str, option: str, bits: int, at_least: int = 1) -> None:
    """`BnasError` unless a number of bits is one that levels are made of."""
    check_number(f"{option} of scheme {scheme}", bits, at_least=at_least, at_most=MOST_BITS, whole=True)


def dithered(scheme: Scheme, which: str) -> Scheme:
    """The same scheme with signs that are drawn in training: of its weights, its activations, or both."""
    check_choice("stochastic coding", which, ("none", "weights", "activations", "both"))

    def drawn(binarizer: Binarizer, what: str) -> Binarizer:
        if which in (what, "both"):
            try:
                binarizer.dither()
            except BnasError as error:
                raise error.within(f"stochastic {which}: the {what}' binarizer") from None
        return binarizer

    return Scheme(
        lambda weight: drawn(scheme.weight(weight), "weights"),
        lambda channels: drawn(scheme.activation(channels), "activations"),
        scheme.output,
        scheme.weight_shape,
        scheme.weight_start,
    )
