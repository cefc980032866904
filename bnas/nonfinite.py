"""NaN and infinity: the signal from a training step to the engine, and looks at what a sign would hide.

A sign of NaN is a sign, so that behind a binary layer all numbers may look sound while a weight, an average or an image in
front of it is lost.
"""

import torch
from torch import Tensor, nn

from bnas.errors import BnasError


class NonFiniteLoss(Exception):  # noqa: N818 (an event that the engine mends, not a message for the user)
    """`what` (such as "the loss is nan") happened at the global step `step`."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(step, what)
        self.step = step
        self.what = what

    def __str__(self) -> str:
        return f"step {self.step}: {self.what}"


def not_finite(model: nn.Module) -> str | None:
    """The name of the first parameter or buffer of a model that holds NaN or an infinity; None where all are finite."""
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors = [(name, tensor.detach()) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    if not tensors:
        return None
    # NaN is carried along by a maximum. One look at the device for all of them.
    largest = torch.stack([tensor.abs().amax().float() for _, tensor in tensors])
    bad = (~torch.isfinite(largest)).nonzero()
    return tensors[int(bad[0])][0] if len(bad) else None


def check_images(images: Tensor, step: int) -> None:
    """`BnasError` for a batch [B, ...] of global step `step` that holds NaN or an infinity; for a CPU, as it waits."""
    if torch.isfinite(images.sum()):
        return
    bad = (~torch.isfinite(images.flatten(1))).any(dim=1).nonzero()
    if len(bad):
        raise BnasError(
            f"step {step}: image {int(bad[0])} of the batch, after augmentation and normalization, holds NaN or an infinity "
            f"({len(bad)} of {len(images)} images do): a sign would hide it"
        )
