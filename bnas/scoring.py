"""One path of a super-network: what it is worth with the shared weights, and a training that visits one a step.

All candidates are judged by the same images in the same batches, so that the noise of the images is common to them and
drops out of a comparison.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from bnas.errors import BnasError, check_choice
from bnas.layers.packed import CONVOLUTIONS, packed_convolutions
from bnas.options import check_number
from bnas.shared_forward import SharedForward
from bnas.space import Gates, Supernet
from bnas.stopwatch import NETWORK, part
from bnas.training.losses import ExtraLoss
from bnas.training.metrics import batch_statistics, evaluating, recalibrate
from bnas.training.recipe import Recipe
from bnas.training.source import BatchSource
from bnas.training.trainer import Trainer

NORM_MODES = ("batch", "recalibrated")
Sampler = Callable[[int], Gates]


@dataclass(frozen=True)
class PathScore:
    """Accuracy of `net` under the gates that it is called with, always on the same validation batches.

    The running statistics of shared batch norms mix those of all paths, so they are not used: `norms: batch` takes
    those of the validation batch itself, `recalibrated` those of the first `recalibration_batches` batches of `train`
    under these gates. A call changes nothing: modes and running statistics are put back, no random number is drawn.
    `autocast`: the precision of the forward (`Trainer.autocast`). `convolutions`: `auto`, binary convolutions on packed
    bits where that is quicker; `packed`; `float` (`layers.packed`). Scores are the same.

    Paths that are scored together share what they have in common, batch by batch (`bnas.shared_forward`): in a chain,
    all layers up to the first one in which they differ; in cells, stem and first inputs, and the cells up to the first
    one of a kind in which they differ, as one cell of a kind repeats. Meanwhile the map behind each such place is held.
    """

    net: Supernet
    train: BatchSource
    val: BatchSource
    images: int = 2000
    norms: str = "batch"
    recalibration_batches: int = 20
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    convolutions: str = "auto"

    def __post_init__(self) -> None:
        check_choice("convolutions to score by", self.convolutions, CONVOLUTIONS)
        check_choice("norms", self.norms, NORM_MODES)
        check_number("images to score by", self.images, at_least=1, whole=True)
        check_number("recalibration_batches", self.recalibration_batches, at_least=1, whole=True)

    @property
    def forwards(self) -> int:
        """Batches that one score runs through the network."""
        validation = sum(1 for _ in self.val.fixed(self.images))
        return validation + (self.recalibration_batches if self.norms == "recalibrated" else 0)

    def __call__(self, gates: Gates) -> float:
        """Share of the images whose largest logit is the label's; NaN where a logit is not finite.

        The device is waited for once, at the end.
        """
        return self.scores([gates])[0]

    @part(NETWORK)
    @torch.no_grad()
    def scores(self, paths: Sequence[Gates]) -> list[float]:
        """The score of each path, equal to that of a call; the device is waited for once."""
        estimates = self.norms == "recalibrated"
        correct, finite, total = [], [], 0
        with evaluating(self.net), packed_convolutions(self.net, self.convolutions):
            forward = SharedForward(self.net.segments, paths, estimates=estimates)
            with self._statistics(forward) if estimates else batch_statistics(self.net):
                for images, labels in self.val.fixed(self.images):
                    with self.autocast():
                        logits = forward(images)
                    correct.append((logits.argmax(dim=2) == labels).sum(dim=1))
                    finite.append(torch.isfinite(logits).flatten(1).all(dim=1))
                    total += len(labels)
        found = torch.stack([torch.stack(correct).sum(dim=0), torch.stack(finite).all(dim=0).long()]).tolist()
        return [right / total if sound else math.nan for right, sound in zip(*found, strict=True)]

    @contextmanager
    def _statistics(self, forward: SharedForward) -> Iterator[None]:
        """Those of each path by batches of `train`, in the block."""
        norms = [module for module in self.net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
        try:
            with self.autocast():
                recalibrate(self.net, forward, self.train, self.recalibration_batches)
            yield
        finally:
            for norm, values in zip(norms, before, strict=True):
                for name, value in norm.named_buffers():
                    value.copy_(values[name])


def path_trainer(
    net: Supernet,
    batches: BatchSource,
    recipe: Recipe,
    sampler: Sampler,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    purpose: str = "paths",
    total_steps: int | None = None,
    extra_losses: tuple[ExtraLoss, ...] = (),
) -> Trainer:
    """A trainer of the shared weights that runs the gates `sampler(step)` in step `step`.

    As `sampler` is a function of the step, a continued training visits the paths of an uninterrupted one. Weights off
    the path get no gradient and stay as they are: neither momentum nor decay moves them. `total_steps`: where the
    schedules end, in place of the recipe's epochs.
    """
    trainer = Trainer(
        net,
        batches,
        recipe,
        seed=seed,
        device=device,
        forward=lambda x: net(x, sampler(trainer.step)),
        extra_losses=extra_losses,
        purpose=purpose,
    )
    if total_steps is not None:
        if total_steps < 1:
            raise BnasError(f"a training needs at least 1 step; found {total_steps}")
        trainer.total_steps = total_steps
    return trainer
