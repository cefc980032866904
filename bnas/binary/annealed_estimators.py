"""Estimators that sharpen during training: EDE of IR-Net, the power function of ReSTE, the Fourier series of FDA-BNN."""

import math

import torch
from torch import Tensor

from bnas.binary.anneal import Annealed, geometric


class ErrorDecay(Annealed):
    """d = k t (1 - tanh(t u)^2), k = max(1 / t, 1), t from `start` to `end` geometrically (IR-Net, arXiv 1909.10788).

    Early a wide gradient reaches every weight, late it is that of a sharp sign.
    """

    window: float | None = None

    def __init__(self, start: float = 0.1, end: float = 10.0) -> None:
        super().__init__()
        self.start, self.end = start, end

    @property
    def formula(self) -> str:
        return f"k t (1 - tanh(t u)^2), k = max(1/t, 1), t {self.start:g} -> {self.end:g}"

    def sharpness(self) -> tuple[Tensor, Tensor]:
        """t and k."""
        t = geometric(self.start, self.end, self.share)
        return t, (1 / t).clamp_min(1)

    def derivative(self, u: Tensor) -> Tensor:
        t, k = (value.to(u.dtype) for value in self.sharpness())
        return k * t * (1 - torch.tanh(t * u).square())


class Power(Annealed):
    """d = |u|^((1 - o) / o) / o for |u| <= 1.5, m^(1/o) / m for |u| <= m = 0.1, o from 1 to `end`.

    The derivative of sign(u) |u|^(1/o) (ReSTE, Wu et al. 2023); o = 1 + (end - 1) (1 - cos(pi r / 2)) at share r.
    """

    LIMIT, CENTRE = 1.5, 0.1

    def __init__(self, end: float = 3.0) -> None:
        super().__init__()
        self.end = end

    @property
    def window(self) -> float | None:
        return self.LIMIT

    @property
    def formula(self) -> str:
        return f"|u|^((1 - o) / o) / o, at most that of 0.1^(1/o) / 0.1 near 0, |u| <= 1.5, o 1 -> {self.end:g}"

    def order(self) -> Tensor:
        """o."""
        return 1 + (self.end - 1) * (1 - torch.cos(math.pi / 2 * self.share))

    def derivative(self, u: Tensor) -> Tensor:
        o = self.order().to(u.dtype)
        size = u.abs()
        outer = size.clamp_min(self.CENTRE) ** ((1 - o) / o) / o
        inner = self.CENTRE ** (1 / o) / self.CENTRE
        return torch.where(size <= self.CENTRE, inner, outer) * (size <= self.LIMIT)


class Fourier(Annealed):
    """d = (4 w / pi) sum over i = 0 ... n of cos((2 i + 1) w u) for |u| <= 1, n from `start` to `end`.

    The derivative of the Fourier series of a square wave of base frequency w (FDA-BNN, Xu et al. 2021).
    """

    window: float | None = 1.0

    def __init__(self, start: int = 9, end: int = 18, frequency: float = 0.1) -> None:
        super().__init__()
        self.start, self.end, self.frequency = start, end, frequency

    @property
    def formula(self) -> str:
        return f"4w/pi sum_(i<=n) cos((2i+1) w u), |u| <= 1, w = {self.frequency:g}, n {self.start} -> {self.end}"

    def derivative(self, u: Tensor) -> Tensor:
        last = (self.start + (self.end - self.start) * self.share).round().to(u.dtype)
        total = torch.zeros_like(u)
        for i in range(self.end + 1):
            total = total + torch.cos((2 * i + 1) * self.frequency * u) * (last >= i)
        return 4 * self.frequency / math.pi * total * (u.abs() <= 1)
