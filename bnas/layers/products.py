"""Products of operands that are sums of +-1 terms: (sum of a_i A_i) (sum of w_j W_j) = sum of a_i w_j (A_i W_j)."""

import enum
from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

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
        # Where the output takes the input's magnitudes out, signs are left.
        if weight.packing.terms and (activation.compares or isinstance(output, InputMap)):
            return Operands.SIGNS if weight.packs else Operands.SIGNS_BY_SUMS
        return Operands.SUMS if weight.packing.terms and activation.packing.terms else Operands.REAL


class Multiplying(nn.Module):
    """Base of the binary layers: their operands, and their evaluation as products of signs by signs."""

    weight: nn.Parameter
    binarizer: Binarizer
    output: Output
    # Lays one number of each filter along the output.
    per_filter: ClassVar[tuple[int, ...]]

    def of_operands(self, activation: Binarizer) -> None:
        """What an input that such a binarizer made is multiplied with."""
        self.operands = Operands.of(self.binarizer, activation, self.output)
        self.input_terms = activation.packing.all_terms if self.operands is Operands.SUMS else 1

    @property
    def exact(self) -> bool:
        """Whether evaluation is one product of +-1 by +-1, whose accumulators are integers."""
        return self.operands is Operands.SIGNS

    @property
    def products(self) -> int:
        """Of signs by signs, that evaluation is made of; 0 where it is one of real numbers."""
        return 0 if self.operands is Operands.REAL else self.binarizer.packing.all_terms * self.input_terms

    def multiplied(self, x: Tensor, signs: Tensor) -> Tensor:
        """The product of x and a weight of that shape, in float32."""
        raise NotImplementedError

    def exactly(self, x: Tensor, term: BitTerm) -> Tensor:
        """Products of +-1 input x with the signs of a term, integers, times the scale of the term; float32."""
        # Fast convolution algorithms leave fractions.
        sums = self.multiplied(x, term.sign_pm1).round_()
        return sums if term.scale is None else sums * term.scale.reshape(self.per_filter)

    def pairs(self, x: Tensor) -> Iterator[tuple[BitTerm, BitTerm]]:
        """The terms of x and of the weight that are multiplied with each other, in the order of the packed products.

        An x that is not +-1 and brings no terms along is one term itself, as it is.
        """
        weights = self.binarizer.terms(self.weight)
        for term in attached(x) or (BitTerm(x, None),):
            for weight in weights:
                yield term, weight

    def sum_of_products(self, x: Tensor) -> Tensor:
        """The product of x with the weight, term by term, in float32; those of signs by signs are rounded to integers."""
        rounded = attached(x) is not None or self.operands is Operands.SIGNS_BY_SUMS
        y: Tensor | None = None
        for term, weight in self.pairs(x):
            part = self.multiplied(term.sign_pm1, weight.sign_pm1)
            part = part.round() if rounded else part
            scale = product_scale(term.scale, weight.scale)
            if scale is not None:
                part = part * (scale if scale.dim() == 0 else scale.reshape(self.per_filter))
            y = part if y is None else y + part
        assert y is not None
        return y


def product_scale(term: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """What multiplies the sums of two terms: the number of the one times that, or those of each filter, of the other."""
    if term is None or weight is None:
        scale = weight if term is None else term
        return None if scale is None else scale.float()
    return weight.float() * term.float()
