"""EST: surrogate gradients. A code is piecewise constant; its gradient is replaced by g * derivative(u).

An estimator's `derivative(u)` is the pure formula; `surrogate` joins it with a code. Fixed ones are small frozen values,
those whose shape changes during training are modules (annealed_estimators.py).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor


class Estimator(Protocol):
    """`derivative(u)`: what the gradient of the code is multiplied by, elementwise, same shape as u.

    `window`: the largest |u| at which the derivative is not zero, or None when it has no such bound. Latent weights
    beyond it receive no gradient and would be stuck, so the trainer clips them to it. `formula`: for people.
    """

    @property
    def window(self) -> float | None: ...

    @property
    def formula(self) -> str: ...

    def derivative(self, u: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Identity:
    """d = 1: the straight-through estimator without a window (Bengio et al. 2013, arXiv 1308.3432)."""

    window: float | None = None
    formula = "1"

    def derivative(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)


@dataclass(frozen=True)
class Box:
    """d = 1 where |u| <= limit (or < limit when strict), else 0 (Courbariaux et al. 2016, arXiv 1602.02830).

    XNOR-Net's released code and the authors' toolkit behind BATS use the strict form.
    """

    limit: float = 1.0
    strict: bool = False

    @property
    def window(self) -> float | None:
        return self.limit

    @property
    def formula(self) -> str:
        return f"1[|u| {'<' if self.strict else '<='} {self.limit:g}]"

    def derivative(self, u: Tensor) -> Tensor:
        size = u.abs()
        return ((size < self.limit) if self.strict else (size <= self.limit)).to(u.dtype)


@dataclass(frozen=True)
class Range:
    """d = 1 where low <= u <= high (low < u where `open_low`), else 0: a clip, or a clipped ReLU."""

    low: float
    high: float
    open_low: bool = False
    window: float | None = None

    @property
    def formula(self) -> str:
        return f"1[{self.low:g} {'<' if self.open_low else '<='} u <= {self.high:g}]"

    def derivative(self, u: Tensor) -> Tensor:
        above = u > self.low if self.open_low else u >= self.low
        return (above & (u <= self.high)).to(u.dtype)


@dataclass(frozen=True)
class Polynomial:
    """d = max(0, 2 - 2|u|): the piecewise quadratic of Bi-Real net (Liu et al. 2018, arXiv 1808.00278)."""

    window: float | None = 1.0
    formula = "max(0, 2 - 2|u|)"

    def derivative(self, u: Tensor) -> Tensor:
        return u.abs().mul_(-2).add_(2).clamp_min_(0)


@dataclass(frozen=True)
class Triangle:
    """d = max(0, 1 - |u|): the spiking neuron of EEDN (Esser et al. 2016, arXiv 1603.08270)."""

    window: float | None = 1.0
    formula = "max(0, 1 - |u|)"

    def derivative(self, u: Tensor) -> Tensor:
        return (1 - u.abs()).clamp_min(0)


@dataclass(frozen=True)
class SignSwish:
    """d = b (2 - b u tanh(b u / 2)) / (1 + cosh(b u)), below 0 far from 0 (Darabi et al. 2018, arXiv 1812.11800).

    The derivative of 2 s(b u) (1 + b u (1 - s(b u))) - 1 with the logistic s.
    """

    beta: float = 5.0
    window: float | None = None

    @property
    def formula(self) -> str:
        b = f"{self.beta:g}"
        return f"{b} (2 - {b}u tanh({b}u / 2)) / (1 + cosh({b}u))"

    def derivative(self, u: Tensor) -> Tensor:
        # cosh overflows where the quotient is 0 long since.
        bu = (self.beta * u).clamp(-60, 60)
        return self.beta * (2 - bu * torch.tanh(bu / 2)) / (1 + torch.cosh(bu))


def passed(g: Tensor, u: Tensor, estimator: Estimator) -> Tensor:
    """g * estimator.derivative(u). Of a box in one pass over memory, where the formula takes four."""
    if type(estimator) is Identity:
        return g
    if type(estimator) is not Box or g.dtype != u.dtype:
        return g * estimator.derivative(u)
    border = _border(estimator, u.dtype)
    result: Tensor = torch.ops.aten.hardtanh_backward(g, u, -border, border)
    return result


@lru_cache(maxsize=64)
def _border(box: Box, dtype: torch.dtype) -> float:
    """Where |u| < this says what the box does: its limit in that type, or the next larger number."""
    limit = torch.tensor(box.limit, dtype=dtype)
    return (limit if box.strict else torch.nextafter(limit, torch.full_like(limit, torch.inf))).item()


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, value: Tensor, estimator: Estimator) -> Tensor:
        ctx.save_for_backward(u)
        ctx.estimator = estimator
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return passed(grad_outputs[0], u, ctx.estimator), None, None


def surrogate(u: Tensor, value: Tensor, estimator: Estimator) -> Tensor:
    """`value` (a code of u, same shape) forward; g * estimator.derivative(u) as the gradient of u."""
    result: Tensor = _Surrogate.apply(u, value, estimator)
    return result
