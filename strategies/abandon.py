"""`abandon`: Beihang's BNAS (Chen et al., AAAI 2020, arXiv 1911.10862), accuracy-based abandoning of choices.

One binary super-network is trained on drawn architectures, each is credited with its validation accuracy, and the
worse half of the choices of every decision is given up, phase by phase: 8, 4, 2, 1 (`elimination.py`). Its channel
sampling is a matter of the space (`partial_channels`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bnas.errors import check_choice
from bnas.options import check_number, option
from bnas.strategy import SearchTask
from bnas.training.recipe import Recipe
from strategies.confidence_bounds import ConfidenceBounds
from strategies.elimination import Elimination, drop_half
from strategies.shrinking import ShrinkingSearch
from strategies.shrinking_options import ShrinkingOptions

DRAWS: Mapping[str, type[Elimination]] = {"without_replacement": Elimination, "confidence_bounds": ConfidenceBounds}


@dataclass(frozen=True)
class AbandonOptions(ShrinkingOptions):
    """Hyper-parameters of an abandoning search; the paper's body was not seen, so all values are ours."""

    draws: str = option(
        "without_replacement",
        "how architectures are drawn: without_replacement, or with replacement by confidence_bounds",
        "ours",
        choices=tuple(DRAWS),
    )
    warmup_epochs: int = option(3, "epochs on uniformly drawn paths before the first draw that counts", "ours")
    learning_rate: float = option(0.025, "SGD's, at the start of a cosine to 0 over the whole search", "ours")
    momentum: float = option(0.9, "of the SGD", "ours")
    weight_decay: float = option(5e-4, "of the real-valued weights", "ours")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("draws", self.draws, DRAWS)
        check_number("warmup_epochs", self.warmup_epochs, at_least=0, whole=True)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("momentum", self.momentum, at_least=0, below=1)
        check_number("weight_decay", self.weight_decay, at_least=0)

    def recipe(self) -> Recipe:
        return Recipe(
            optimizer="sgd",
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            precision=self.precision,
        )


class Abandon(ShrinkingSearch):
    """The strategy; see the module."""

    def __init__(self, task: SearchTask, options: AbandonOptions) -> None:
        super().__init__(
            task,
            options,
            drop_half,
            {"child": (task.spec, options.recipe())},
            name="abandon",
            warmup_epochs=options.warmup_epochs,
            draws=DRAWS[options.draws],
        )

    def judge(self, accuracies: Mapping[str, float]) -> float:
        return accuracies["child"]
