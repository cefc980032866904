"""`successive_halving`: many genotypes trained for a little, the best of them for longer, and so on.

Jamieson and Talwalkar 2016, arXiv 1502.07943: each rung keeps the best 1 / eta and gives each eta times the epochs, so
that every rung costs about the same. Where the paper goes on with a candidate's training, each rung trains anew here,
with a cosine of its own: accuracies within a rung are then those of finished trainings, and no weights are kept.
"""

import math
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
class SuccessiveHalvingOptions:
    """How many genotypes enter, how fast they are dropped, how each is trained (Adam, cosine to 0)."""

    samples: int = option(27, "distinct genotypes in the first rung", "ours")
    eta: int = option(3, "each rung keeps the best 1 / eta of the candidates", "ours")
    epochs: int = option(
        1, "passes over the training half in the first rung; eta times as many in each that follows", "ours"
    )
    learning_rate: float = option(2e-3, "Adam's, at the start of each rung's cosine", "ours")
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
        check_number("eta", self.eta, at_least=2, whole=True)
        check_number("epochs", self.epochs, at_least=1, whole=True)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("round_steps", self.round_steps, at_least=0, whole=True)


class SuccessiveHalving:
    """The strategy; see the module. A round trains a slice of one candidate of the rung at hand."""

    def __init__(self, task: SearchTask, options: SuccessiveHalvingOptions) -> None:
        self._task, self._options = task, options
        feasible = Feasible(task, options.budget)
        # The candidates of the rung at hand, in the order in which they were drawn, and the scores that they have so far.
        self._rung = distinct_genotypes(
            task.space, options.samples, task.seed, "halving", "genotypes", draw=feasible.random
        )
        self._sizes = [len(self._rung)]
        while self._sizes[-1] > 1:
            self._sizes.append(math.ceil(self._sizes[-1] / options.eta))
        self._level = 0
        self._scores: list[float] = []
        self._training = CandidateTraining(task, "halving", options.round_steps)
        self._start(0, 0)

    def _recipe(self, level: int) -> Recipe:
        o = self._options
        return Recipe(learning_rate=o.learning_rate, epochs=o.epochs * o.eta**level, precision=o.precision)

    def _start(self, level: int, index: int) -> None:
        self._level, self._index = level, index
        self._training.start(sum(self._sizes[:level]) + index, self._rung[index], self._recipe(level))

    def _rounds(self, level: int) -> int:
        return self._training.rounds(self._recipe(level))

    @property
    def rounds_total(self) -> int:
        return sum(size * self._rounds(level) for level, size in enumerate(self._sizes))

    @property
    def rounds_done(self) -> int:
        before = sum(size * self._rounds(level) for level, size in enumerate(self._sizes[: self._level]))
        return before + self._index * self._rounds(self._level) + self._training.rounds_done

    def _survivors(self, count: int) -> list[Genotype]:
        """The best of the rung; those drawn first among equals."""
        ranked = sorted(range(len(self._scores)), key=lambda index: (-self._scores[index], index))
        return [self._rung[index] for index in sorted(ranked[:count])]

    def run_round(self) -> dict[str, Any]:
        if len(self._scores) == len(self._rung):
            self._rung, self._scores = self._survivors(self._sizes[self._level + 1]), []
            self._start(self._level + 1, 0)
        elif len(self._scores) > self._index:
            self._start(self._level, self._index + 1)
        genotype = self._rung[self._index]
        metrics: dict[str, Any] = {"rung": self._level + 1, "candidate": self._index + 1, **self._training.run_round()}
        metrics |= describe_genotype(self._task.space, genotype)
        if "val_accuracy" in metrics:
            self._scores.append(checked_score(metrics["val_accuracy"], genotype, metrics["digest"]))
        return metrics

    def derive(self) -> Genotype:
        """The best candidate of the rung at hand so far, which after the last round is the only one."""
        return self._survivors(1)[0] if self._scores else self._rung[0]

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor] | None:
        """None: a candidate's weights are dropped when the next one starts."""
        return None

    def step_kinds(self) -> tuple[StepKind, ...]:
        each = [self._recipe(level).epochs * self._task.train.steps_per_epoch for level in range(len(self._sizes))]
        steps = sum(size * count for size, count in zip(self._sizes, each, strict=True))
        keys = {"training": ("samples", "epochs"), "scoring": ("samples",)}
        return self._training.step_kinds(
            steps, sum(self._sizes), keys, lambda sample: self._start(0, sample), len(self._rung)
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "rung": [dict(genotype.choices) for genotype in self._rung],
            "scores": list(self._scores),
            "level": self._level,
            "index": self._index,
            "trainer": self._training.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rung = [self._task.space.genotype(choices) for choices in state["rung"]]
        self._scores = list(state["scores"])
        self._start(state["level"], state["index"])
        self._training.load_state_dict(state["trainer"])
