"""Batch norm followed by sign, as what it is: one comparison per channel.

Evaluation, export and every kernel use the same thresholds, so that a tie falls to the same side everywhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Threshold(NamedTuple):
    """+1 where x >= value (flip False) or x <= value (flip True), else -1; one entry per channel, shape [C].

    `value` [T, C] is T comparisons: +1 where an odd number of them holds.
    A channel whose norm has no slope is constant: value -inf (always +1) or +inf (always -1) with flip False.
    """

    value: Tensor
    flip: Tensor


def fold(norm: nn.BatchNorm2d | None, channels: int, shift: Tensor | None = None) -> Threshold:
    """The threshold of sign(gamma (x - mu) / sqrt(var + eps) + beta + shift) for the running statistics of `norm`.

    t = mu - (beta + shift) sqrt(var + eps) / gamma, with >= for gamma > 0 and <= for gamma < 0. Computed in float64
    and rounded once to float32. `norm` None: the input itself is compared, t = -shift. `shift` [C], or [T, 1] for T
    comparisons.
    """
    if norm is None:
        offset = torch.zeros(channels, dtype=torch.float64) if shift is None else shift.detach().double()
        return Threshold((-offset).float(), torch.zeros(channels, dtype=torch.bool, device=offset.device))
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics has no threshold")
    return fold_statistics(norm, norm.running_mean, norm.running_var, shift)


def fold_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, shift: Tensor | None = None) -> Threshold:
    """`fold` for statistics [C] that are not the norm's own, such as those of a batch."""
    mean, deviation = mean.double(), (variance.double() + norm.eps).sqrt()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    if shift is not None:
        beta = beta + shift.detach().double()
    infinity = torch.full_like(mean, float("inf"))
    constant = torch.where(beta >= 0, -infinity, infinity)
    flat = gamma == 0
    value = torch.where(flat, constant, mean - beta * deviation / torch.where(flat, torch.ones_like(gamma), gamma))
    return Threshold(value.float(), gamma < 0)


def compare(x: Tensor, threshold: Threshold) -> Tensor:
    """+-1 in x's dtype for x [N, C, ...]: the comparison that `Threshold` states; a NaN is -1."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    x, flip = x.detach(), threshold.flip.view(shape)
    if threshold.value.dim() == 1 and x.device.type == "cpu":
        return _compare_once(x, threshold.value.view(shape), flip)
    positive = torch.zeros_like(x, dtype=torch.bool)
    for value in threshold.value.view(-1, x.shape[1], *shape[2:]):
        positive ^= torch.where(flip, x <= value, x >= value)
    return torch.where(positive, 1.0, -1.0).to(x.dtype)


def _compare_once(x: Tensor, value: Tensor, flip: Tensor) -> Tensor:
    """The same in the memory of the result: a fifth of the time that torch.where takes on a CPU."""
    if flip.any():
        # x <= t is -x >= -t, for every float.
        turn = torch.where(flip, -1.0, 1.0)
        x, value = x * turn.to(x.dtype), value * turn
    signs = torch.empty_like(x)
    torch.ge(x, value, out=signs)
    return signs.mul_(2).sub_(1)
