"""PRE: what happens to a real tensor before it is coded. Differentiated by autograd."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bnas.binary.anneal import Annealed, geometric
from bnas.binary.axes import reduced


class Pre(Protocol):
    """A function x -> u of one tensor, differentiable."""

    def __call__(self, x: Tensor) -> Tensor: ...


# From the released code of ReCU.
RECU_EPS = 1e-5


def unchanged(x: Tensor) -> Tensor:
    """u = x."""
    return x


def centre(x: Tensor) -> Tensor:
    """u = x - mean over the input channels, for weights [O, I, ...]."""
    return x - x.mean(dim=1, keepdim=True)


def clip_unit(x: Tensor) -> Tensor:
    """u = clip(x, -1, 1)."""
    return x.clamp(-1, 1)


def centre_and_clip(x: Tensor) -> Tensor:
    """u = clip(centre(x), -1, 1).

    The released trainer of XNOR-Net does this to the stored weights before each step (Rastegari et al. 2016,
    arXiv 1603.05279, code); the paper does not mention it.
    """
    return clip_unit(centre(x))


def rectify(x: Tensor) -> Tensor:
    """u = max(x, 0): the real activation of networks that binarize weights only."""
    return x.clamp_min(0)


def standardize(x: Tensor, unbiased: bool = True, eps: float = 0.0) -> Tensor:
    """u = (x - mean) / sqrt(var + eps) over each filter; `unbiased`: divided by n - 1, as IR-Net and ReCU do."""
    dims = reduced(x, "filter")
    # A filter of one weight has no deviation; its u is 0.
    correction = 1 if unbiased and x[0].numel() > 1 else 0
    variance = x.var(dim=dims, keepdim=True, correction=correction) + eps
    return (x - x.mean(dim=dims, keepdim=True)) / variance.clamp_min(torch.finfo(x.dtype).tiny).sqrt()


def standardize_biased(x: Tensor) -> Tensor:
    """u = (x - mean) / std over each filter, std divided by n, as AdaBin does."""
    return standardize(x, unbiased=False)


def divide_by_deviation(x: Tensor) -> Tensor:
    """u = x / sqrt(var + 1e-5) of each sample (ReCU's activations): changes the width of the gradient and no sign."""
    variance = x.var(dim=reduced(x, "sample"), keepdim=True, correction=1 if x[0].numel() > 1 else 0)
    return x / (variance + RECU_EPS).sqrt()


# For people, and which of them leave a latent weight its own size, so that the estimator's window is the weight's.
FORMULAS: Mapping[Any, str] = {
    unchanged: "x",
    centre: "x - mean_i(x)",
    clip_unit: "clip(x, -1, 1)",
    centre_and_clip: "clip(x - mean_i(x), -1, 1)",
    rectify: "max(x, 0)",
    standardize: "(x - mean_o) / std_o",
    standardize_biased: "(x - mean_o) / std_o",
    divide_by_deviation: "x / std_n",
}
KEEP_SIZE = (unchanged, clip_unit, centre_and_clip)
_KEEP_SIGN = (unchanged, clip_unit, divide_by_deviation)


def keeps_sign(pre: Pre) -> bool:
    """Whether sign(u) = sign(x)."""
    return pre in _KEEP_SIGN or isinstance(pre, Sharpen)


def points(pre: Pre, u: Tensor) -> Tensor | None:
    """The numbers x at which a PRE of single numbers passes through u, of those that it reaches; None for any other PRE."""
    if pre in (unchanged, clip_unit, rectify) or isinstance(pre, ClipBetween | ClipTo | SoftStairs):
        return u
    back: Callable[[Tensor], Tensor] | None = getattr(pre, "back", None)
    return None if back is None else back(u)


def formula(pre: Pre) -> str:
    """u as a function of x."""
    return FORMULAS.get(pre) or str(pre.formula)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ClipBetween:
    """u = clip(x, low, high); no upper bound where None."""

    low: float
    high: float | None = None

    @property
    def formula(self) -> str:
        return f"max(x, {self.low:g})" if self.high is None else f"clip(x, {self.low:g}, {self.high:g})"

    def __call__(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


class TanhOverMax:
    """u = tanh(x) / max |tanh(x)| over the layer, in [-1, 1] (DoReFa-Net, Zhou et al. 2016, arXiv 1606.06160).

    `through_max`: the gradient goes through the maximum too (tensorpack's code); else it is a constant (larq's).
    """

    formula = "tanh(x) / max|tanh(x)|"

    def __init__(self, through_max: bool) -> None:
        self.through_max = through_max

    def __call__(self, x: Tensor) -> Tensor:
        bent = torch.tanh(x)
        largest = bent.abs().amax()
        largest = largest if self.through_max else largest.detach()
        return bent / largest.clamp_min(torch.finfo(x.dtype).tiny)


class Shift(nn.Module):
    """u = x + b with a learned b per channel, from 0: RSign of ReActNet (Liu et al. 2020, arXiv 2003.03488)."""

    formula = "x + b_c"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift.view(1, -1, *(1,) * (x.dim() - 2))


class ClipTo(nn.Module):
    """u = clip(x, 0, a) with a learned a (PACT, Choi et al. 2018); dL/da sums the gradient where x >= a."""

    formula = "clip(x, 0, a)"

    def __init__(self, start: float) -> None:
        super().__init__()
        self.high = nn.Parameter(torch.tensor(start))

    def bounds(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.high), self.high

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < self.high, x.clamp_min(0), self.high.to(x.dtype))


class SoftStairs(nn.Module):
    """u: `steps` smooth steps between two learned bounds l and u (DSQ, Gong et al. 2019, arXiv 1908.05033).

    In interval i of width D = (u - l) / steps with the middle m: l + D (i + (phi + 1) / 2),
    phi = tanh(k (x - m)) / (1 - a), k = ln(2 / a - 1) / D; outside, the bound. Coded with ties upwards, a step is
    sign(phi), and autograd through this is the paper's gradient, to x, a, l and u.
    """

    formula = "l + D (i + (phi + 1) / 2), phi = tanh(k (x - m_i)) / (1 - a)"

    def __init__(self, steps: int, low: float, high: float, sharpness: float) -> None:
        super().__init__()
        self.steps = steps
        self.low, self.high = nn.Parameter(torch.tensor(low)), nn.Parameter(torch.tensor(high))
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def bounds(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        # The authors keep a in (0, 0.5).
        a = self.sharpness.to(x.dtype).clamp(1e-3, 0.5)
        inside = torch.where(x < low, low, torch.where(x > high, high, x))
        width = (high - low) / self.steps
        interval = ((inside - low) / width).floor().clamp(0, self.steps - 1).detach()
        middle = low + (interval + 0.5) * width
        phi = torch.tanh(torch.log(2 / a - 1) / width * (inside - middle)) / (1 - a)
        return low + width * (interval + (phi + 1) / 2)


class Sharpen(Annealed):
    """u = tanh(nu x), of the sign of x, nu from `start` to `end` geometrically (Self-Binarizing Networks, arXiv 1902.00730)."""

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.start, self.end = start, end

    @property
    def formula(self) -> str:
        return f"tanh(nu x), nu {self.start:g} -> {self.end:g}"

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(geometric(self.start, self.end, self.share).to(x.dtype) * x)


class Revive(Annealed):
    """u = clip(v, -Q, Q), v = 2 sqrt(2) (x - mean_o) / std_o, Q = -mean|v| ln(2 - 2 tau), Q a constant in the backward.

    ReCU (Xu et al. 2021): weights in the tails are brought back to the tau-quantile of a Laplace distribution.
    tau = A e^r + B from `start` to `end` with the share r.
    """

    formula = "clip(2 sqrt(2) (x - mean_o) / std_o, -Q, Q)"

    def __init__(self, start: float = 0.85, end: float = 0.99) -> None:
        super().__init__()
        self.start, self.end = start, end

    def quantile(self) -> Tensor:
        """tau."""
        slope = (self.end - self.start) / (math.e - 1)
        return slope * (torch.exp(self.share) - 1) + self.start

    def forward(self, x: Tensor) -> Tensor:
        wide = 2 * math.sqrt(2) * standardize(x, eps=RECU_EPS)
        limit = (-wide.detach().abs().mean() * torch.log(2 - 2 * self.quantile())).to(x.dtype)
        return torch.minimum(torch.maximum(wide, -limit), limit)


class Rotate:
    """u: each learned filter [o, i M, kh, kw], with a plane for each of M orientations, becomes M, [o M, i M, kh, kw].

    CBCN (Liu et al. 2019): output m of filter o reads, for input i and orientation n, the plane (n - m) mod M turned by m
    steps. M = 4 turns by 90 degrees, M = 8 by 45 (the ring of a 3 x 3 kernel moves by one). Autograd turns the gradients
    back and adds them. Kernels of one tap, and matrices, stay as they are.
    """

    formula = "M rotations of x"

    def __init__(self, orientations: int) -> None:
        self.orientations = orientations

    def __call__(self, x: Tensor) -> Tensor:
        if x.dim() < 4 or x.shape[-2:].numel() == 1:
            return x
        m = self.orientations
        o, inputs, kh, kw = x.shape
        planes = x.reshape(o, inputs // m, m, kh, kw)
        filters = [
            torch.stack([turned(planes[:, :, (n - turn) % m], turn, m) for n in range(m)], dim=2) for turn in range(m)
        ]
        return torch.stack(filters, dim=1).reshape(o * m, inputs, kh, kw)


# Positions of a 3 x 3 kernel around its centre, clockwise from the top left.
_RING = (0, 1, 2, 5, 8, 7, 6, 3)


def turned(kernel: Tensor, steps: int, orientations: int) -> Tensor:
    """kernel [..., kh, kw] turned clockwise by `steps` of 360 / orientations degrees; 45-degree steps want 3 x 3."""
    if orientations == 4:
        return torch.rot90(kernel, -steps, (-2, -1))
    moved = list(range(9))
    for place, source in enumerate(_RING):
        moved[_RING[(place + steps) % 8]] = source
    return kernel.flatten(-2)[..., moved].reshape(kernel.shape)
