"""How evolution learns what a candidate is worth: by shared weights, or by training it by itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from bnas import seeding
from bnas.genotype import Genotype
from bnas.panel import NetworkPanel
from bnas.scoring import PathScore
from bnas.strategy import SearchTask, StepKind, slice_steps
from bnas.training.recipe import Recipe
from strategies.candidates import CandidateTraining
from strategies.paths import SeveralPaths

# Images that the collapse panel's figures are of.
PANEL_IMAGES = 64


class Evaluator(Protocol):
    """Worth of candidates, in bounded rounds; first those that prepare it, then those that score candidates in turn."""

    @property
    def preparation_rounds(self) -> int: ...

    @property
    def preparation_done(self) -> int: ...

    def prepare(self) -> dict[str, Any]:
        """One round of preparation."""
        ...

    def rounds_for(self, candidates: int) -> int:
        """Rounds that score that many candidates from the start of the first."""
        ...

    def rounds_left(self, queue: Sequence[Genotype]) -> int:
        """Rounds that score the queue, whose first candidate may be under way."""
        ...

    def score(self, queue: Sequence[Genotype], first: int) -> tuple[dict[str, Any], list[float]]:
        """One round on the queue, whose first candidate has the number `first`: metrics, accuracies of those done."""
        ...

    def key(self, genotype: Genotype) -> str:
        """Equal for genotypes that this evaluator cannot tell apart."""
        ...

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor] | None: ...

    def step_kinds(self, candidates: Sequence[Genotype], total: int) -> tuple[StepKind, ...]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], queue: Sequence[Genotype], first: int) -> None: ...


# What the number of candidates is in proportion to.
_COUNTED = ("population", "generations")


class SharedEvaluator:
    """A super-network trained by sampled paths; a candidate is scored with its weights after recalibration."""

    def __init__(
        self,
        task: SearchTask,
        recipe: Recipe,
        *,
        sampling: str,
        images: int,
        recalibration_batches: int,
        convolutions: str,
        round_steps: int,
        round_candidates: int,
    ) -> None:
        self._task, self._at_once = task, round_candidates
        with seeding.borrowed(task.seed, "evolution", "init"):
            self._net = task.space.supernet(task.spec)
        self._training = SeveralPaths(task, self._net, sampling, recipe)
        self._round_steps = slice_steps(round_steps, task.train.steps_per_epoch)
        self._score = PathScore(
            self._net,
            task.train,
            task.val,
            images=images,
            norms="recalibrated",
            recalibration_batches=recalibration_batches,
            autocast=self._training.trainer.autocast,
            convolutions=convolutions,
        )
        self._panel = NetworkPanel(self._net, next(task.val.fixed(PANEL_IMAGES))[0])
        self._reference = task.space.gates(task.space.reference())

    @property
    def preparation_rounds(self) -> int:
        return math.ceil(self._training.trainer.total_steps / self._round_steps)

    @property
    def preparation_done(self) -> int:
        return math.ceil(self._training.trainer.step / self._round_steps)

    def prepare(self) -> dict[str, Any]:
        self._panel.begin()
        metrics = self._training.run_steps(self._round_steps)
        return metrics | self._panel.figures(lambda images: self._net(images, self._reference))

    def rounds_for(self, candidates: int) -> int:
        return math.ceil(candidates / self._at_once)

    def rounds_left(self, queue: Sequence[Genotype]) -> int:
        return self.rounds_for(len(queue))

    def score(self, queue: Sequence[Genotype], first: int) -> tuple[dict[str, Any], list[float]]:
        scores = self._score.scores([self._task.space.gates(genotype) for genotype in queue[: self._at_once]])
        images = len(next(self._task.val.fixed(1))[1]) * self._score.forwards
        return {"samples": images * len(scores)}, scores

    def key(self, genotype: Genotype) -> str:
        # Architectures that are equal up to a symmetry have weights of their own here.
        return genotype.content_digest

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor]:
        return self._net.state_for(genotype)

    def step_kinds(self, candidates: Sequence[Genotype], total: int) -> tuple[StepKind, ...]:
        def trained(sample: int) -> Callable[[], object]:
            trainer = self._training.trainer
            trainer.step = 0

            def step() -> object:
                if trainer.finished:
                    trainer.step = 0
                return self._training.run_steps(1)

            return step

        def scored(sample: int) -> Callable[[], object]:
            return lambda: self._score(self._task.space.gates(candidates[sample]))

        return (
            StepKind("super-network", self._training.trainer.total_steps, ("epochs",), trained),
            StepKind("scoring", total, _COUNTED, scored, min(len(candidates), 4)),
        )

    def state_dict(self) -> dict[str, Any]:
        return self._training.trainer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], queue: Sequence[Genotype], first: int) -> None:
        self._training.trainer.load_state_dict(state)


class TrainedEvaluator:
    """Each candidate is trained by itself for a few epochs: the setting of Shen et al. 2019."""

    preparation_rounds = preparation_done = 0

    def __init__(self, task: SearchTask, recipe: Recipe, round_steps: int) -> None:
        self._task, self._recipe = task, recipe
        self._training = CandidateTraining(task, "evolution", round_steps)
        self._number = -1

    def prepare(self) -> dict[str, Any]:
        raise RuntimeError("there is nothing to prepare")

    def rounds_for(self, candidates: int) -> int:
        return candidates * self._training.rounds(self._recipe)

    def rounds_left(self, queue: Sequence[Genotype]) -> int:
        trainer = self._training.trainer
        under_way = 0 if trainer is None or trainer.finished else self._training.rounds_done
        return self.rounds_for(len(queue)) - under_way

    def _start(self, number: int, genotype: Genotype) -> None:
        self._number = number
        self._training.start(number, genotype, self._recipe)

    def score(self, queue: Sequence[Genotype], first: int) -> tuple[dict[str, Any], list[float]]:
        if self._number != first:
            self._start(first, queue[0])
        metrics = self._training.run_round()
        return metrics, [metrics.pop("val_accuracy")] if "val_accuracy" in metrics else []

    def key(self, genotype: Genotype) -> str:
        return self._task.space.digest(genotype)

    def weights_for(self, genotype: Genotype) -> None:
        """None: a candidate's weights are dropped when the next one starts."""
        return

    def step_kinds(self, candidates: Sequence[Genotype], total: int) -> tuple[StepKind, ...]:
        steps = total * self._recipe.epochs * self._task.train.steps_per_epoch
        keys = {"training": (*_COUNTED, "epochs"), "scoring": _COUNTED}
        return self._training.step_kinds(
            steps, total, keys, lambda sample: self._start(sample, candidates[sample]), len(candidates)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"number": self._number, "trainer": self._training.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], queue: Sequence[Genotype], first: int) -> None:
        # A candidate that is done has nothing to continue.
        if state["number"] == first:
            self._start(first, queue[0])
            self._training.load_state_dict(state["trainer"])
        else:
            self._number, self._training.trainer = -1, None
