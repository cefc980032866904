"""Binarizer = SCALE(EST(CODE(PRE(x)))) for one tensor: the value, its gradient, and the bits that are packed."""

import re

from torch import Tensor, nn

from bnas.binary.affine import LearnedPair, Standardized
from bnas.binary.codes import Code, Observer, Sign, StochasticSign
from bnas.binary.estimators import Estimator, Identity, surrogate
from bnas.binary.pre import KEEP_SIZE, Pre, Shift, formula, keeps_sign, points, rectify, unchanged
from bnas.binary.scales import Scale
from bnas.binary.terms import BitTerm, Packing, offset, scaled
from bnas.errors import BnasError

__all__ = ["Binarizer", "BitTerm", "Real", "of_input"]


def of_input(mend: str) -> Packing:
    """That of scales which each input has anew; `mend`: what the scheme offers instead."""
    return Packing(0, f"their scales are computed from each input; {mend}")


class Binarizer(nn.Module):
    """y = SCALE(EST(CODE(PRE(x)))).

    Autograd runs through PRE and SCALE; EST replaces the gradient of CODE. Every method of the literature that
    quantizes one tensor by one code is a choice of the four parts (schemes/ has the named ones); those that add up
    several are in several.py.

    In bfloat16 each number gets the level that it has in float32, rounded once, where thresholds are fixed or learned; where
    they, or the parts of a level, are computed from the tensor (TWN, HORQ and others), they are so in 8 bits.
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
        return self.packing.terms == 1 and self.code.packs and type(self.scale) not in (Standardized, LearnedPair)

    @property
    def packing(self) -> Packing:
        """How many terms that hold bits the value is the sum of, and of what kind."""
        if self.scale.of_input:
            return of_input("option input_scale: none leaves them out")
        packing = self.code.packing
        return packing._replace(offset=True) if self.scale.added else packing

    @property
    def binarizes(self) -> bool:
        return True

    @property
    def window(self) -> float | None:
        """Latent values are useful within +-window only (None: everywhere)."""
        return self.estimator.window if self.pre in KEEP_SIZE else None

    @property
    def compares(self) -> bool:
        """Whether the value is +-1 by a comparison of x with a threshold per channel, and nothing else."""
        plain = type(self.scale) is Scale and self.code.packs
        return plain and (keeps_sign(self.pre) or isinstance(self.pre, Shift))

    @property
    def shift(self) -> Tensor | None:
        """The threshold's negative, [C]; None is 0."""
        return self.pre.shift if isinstance(self.pre, Shift) else None

    def forward(self, x: Tensor) -> Tensor:
        u = self.pre(x)
        value = self.code(u)
        if self.training and isinstance(self.code, Observer):
            self.code.observe(u.detach(), value)
        result: Tensor = self.scale(surrogate(u, value, self.estimator), self._fitted(x, u))
        return result

    def terms(self, x: Tensor) -> tuple[BitTerm, ...]:
        """The bits and scales whose sum of products is `forward(x)` in evaluation: exactly what the exporter packs."""
        u = self.pre(x)
        fitted = self._fitted(x, u)
        found, added = scaled(self.code.terms(u), self.scale.value(fitted)), self.scale.offset(fitted)
        return found if added is None else (*found, offset(found[0].sign_pm1, added))

    def edges(self) -> Tensor | None:
        """The numbers x at which the value changes, [T]; None where they depend on the tensor."""
        found = self.code.edges() if type(self.scale) in (Scale, LearnedPair) else None
        return None if found is None else points(self.pre, found)

    def _fitted(self, x: Tensor, u: Tensor) -> Tensor:
        """What the scale is a function of: u, too, where PRE made another shape of x."""
        return u if self.scale.of_pre or u.shape != x.shape else x

    def reset(self, x: Tensor) -> None:
        """Start learned parts anew for the tensor x, which has just been replaced."""
        self.scale.reset(x)
        if isinstance(self.code, Observer):
            self.code.reset(self.pre(x))

    def dither(self) -> None:
        """Draw the signs in training instead of taking them."""
        if type(self.code) is not Sign:
            raise BnasError(f"its code is {self.code.formula}, not a sign that could be drawn")
        self.code = StochasticSign()

    def value_text(self) -> str:
        """The value as a formula of x."""
        u = formula(self.pre)
        code = self.code.formula
        text = f"{self.scale.formula} {code} {self.scale.added}".strip()
        return re.sub(r"\bu\b", "x", text) if u == "x" else f"{text}, u = {u}"

    def gradient_text(self) -> str:
        """What replaces the derivative of the code, as a formula of u."""
        return f"{self.estimator.formula}; {self.scale.note}" if self.scale.note else self.estimator.formula


class Real(Binarizer):
    """The tensor as it is: for the real-valued twin, and for the real half of a two-stage schedule.

    `pre` may be `rectify`: networks that binarize weights only have max(x, 0) in front of their convolutions. `mend`: the
    option of the scheme that binarizes it.
    """

    def __init__(self, pre: Pre = unchanged, mend: str = "") -> None:
        super().__init__(Identity(), pre=pre)
        self.mend = mend

    @property
    def packing(self) -> Packing:
        return Packing(0, f"real-valued (option {self.mend} packs)" if self.mend else "real-valued")

    @property
    def binarizes(self) -> bool:
        return False

    @property
    def window(self) -> float | None:
        return None

    @property
    def compares(self) -> bool:
        return False

    def forward(self, x: Tensor) -> Tensor:
        return self.pre(x)

    def terms(self, x: Tensor) -> tuple[BitTerm, ...]:
        raise BnasError("a real-valued tensor has no bits to pack")

    def dither(self) -> None:
        raise BnasError("it is real-valued and has no sign that could be drawn")

    def value_text(self) -> str:
        return formula(self.pre)

    def gradient_text(self) -> str:
        return "1[x >= 0]" if self.pre is rectify else "1"
