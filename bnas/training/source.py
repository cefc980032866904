"""What training asks of its images."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class BatchSource(Protocol):
    """Batches as functions of the global step; `bnas.data.Batches` is one."""

    steps_per_epoch: int

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B] of step `step`, always the same ones."""
        ...

    def in_order(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in order and not augmented."""
        ...

    def fixed(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same whole batches at every call: about `count` images of one random order, not augmented."""
        ...

    def __len__(self) -> int: ...
