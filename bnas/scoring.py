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
from bnas.prefix import remembering
from bnas.space import Gates, Supernet
from bnas.stopwatch import NETWORK, part
from bnas.training.losses import ExtraLoss, main_logits
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

    Paths that are scored together share what lies in front of every decision (`Supernet.prefix`), once a batch: on a
    CPU, stem and first inputs are 8 to 11 % of a pass in spaces of cells, the stem 1 to 3 % in chains. Its outputs take
    up to `prefix_bytes` meanwhile (1 GiB: ours); for batches beyond it they are computed again.
    """

    net: Supernet
    train: BatchSource
    val: BatchSource
    images: int = 2000
    norms: str = "batch"
    recalibration_batches: int = 20
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    convolutions: str = "auto"
    prefix_bytes: int = 2**30

    def __post_init__(self) -> None:
        check_choice("convolutions to score by", self.convolutions, CONVOLUTIONS)
        check_choice("norms", self.norms, NORM_MODES)
        check_number("images to score by", self.images, at_least=1, whole=True)
        check_number("recalibration_batches", self.recalibration_batches, at_least=1, whole=True)
        check_number("prefix_bytes", self.prefix_bytes, at_least=0, whole=True)

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
        """The score of each path, equal to that of a call; the device is waited for once a path."""
        # One path alone has nobody to remember for.
        shared = self.net.prefix if len(paths) > 1 else ()
        found = []
        with (
            evaluating(self.net),
            packed_convolutions(self.net, self.convolutions),
            remembering(shared, self.prefix_bytes) as begin_pass,
        ):
            for gates in paths:
                begin_pass()
                found.append(self._score(gates))
        return found

    def _score(self, gates: Gates) -> float:
        correct, finite, total = [], [], 0
        with self._norms(gates):
            for images, labels in self.val.fixed(self.images):
                with self.autocast():
                    logits = main_logits(self.net(images, gates))
                correct.append((logits.argmax(dim=1) == labels).sum())
                finite.append(torch.isfinite(logits).all())
                total += len(labels)
        right, sound = torch.stack([torch.stack(correct).sum(), torch.stack(finite).all().long()]).tolist()
        return right / total if sound else math.nan

    @contextmanager
    def _norms(self, gates: Gates) -> Iterator[None]:
        if self.norms == "batch":
            with batch_statistics(self.net):
                yield
            return
        norms = [module for module in self.net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
        try:
            with self.autocast():
                recalibrate(self.net, lambda x: self.net(x, gates), self.train, self.recalibration_batches)
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
