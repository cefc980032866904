"""LossModule: an extra loss that has a state, such as what it remembers between steps or learns."""

from typing import ClassVar

from torch import Tensor, nn

from bnas.training.teacher import Teacher


class LossModule(nn.Module):
    """An `ExtraLoss` with a state: called with (model, logits [N, classes], labels [N]) after each forward.

    Its parameters are trained beside those of the model, without weight decay; they and its buffers are saved with it.
    """

    # Whether it stands in the place of the cross-entropy instead of beside it.
    replaces_cross_entropy: ClassVar[bool] = False

    def attach(self, model: nn.Module) -> None:
        """Called once, before the first step, with the model that is trained: the place for hooks and shapes."""


class TaughtLoss(LossModule):
    """A loss that compares with what a trained network answers on the same images."""

    teacher: Teacher

    def attach(self, model: nn.Module) -> None:
        self.teacher.watch(model)


def full_precision(x: Tensor) -> Tensor:
    """x in float32 where it is narrower: sums over classes and logarithms lose too much in 16 bits."""
    return x.float() if x.dtype.itemsize < 4 else x
