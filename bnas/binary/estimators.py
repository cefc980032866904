"""EST: surrogate gradients. A code is piecewise constant; its gradient is replaced by g * derivative(u).

An estimator is a small frozen value whose `derivative(u)` is the pure formula; `surrogate` joins it with a code.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Estimator(Protocol):
    """`derivative(u)`: what the gradient of the code is multiplied by, elementwise, same shape as u.

    `window`: the largest |u| at which the derivative is not zero, or None when it has no such bound. Latent weights
    beyond it receive no gradient and would be stuck, so the trainer clips them to it.
    """

    @property
    def window(self) -> float | None: ...

    def derivative(self, u: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Identity:
    """d = 1: the straight-through estimator without a window (Bengio et al. 2013, arXiv 1308.3432)."""

    window: float | None = None

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

    def derivative(self, u: Tensor) -> Tensor:
        size = u.abs()
        return ((size < self.limit) if self.strict else (size <= self.limit)).to(u.dtype)


@dataclass(frozen=True)
class Polynomial:
    """d = max(0, 2 - 2|u|): the piecewise quadratic of Bi-Real net (Liu et al. 2018, arXiv 1808.00278)."""

    window: float | None = 1.0

    def derivative(self, u: Tensor) -> Tensor:
        return (2 - 2 * u.abs()).clamp_min(0)


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, value: Tensor, estimator: Estimator) -> Tensor:
        ctx.save_for_backward(u)
        ctx.estimator = estimator
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.estimator.derivative(u), None, None


def surrogate(u: Tensor, value: Tensor, estimator: Estimator) -> Tensor:
    """`value` (a code of u, same shape) forward; g * estimator.derivative(u) as the gradient of u."""
    result: Tensor = _Surrogate.apply(u, value, estimator)
    return result
