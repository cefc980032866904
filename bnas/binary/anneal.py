"""Annealed: what sharpens while a network is trained, as a function of the share of the training that is done."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class Annealed(nn.Module):
    """Base of parts with a scalar that changes during training; the share of the way is a buffer, saved with the rest."""

    share: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.zeros((), dtype=torch.float64))

    def set_progress(self, share: float) -> None:
        """`share` in [0, 1]: steps done / steps of the whole training."""
        self.share.fill_(share)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # A share in bfloat16 would move in steps of 1/256: it keeps its own precision and only changes its device.
        share = self.share
        super()._apply(fn, recurse)
        self.share = share.to(self.share.device)
        return self


def set_progress(model: nn.Module, share: float) -> None:
    """Tell every annealed part of a model how much of the training is done."""
    for part in annealed_parts(model):
        part.set_progress(share)


def annealed_parts(model: nn.Module) -> list[Annealed]:
    """All annealed parts of a model."""
    return [module for module in model.modules() if isinstance(module, Annealed)]


def geometric(start: float, end: float, share: Tensor) -> Tensor:
    """start (end / start)^share."""
    value: Tensor = start * (end / start) ** share
    return value
