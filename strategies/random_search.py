"""`random`: uniformly drawn genotypes, each trained for a short while; the baseline of every other strategy.

Li and Talwalkar 2019, arXiv 1902.07638: random search is a hard baseline in architecture search.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bnas import seeding
from bnas.budget import ABOUT_BUDGET, Budget
from bnas.errors import check_choice
from bnas.feasible import Feasible
from bnas.genotype import Genotype
from bnas.options import check_number, option
from bnas.strategy import SearchTask, StepKind, describe_genotype, distinct_genotypes, slice_steps
from bnas.training.metrics import accuracy
from bnas.training.recipe import PRECISIONS, Recipe
from bnas.training.trainer import Trainer

# Candidates that `bnas plan` times, as some cost several times what others do.
PLANNED_CANDIDATES = 4


@dataclass(frozen=True)
class RandomSearchOptions:
    """How many genotypes are drawn and how each is trained (Adam, cosine to 0)."""

    samples: int = option(8, "distinct genotypes to train", "ours")
    epochs: int = option(5, "passes over the training half for each of them", "ours")
    learning_rate: float = option(2e-3, "Adam's, at the start of the cosine", "ours")
    precision: str = option(
        "float32",
        "of the training: float32, bfloat16 (CUDA and CPU) or float16 (CUDA)",
        "ours",
        choices=PRECISIONS,
    )
    budget: Budget = field(default_factory=Budget, metadata=ABOUT_BUDGET)
    round_steps: int = option(0, "steps between two checkpoints; 0: an epoch, at most 200 steps", "ours")

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_number("samples", self.samples, at_least=1, whole=True)
        check_number("epochs", self.epochs, at_least=1, whole=True)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("round_steps", self.round_steps, at_least=0, whole=True)


class RandomSearch:
    """The strategy; see the module. All candidates are drawn at the start; a round trains a slice of one of them."""

    def __init__(self, task: SearchTask, options: RandomSearchOptions) -> None:
        self._task = task
        self._recipe = Recipe(learning_rate=options.learning_rate, epochs=options.epochs, precision=options.precision)
        feasible = Feasible(task, options.budget)
        self._candidates = distinct_genotypes(
            task.space, options.samples, task.seed, "random", "genotypes", draw=feasible.random
        )
        self._scores: list[float] = []
        steps = options.epochs * task.train.steps_per_epoch
        self._round_steps = slice_steps(options.round_steps, task.train.steps_per_epoch)
        self._rounds_each = math.ceil(steps / self._round_steps)
        self._start(0)

    def _start(self, index: int) -> None:
        with seeding.borrowed(self._task.seed, "random", "init", index):
            network: nn.Module = self._task.space.build(self._candidates[index], self._task.spec)
        self._index = index
        self._trainer = Trainer(
            network,
            self._task.train,
            self._recipe,
            seed=self._task.seed,
            device=self._task.device,
            purpose=f"random/{index}",
        )

    @property
    def rounds_total(self) -> int:
        return len(self._candidates) * self._rounds_each

    @property
    def rounds_done(self) -> int:
        return self._index * self._rounds_each + math.ceil(self._trainer.step / self._round_steps)

    def run_round(self) -> dict[str, Any]:
        if self._trainer.finished:
            self._start(self._index + 1)
        metrics: dict[str, Any] = {"candidate": self._index + 1}
        left = self._trainer.total_steps - self._trainer.step
        metrics |= self._trainer.run_steps(min(self._round_steps, left))
        metrics |= describe_genotype(self._task.space, self._candidates[self._index])
        if self._trainer.finished:
            network = self._trainer.evaluation_model()
            with torch.no_grad():
                self._scores.append(accuracy(network, self._task.val))
            metrics["val_accuracy"] = self._scores[-1]
        return metrics

    def derive(self) -> Genotype:
        """The candidate with the best validation accuracy; the first drawn among equals, or before any is scored."""
        if not self._scores:
            return self._candidates[0]
        return self._candidates[self._scores.index(max(self._scores))]

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor] | None:
        """None: a candidate's weights are dropped when the next one starts."""
        return None

    def step_kinds(self) -> tuple[StepKind, ...]:
        count = len(self._candidates)
        batch_size = len(next(self._task.val.in_order())[1])
        return (
            StepKind(
                "training",
                count * self._trainer.total_steps,
                ("samples", "epochs"),
                self._trained_in_steps,
                min(count, PLANNED_CANDIDATES),
            ),
            StepKind(
                "scoring",
                count * math.ceil(len(self._task.val) / batch_size),
                ("samples",),
                lambda sample: self._scored_in_steps(sample, batch_size),
                min(count, PLANNED_CANDIDATES),
            ),
        )

    def _trained_in_steps(self, sample: int) -> Callable[[], object]:
        self._start(sample)

        def step() -> object:
            if self._trainer.finished:
                self._trainer.step = 0
            return self._trainer.run_steps(1)

        return step

    def _scored_in_steps(self, sample: int, batch_size: int) -> Callable[[], object]:
        self._start(sample)
        network = self._trainer.evaluation_model()
        return lambda: accuracy(network, self._task.val, batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": list(self._scores), "index": self._index, "trainer": self._trainer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scores = list(state["scores"])
        self._start(state["index"])
        self._trainer.load_state_dict(state["trainer"])
