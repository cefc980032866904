"""Architectures that are trained by themselves, one after another, a slice of steps at a time."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from bnas import seeding
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.layers.packed import packed_convolutions
from bnas.strategy import SearchTask, StepKind, slice_steps
from bnas.training.metrics import accuracy
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer

# Candidates that `bnas plan` times, as some cost several times what others do.
PLANNED_CANDIDATES = 4


class CandidateTraining:
    """The training of one candidate at a time; `purpose` keeps the random numbers of two strategies apart.

    `round_steps`: of a slice; 0 as for `slice_steps`. A candidate's weights are dropped when the next one starts.
    """

    def __init__(self, task: SearchTask, purpose: str, round_steps: int) -> None:
        self._task, self._purpose = task, purpose
        self._round_steps = slice_steps(round_steps, task.train.steps_per_epoch)
        self.trainer: Trainer | None = None

    def start(self, number: int, genotype: Genotype, recipe: Recipe) -> None:
        """Begin candidate `number` from weights that follow from its number."""
        with seeding.borrowed(self._task.seed, self._purpose, "init", number):
            network: nn.Module = self._task.space.build(genotype, self._task.spec)
        self.trainer = Trainer(
            network,
            self._task.train,
            recipe,
            seed=self._task.seed,
            device=self._task.device,
            purpose=f"{self._purpose}/{number}",
        )

    def rounds(self, recipe: Recipe) -> int:
        """Slices of one candidate's whole training."""
        return math.ceil(recipe.epochs * self._task.train.steps_per_epoch / self._round_steps)

    @property
    def rounds_done(self) -> int:
        """Slices of the candidate at hand that are trained."""
        return 0 if self.trainer is None else math.ceil(self.trainer.step / self._round_steps)

    def run_round(self) -> dict[str, Any]:
        """One slice; after the last one, `val_accuracy` over all validation images."""
        trainer = self._trainer()
        metrics: dict[str, Any] = dict(trainer.run_steps(self._round_steps))
        if trainer.finished:
            network = trainer.evaluation_model()
            with torch.no_grad(), packed_convolutions(network, "auto"):
                metrics["val_accuracy"] = accuracy(network, self._task.val)
        return metrics

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("no candidate was started")
        return self.trainer

    def step_kinds(
        self,
        total_steps: int,
        scored: int,
        keys: Mapping[str, tuple[str, ...]],
        start: Callable[[int], None],
        several: int,
    ) -> tuple[StepKind, ...]:
        """For `bnas plan`: `total_steps` of training, and `scored` candidates scored.

        `keys` has those of "training" and "scoring"; `start(sample)` starts one of `several` candidates.
        """
        batch_size = len(next(self._task.val.in_order())[1])
        samples = min(several, PLANNED_CANDIDATES)

        def trained_in_steps(sample: int) -> Callable[[], object]:
            start(sample)
            trainer = self._trainer()

            def step() -> object:
                if trainer.finished:
                    trainer.step = 0
                return trainer.run_steps(1)

            return step

        def scored_in_steps(sample: int) -> Callable[[], object]:
            start(sample)
            network = self._trainer().evaluation_model()
            return lambda: accuracy(network, self._task.val, batch_size)

        batches = math.ceil(len(self._task.val) / batch_size)
        return (
            StepKind("training", total_steps, keys["training"], trained_in_steps, samples),
            StepKind("scoring", scored * batches, keys["scoring"], scored_in_steps, samples),
        )

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.trainer is None else self.trainer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """After `start` of the candidate that the state is of."""
        self._trainer().load_state_dict(state)


def checked_score(score: float, genotype: Genotype, digest: str) -> float:
    """The score; `BnasError` that names the candidate where it is not a number: it would win or lose unseen."""
    if not math.isfinite(score):
        choices = ", ".join(f"{name}: {choice}" for name, choice in genotype.choices)
        raise BnasError(
            f"candidate {digest} scores {score}, as its logits are not finite numbers ({choices}). Lower "
            f"search.options.learning_rate, or take precision float32"
        )
    return score
