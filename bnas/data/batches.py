"""Batches that are functions of the step, from images that live on the device."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from bnas.data.augment import Augmentation
from bnas.data.images import ImageSet, Normalization, laid_out, normalize, scaled
from bnas.errors import BnasError
from bnas.seeding import torch_generator
from bnas.stopwatch import DATA, part

# Images that are made at once, or a batch.
AT_ONCE = 64


class Batches:
    """Training batches by global step, and all images in order for evaluation.

    Epoch e visits the images in the order drawn for (seed, purpose, "epoch", e), and step s is varied by numbers
    drawn for (seed, purpose, "augment", s). So a run continued at step s sees what an uninterrupted one sees, and
    nothing about the order has to be saved. The images stay uint8 on the device and are gathered there by index.

    Small batches are made several at a time: to start the two dozen operations takes longer than what they do to 8 images.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        seed: int,
        normalization: Normalization,
        augmentation: Augmentation | None = None,
        device: torch.device | str = "cpu",
        purpose: str = "train",
    ) -> None:
        if batch_size < 1:
            raise BnasError(f"batch_size must be at least 1; found {batch_size}")
        channels, self._height, self._width = images.shape
        normalization.check(channels)
        self.augmentation = augmentation or Augmentation()
        self.augmentation.check(self._height, self._width)
        self.normalization = normalization
        self.device = torch.device(device)
        self.batch_size = min(batch_size, len(images))
        # A last short batch is dropped; a set smaller than a batch is one batch.
        self.steps_per_epoch = len(images) // self.batch_size
        self._seed, self._purpose = seed, purpose
        self._images = images.images.to(self.device)
        self._labels = images.labels.to(self.device)
        self._mean, self._std = normalization.tensors(self.device)
        self._order: tuple[int, Tensor] | None = None
        self._at_once = math.ceil(AT_ONCE / self.batch_size)
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
        self._version = 0

    def __len__(self) -> int:
        return len(self._images)

    @part(DATA)
    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of global step `step` (from 0): float32 [B, C, H, W], shuffled, varied, normalized; int64 [B]."""
        if step < 0:
            raise ValueError(f"steps count from 0; found {step}")
        made = self._made.get(step)
        # Whoever has a batch may change it; all that were made at once have one version.
        if made is None or made[0]._version != self._version:
            steps = range(step, step + self._at_once)
            found = dict(zip(steps, self._make(steps), strict=True))
            made = found[step]
            # A large batch is not held when its reader is done with it.
            self._made, self._version = found if len(found) > 1 else {}, made[0]._version
        return made

    def _make(self, steps: range) -> Iterable[tuple[Tensor, Tensor]]:
        indices = torch.cat([self._indices_of(step) for step in steps])
        generators = (torch_generator(self._seed, self._purpose, "augment", step) for step in steps)
        draws = self.augmentation.draw(self.batch_size, self._height, self._width, *generators, device=self.device)
        moved = self.augmentation.move(self._images.index_select(0, indices), draws)
        images = self.augmentation.cut(scaled(moved, self._mean, self._std), draws)
        return self._split(laid_out(images), self._labels[indices])

    def _indices_of(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._order_of(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def _split(self, images: Tensor, labels: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        return zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)

    def in_order(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in order, normalized and not varied; the last batch may be short."""
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise BnasError(f"batch_size must be at least 1; found {size}")
        for images, labels in zip(self._images.split(size), self._labels.split(size), strict=True):
            yield self._as_they_are(images), labels

    def fixed(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same images in the same whole batches at every call: normalized, not varied, in one random order.

        As many batches as hold `count` images, or all whole ones. For scores by batch statistics, which neither a
        batch of one class (images may lie sorted) nor a short one gives.
        """
        if count < 1:
            raise BnasError(f"count is a number of images, at least 1; found {count}")
        generator = torch_generator(self._seed, self._purpose, "fixed")
        order = torch.randperm(len(self), generator=generator).to(self.device)
        whole = min(math.ceil(count / self.batch_size), self.steps_per_epoch)
        for indices in order[: whole * self.batch_size].split(self.batch_size * self._at_once):
            yield from self._split(self._as_they_are(self._images.index_select(0, indices)), self._labels[indices])

    @part(DATA)
    def _as_they_are(self, images: Tensor) -> Tensor:
        return normalize(images, self._mean, self._std)

    def _order_of(self, epoch: int) -> Tensor:
        """The permutation of an epoch, on the device; kept until another epoch is asked for."""
        if self._order is None or self._order[0] != epoch:
            generator = torch_generator(self._seed, self._purpose, "epoch", epoch)
            self._order = epoch, torch.randperm(len(self), generator=generator).to(self.device)
        return self._order[1]
