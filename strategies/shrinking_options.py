"""Options that `child_parent` and `abandon` share."""

from dataclasses import dataclass, field
from typing import ClassVar

from bnas.budget import ABOUT_BUDGET, Budget
from bnas.collapse import CollapseOptions
from bnas.errors import check_choice
from bnas.layers.packed import CONVOLUTIONS
from bnas.options import check_number, option
from bnas.scoring import NORM_MODES
from bnas.training.recipe import PRECISIONS


@dataclass(frozen=True)
class DrawingOptions:
    """How architectures are drawn and judged, whatever is trained."""

    repeats: int = option(3, "T: how often K architectures are drawn before choices are given up", "ours")
    draw_steps: int = option(0, "training steps of each drawn architecture; 0: an epoch", "paper")
    score_images: int = option(2000, "validation images, the same for all, that an architecture is scored by", "ours")
    score_norms: str = option(
        "batch",
        "statistics of the norms while scoring: batch, or recalibrated on training batches",
        "ours",
        choices=NORM_MODES,
    )
    recalibration_batches: int = option(20, "training batches of a recalibration", "ours")
    score_convolutions: str = option(
        "auto",
        "of a score on a CPU: auto, products of signs on packed bits where that is quicker; packed; float; equal scores",
        "ours",
        choices=CONVOLUTIONS,
    )
    cost_weight: float = option(
        0.0,
        "taken off a choice's score: this times the real + binary / 64 MACs of an average architecture with it, over "
        "those of an average architecture",
        "ours",
    )
    budget: Budget = field(default_factory=Budget, metadata=ABOUT_BUDGET)
    precision: str = option(
        "float32",
        "of training and scoring: float32, bfloat16 (CUDA and CPU) or float16 (CUDA)",
        "ours",
        choices=PRECISIONS,
    )
    round_steps: int = option(0, "steps between two checkpoints; 0: an epoch, at most 200 steps", "ours")


@dataclass(frozen=True)
class ShrinkingOptions(CollapseOptions, DrawingOptions):
    """All of them, checked. Fields of the last base come first."""

    why_no_restore: ClassVar[str] = "choices that were given up would be given up again after the same draws"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("score_norms", self.score_norms, NORM_MODES)
        check_choice("score_convolutions", self.score_convolutions, CONVOLUTIONS)
        check_choice("precision", self.precision, PRECISIONS)
        for name in ("repeats", "score_images", "recalibration_batches"):
            check_number(name, getattr(self, name), at_least=1, whole=True)
        for name in ("draw_steps", "round_steps"):
            check_number(name, getattr(self, name), at_least=0, whole=True)
        check_number("cost_weight", self.cost_weight, at_least=0)
