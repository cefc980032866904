"""Options of `evolution`."""

from dataclasses import dataclass, field
from typing import ClassVar

from bnas.budget import ABOUT_BUDGET, COSTS, Budget
from bnas.collapse import CollapseOptions
from bnas.errors import check_choice
from bnas.layers.packed import CONVOLUTIONS
from bnas.options import check_number, option
from bnas.strategy import SearchTask
from bnas.training.recipe import PRECISIONS, Recipe
from strategies.evaluators import Evaluator, SharedEvaluator, TrainedEvaluator
from strategies.paths import SAMPLINGS
from strategies.population import SELECTIONS, SURVIVALS

EVALUATORS = ("shared", "train")
OBJECTIVES = ("accuracy", "penalty", "front")


@dataclass(frozen=True)
class EvolutionMethod:
    """How candidates are scored, what is better, and how the next ones are bred."""

    evaluator: str = option(
        "shared", "weights of a super-network, or train each by itself", "paper", choices=EVALUATORS
    )
    sampling: str = option(
        "uniform",
        "paths of a training step: one drawn evenly; fair, each choice equally often; sandwich, largest, smallest, 2 random",
        "paper",
        choices=SAMPLINGS,
    )
    epochs: int = option(100, "passes over the training half: of the super-network, or of each candidate", "ours")
    learning_rate: float = option(1e-3, "Adam's, at the start of a cosine to 0", "ours")
    grad_clip: float = option(5.0, "largest norm of the weights' gradient", "ours")
    score_images: int = option(2000, "validation images that a candidate is scored on with shared weights", "ours")
    recalibration_batches: int = option(20, "training batches that a candidate's norms are estimated on anew", "ours")
    score_convolutions: str = option(
        "auto",
        "of a score on a CPU: auto, on packed bits where that is quicker; packed; float; equal scores. Bits need binary "
        "weights: search.scheme xnor, for example; those of binary-activations are real and scored in floats",
        "ours",
        choices=CONVOLUTIONS,
    )
    objective: str = option(
        "accuracy",
        "accuracy; penalty, max(accuracy in percent - cost_weight * cost, 0); front of accuracy and cost by NSGA-II",
        "paper",
        choices=OBJECTIVES,
    )
    cost: str = option("macs_effective", "what penalty and front weigh", "ours", choices=COSTS)
    cost_weight: float = option(2.0, "points of accuracy per unit of cost; unit: the space's reference network", "ours")
    population: int = option(50, "architectures in a generation; the first one is drawn at random", "ours")
    generations: int = option(20, "of which the random one is the first", "ours")
    children: int = option(0, "new architectures a generation; 0: as many as the population", "ours")
    selection: str = option(
        "best", "parents: drawn from the selection_size best, or winners of tournaments of that size", "ours",
        choices=SELECTIONS,
    )  # fmt: skip
    selection_size: int = option(10, "how many are best, or meet in a tournament", "ours")
    survival: str = option(
        "elite", "who stays: the best of parents and children, or (ageing) the youngest", "ours", choices=SURVIVALS
    )
    crossover: float = option(0.5, "share of children of two parents; the others are mutants of one", "ours")
    mutation: float = option(0.1, "chance of each decision of a mutant to be drawn anew; at least one is", "ours")
    budget: Budget = field(default_factory=Budget, metadata=ABOUT_BUDGET)
    precision: str = option(
        "float32", "of the training: float32, bfloat16 (CUDA and CPU) or float16 (CUDA)", "ours", choices=PRECISIONS
    )
    round_steps: int = option(0, "training steps between two checkpoints; 0: an epoch, at most 200 steps", "ours")
    round_candidates: int = option(10, "candidates scored together, between two checkpoints", "ours")


@dataclass(frozen=True)
class EvolutionOptions(CollapseOptions, EvolutionMethod):
    """All options of an evolution, checked. Fields of the last base come first."""

    why_no_restore: ClassVar[str] = "evolution keeps its best candidates anyway: there is no state to go back to"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (
            ("evaluator", EVALUATORS), ("sampling", SAMPLINGS), ("objective", OBJECTIVES), ("cost", COSTS),
            ("selection", SELECTIONS), ("survival", SURVIVALS), ("precision", PRECISIONS),
            ("score_convolutions", CONVOLUTIONS),
        ):  # fmt: skip
            check_choice(name, getattr(self, name), allowed)
        for name in (
            "epochs", "score_images", "recalibration_batches", "population", "generations", "selection_size",
            "round_candidates",
        ):  # fmt: skip
            check_number(name, getattr(self, name), at_least=1, whole=True)
        for name in ("children", "round_steps"):
            check_number(name, getattr(self, name), at_least=0, whole=True)
        for name in ("crossover", "mutation"):
            check_number(name, getattr(self, name), at_least=0, at_most=1)
        check_number("learning_rate", self.learning_rate, above=0)
        for name in ("grad_clip", "cost_weight"):
            check_number(name, getattr(self, name), at_least=0)

    def recipe(self) -> Recipe:
        return Recipe(
            learning_rate=self.learning_rate, grad_clip=self.grad_clip, epochs=self.epochs, precision=self.precision
        )

    def make_evaluator(self, task: SearchTask) -> Evaluator:
        if self.evaluator == "train":
            return TrainedEvaluator(task, self.recipe(), self.round_steps)
        return SharedEvaluator(
            task,
            self.recipe(),
            sampling=self.sampling,
            images=self.score_images,
            recalibration_batches=self.recalibration_batches,
            convolutions=self.score_convolutions,
            round_steps=self.round_steps,
            round_candidates=self.round_candidates,
        )
