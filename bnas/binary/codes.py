"""CODE: the values that a tensor may take, without a gradient, and the +-1 terms that they are sums of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bnas.binary.sign import sign_pm1
from bnas.binary.terms import BitTerm, Packing, offset

ONE_SIGN = Packing(1, "one sign")
TERNARY = Packing(2, "ternary, two signs of 1/2")


def signs(count: int) -> str:
    """For people."""
    return "one sign" if count == 1 else f"{count} signs"


class Code(Protocol):
    """A function u -> value of equal shape. `packs`: one bit a value, +1 or -1.

    `terms(u)`: +-1 terms whose sum is the value in evaluation. `packing`: how many, and of what kind. `formula`: of u.
    `edges()`: the numbers u at which the value changes, [T]; None where they depend on the tensor.
    """

    @property
    def packs(self) -> bool: ...

    @property
    def packing(self) -> Packing: ...

    @property
    def formula(self) -> str: ...

    def __call__(self, u: Tensor) -> Tensor: ...

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]: ...

    def edges(self) -> Tensor | None: ...


@runtime_checkable
class Observer(Protocol):
    """A code with a state that follows what it codes in training, as a batch norm's statistics do."""

    def observe(self, u: Tensor, value: Tensor) -> None: ...

    def reset(self, u: Tensor) -> None:
        """Start anew for the tensor u."""
        ...


@dataclass(frozen=True)
class Sign:
    """+1 where u >= 0, else -1."""

    packs = True
    packing = ONE_SIGN
    formula = "sign(u)"

    def __call__(self, u: Tensor) -> Tensor:
        return sign_pm1(u)

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        return (BitTerm(sign_pm1(u), None),)

    def edges(self) -> Tensor | None:
        return torch.zeros(1)


class StochasticSign(nn.Module):
    """+1 with probability clip((u / limit + 1) / 2, 0, 1), else -1, in training; the sign in evaluation.

    Courbariaux et al. 2015, arXiv 1511.00363. Draws from torch's global generator, which the trainer seeds for each
    step. That paper's stochastic networks take the real weights in evaluation; here it takes their signs.
    """

    packs = True
    packing = ONE_SIGN
    formula = "+1 with probability clip((u + 1) / 2, 0, 1), else -1"

    def __init__(self, limit: float = 1.0) -> None:
        super().__init__()
        self.limit = limit

    def probability(self, u: Tensor) -> Tensor:
        """Of +1."""
        return ((u / self.limit + 1) / 2).clamp(0, 1)

    def forward(self, u: Tensor) -> Tensor:
        if not self.training:
            return sign_pm1(u)
        drawn = torch.rand(u.shape, dtype=torch.float32, device=u.device)
        return torch.where(drawn < self.probability(u), 1.0, -1.0).to(u.dtype)

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        return (BitTerm(sign_pm1(u), None),)

    def edges(self) -> Tensor | None:
        return torch.zeros(1)


class SoftSign(nn.Module):
    """u itself in training, its sign in evaluation: for a PRE that sharpens to a sign by itself."""

    packs = True
    packing = ONE_SIGN
    formula = "u, at the end sign(u)"

    def forward(self, u: Tensor) -> Tensor:
        return u if self.training else sign_pm1(u)

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        return (BitTerm(sign_pm1(u), None),)

    def edges(self) -> Tensor | None:
        return torch.zeros(1)


class Levels:
    """The level whose interval u falls into: levels[i] between thresholds[i - 1] and thresholds[i], u = t to the lower.

    `upper`: a tie goes to the upper level. Terms: one sign for each threshold, half a step wide, and an offset.
    """

    packs = False

    def __init__(self, levels: tuple[float, ...], thresholds: tuple[float, ...], *, upper: bool = False) -> None:
        self.levels, self.thresholds, self.upper = levels, thresholds, upper
        why = f"{len(levels)} levels, {signs(len(thresholds))}"
        self.packing = Packing(len(thresholds), why, offset=self._middle() != 0)
        self.formula = f"nearest of {{{', '.join(f'{level:g}' for level in levels)}}} to u"

    def __call__(self, u: Tensor) -> Tensor:
        x = wide(u)
        edges = torch.tensor(self.thresholds, dtype=x.dtype, device=u.device)
        index = torch.bucketize(x.contiguous(), edges, right=self.upper)
        return torch.tensor(self.levels, dtype=u.dtype, device=u.device)[index]

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        found, x = [], wide(u)
        for below, above, edge in zip(self.levels, self.levels[1:], self.thresholds, strict=False):
            passed = (x >= edge) if self.upper else (x > edge)
            found.append(BitTerm(pm1(passed, u), u.new_tensor((above - below) / 2)))
        return (*found, offset(u, self._middle())) if self.packing.offset else tuple(found)

    def _middle(self) -> float:
        return (self.levels[0] + self.levels[-1]) / 2

    def edges(self) -> Tensor | None:
        return torch.tensor(self.thresholds)


def step() -> Levels:
    """{0, 1}: 1 where u >= 0, a spiking neuron."""
    return Levels((0.0, 1.0), (0.0,), upper=True)


class Ternary:
    """-1, 0, +1: 0 where |u| <= limit(u), else the sign. Two terms of 1/2: above the limit, and not below its negative."""

    packs = False
    packing = TERNARY

    def __init__(self, limit: Callable[[Tensor], Tensor], formula: str) -> None:
        self.limit, self.formula = limit, formula

    def __call__(self, u: Tensor) -> Tensor:
        return torch.where(u.abs() > self.limit(u), sign_pm1(u), torch.zeros_like(u))

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        return ternary_terms(self(u))

    def edges(self) -> Tensor | None:
        return None


class Hysteresis(nn.Module):
    """-1, 0, +1 that stays as it was where |u| is within `width` of `centre` (EEDN, Esser et al. 2016, arXiv 1603.08270).

    The last code is a buffer, of the shape of the weight. The numbers are not from the paper.
    """

    last: Tensor
    packs = False
    packing = TERNARY
    formula = "ternary, thresholds +-0.5, kept within 0.1 of them"

    def __init__(self, like: Tensor, centre: float = 0.5, width: float = 0.1) -> None:
        super().__init__()
        self.centre, self.width = centre, width
        # Whole numbers, so that a moving average of the network copies them.
        self.register_buffer("last", torch.zeros(like.shape, dtype=torch.int8))

    def forward(self, u: Tensor) -> Tensor:
        size = u.abs()
        changed = torch.where(size >= self.centre + self.width, sign_pm1(u), self.last.to(u.dtype))
        return torch.where(size <= self.centre - self.width, torch.zeros_like(u), changed)

    @torch.no_grad()
    def observe(self, u: Tensor, value: Tensor) -> None:
        self.last.copy_(value)

    @torch.no_grad()
    def reset(self, u: Tensor) -> None:
        self.last.zero_()

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        return ternary_terms(self(u))

    def edges(self) -> Tensor | None:
        return None


def ternary_terms(value: Tensor) -> tuple[BitTerm, ...]:
    """Two terms of scale 1/2 whose sum is a value of {-1, 0, 1}."""
    half = value.new_tensor(0.5)
    return (BitTerm(pm1(value > 0, value), half), BitTerm(pm1(value >= 0, value), half))


class Uniform:
    """low + (high - low) n / steps, n the rounded share of the way: half to even, or upwards (`ties_up`).

    `bounds()` gives low and high, which may be learned; `between` says for people which.
    Terms: one sign for each binary digit of n (of 3 levels, for each threshold), and an offset unless fixed bounds are
    mirror images.
    """

    def __init__(
        self,
        steps: int,
        bounds: Callable[[], tuple[Tensor | float, Tensor | float]],
        between: str,
        *,
        ties_up: bool = False,
    ) -> None:
        self.steps, self.bounds, self.ties_up = steps, bounds, ties_up
        self.digits = steps.bit_length()
        self.packs = False
        low, high = bounds()
        learned = isinstance(low, Tensor) or isinstance(high, Tensor)
        centred = not learned and low == -high and steps in (2, 2**self.digits - 1)
        why = f"{steps + 1} levels, {signs(self.digits)}"
        self.packing = Packing(self.digits, TERNARY.why if steps == 2 else why, offset=not centred)
        self.formula = f"nearest of {steps + 1} even levels of {between} to u"

    def numbers(self, u: Tensor) -> Tensor:
        """n, as whole numbers in u's dtype."""
        low, high = self.bounds()
        share = ((wide(u) - low) / (high - low)).clamp(0, 1) * self.steps
        if self.ties_up:
            return (share + 0.5).floor().to(u.dtype)
        # Counted from the middle level where there is one, so that halves fall alike on both sides of it.
        middle = self.steps / 2 if self.steps % 2 == 0 else 0.0
        return ((share - middle).round() + middle).to(u.dtype)

    def __call__(self, u: Tensor) -> Tensor:
        low, high = self.bounds()
        return (low + (high - low) * self.numbers(u) / self.steps).to(u.dtype)

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        low, high = (torch.as_tensor(bound, dtype=u.dtype, device=u.device) for bound in self.bounds())
        numbers = self.numbers(u).long()
        half = (high - low) / self.steps / 2
        if self.steps == 2:
            found = [BitTerm(pm1(numbers > below, u), half) for below in range(2)]
        else:
            # n = sum of 2^b digit_b, digit = (s + 1) / 2.
            found = [BitTerm(pm1((numbers >> b) % 2 == 1, u), half * 2.0**b) for b in range(self.digits)]
        constant = low + half * (self.steps if self.steps == 2 else 2**self.digits - 1)
        return (*found, offset(u, constant)) if self.packing.offset else tuple(found)

    def edges(self) -> Tensor | None:
        low, high = (torch.as_tensor(bound).detach().double() for bound in self.bounds())
        return low + (high - low) * (torch.arange(self.steps, device=low.device) + 0.5) / self.steps


def wide(u: Tensor) -> Tensor:
    """u in float32 at least: a bfloat16 has 8 bits, and thresholds in between would move."""
    return u if u.dtype == torch.float64 else u.float()


def pm1(positive: Tensor, like: Tensor) -> Tensor:
    """+1 where true, else -1, in the dtype of `like`."""
    return torch.where(positive, 1.0, -1.0).to(like.dtype)
