"""`random`: uniformly drawn genotypes, each trained for a short while; the baseline of every other strategy.

Li and Talwalkar 2019, arXiv 1902.07638: random search is a hard baseline in architecture search.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bnas.budget import ABOUT_BUDGET, Budget
from bnas.errors import check_choice
from bnas.feasible import Feasible
from bnas.genotype import Genotype
from bnas.options import check_number, option
from bnas.strategy import SearchTask, StepKind, describe_genotype, distinct_genotypes
from bnas.training.recipe import PRECISIONS, Recipe
from strategies.candidates import CandidateTraining, checked_score


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
        self._training = CandidateTraining(task, "random", options.round_steps)
        self._start(0)

    def _start(self, index: int) -> None:
        self._index = index
        self._training.start(index, self._candidates[index], self._recipe)

    @property
    def rounds_total(self) -> int:
        return len(self._candidates) * self._training.rounds(self._recipe)

    @property
    def rounds_done(self) -> int:
        return self._index * self._training.rounds(self._recipe) + self._training.rounds_done

    def run_round(self) -> dict[str, Any]:
        if len(self._scores) > self._index:
            self._start(self._index + 1)
        metrics: dict[str, Any] = {"candidate": self._index + 1, **self._training.run_round()}
        metrics |= describe_genotype(self._task.space, self._candidates[self._index])
        if "val_accuracy" in metrics:
            genotype = self._candidates[self._index]
            self._scores.append(checked_score(metrics["val_accuracy"], genotype, metrics["digest"]))
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
        steps = count * self._recipe.epochs * self._task.train.steps_per_epoch
        keys = {"training": ("samples", "epochs"), "scoring": ("samples",)}
        return self._training.step_kinds(steps, count, keys, self._start, count)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": list(self._scores), "index": self._index, "trainer": self._training.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scores = list(state["scores"])
        self._start(state["index"])
        self._training.load_state_dict(state["trainer"])
