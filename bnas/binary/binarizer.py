"""Binarizer = SCALE(EST(CODE(PRE(x)))) for one tensor: the value, its gradient, and the bits that are packed."""

from typing import NamedTuple

from torch import Tensor, nn

from bnas.binary.codes import Code, Sign
from bnas.binary.estimators import Estimator, Identity, surrogate
from bnas.binary.pre import Pre, unchanged
from bnas.binary.scales import Scale
from bnas.errors import BnasError


class BitTerm(NamedTuple):
    """One packable term: `sign_pm1` holds -1 and +1, `scale` broadcasts to it (None means 1)."""

    sign_pm1: Tensor
    scale: Tensor | None


class Binarizer(nn.Module):
    """y = SCALE(EST(CODE(PRE(x)))).

    Autograd runs through PRE and SCALE; EST replaces the gradient of CODE. Every method of the literature that
    quantizes one tensor is a choice of the four parts (schemes.py has the named ones).
    """

    def __init__(
        self,
        estimator: Estimator,
        *,
        pre: Pre = unchanged,
        code: Code | None = None,
        scale: Scale | None = None,
    ) -> None:
        super().__init__()
        self.pre = pre
        self.code: Code = code or Sign()
        self.estimator = estimator
        self.scale = scale or Scale()

    @property
    def packs(self) -> bool:
        """Whether the value is one term of +-1 times a scale, so that it packs to one bit an element."""
        return self.code.packs

    @property
    def binarizes(self) -> bool:
        return True

    @property
    def window(self) -> float | None:
        """Latent values are useful within +-window only (None: everywhere)."""
        return self.estimator.window

    def forward(self, x: Tensor) -> Tensor:
        u = self.pre(x)
        scaled: Tensor = self.scale(surrogate(u, self.code(u), self.estimator), x)
        return scaled

    def terms(self, x: Tensor) -> tuple[BitTerm, ...]:
        """The bits and scales whose sum of products is `forward(x)`: exactly what the exporter packs."""
        return (BitTerm(self.code(self.pre(x)), self.scale.value(x)),)

    def reset(self, x: Tensor) -> None:
        """Start learned parts anew for the tensor x, which has just been replaced."""
        self.scale.reset(x)


class Real(Binarizer):
    """The tensor as it is: for the real-valued twin, and for the real half of a two-stage schedule."""

    def __init__(self) -> None:
        super().__init__(Identity())

    @property
    def packs(self) -> bool:
        return False

    @property
    def binarizes(self) -> bool:
        return False

    def forward(self, x: Tensor) -> Tensor:
        return x

    def terms(self, x: Tensor) -> tuple[BitTerm, ...]:
        raise BnasError("a real-valued tensor has no bits to pack")
