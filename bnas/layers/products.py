"""Products of operands that are sums of +-1 terms: (sum of a_i A_i) (sum of w_j W_j) = sum of a_i w_j (A_i W_j)."""

import enum
from collections.abc import Callable, Sequence

from torch import Tensor

from bnas.binary.binarizer import Binarizer
from bnas.binary.outputs import InputMap, Output
from bnas.binary.terms import BitTerm, attached


class Operands(enum.Enum):
    """What a layer multiplies in evaluation, input by weight; real numbers where one side is not made of signs."""

    SIGNS = "one sign by one sign"
    SIGNS_BY_SUMS = "one sign by a sum of signs"
    SUMS = "sums of signs"
    REAL = "real numbers"

    @staticmethod
    def of(weight: Binarizer, activation: Binarizer, output: Output) -> "Operands":
        if not (weight.packing.terms and activation.packing.terms):
            return Operands.REAL
        # Where the output takes the input's magnitudes out, signs are left.
        if activation.compares or isinstance(output, InputMap):
            return Operands.SIGNS if weight.packs else Operands.SIGNS_BY_SUMS
        return Operands.SUMS


def sum_of_products(
    x: Tensor,
    weight_terms: Sequence[BitTerm],
    product: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    operands: Operands,
) -> Tensor:
    """The product of x with a sum of weight terms; `product(x, signs)` multiplies, `shape` lays a filter's scale along y.

    Where x is +-1 or brings its terms along, each product is one of signs by signs and its integers are rounded; else x
    is multiplied as it is. In float32.
    """
    terms = attached(x)
    rounded = terms is not None or operands is Operands.SIGNS_BY_SUMS
    y: Tensor | None = None
    for term in terms or (BitTerm(x, None),):
        for weight in weight_terms:
            part = product(term.sign_pm1, weight.sign_pm1)
            part = part.round() if rounded else part
            if weight.scale is not None:
                part = part * weight.scale.float().reshape(shape)
            if term.scale is not None:
                part = part * _beside(term.scale.float(), part)
            y = part if y is None else y + part
    assert y is not None
    return y


def _beside(scale: Tensor, y: Tensor) -> Tensor:
    """A scale of one number, or of one a sample, with as many dimensions as y."""
    return scale if scale.dim() == 0 else scale.reshape(-1, *(1,) * (y.dim() - 1))


def stands_outside(terms: Sequence[BitTerm]) -> bool:
    """Whether every scale is one number or one of each sample, so that it can be taken out of a product."""
    return all(t.scale is None or t.scale.dim() == 0 or t.scale[:1].numel() == 1 for t in terms)
