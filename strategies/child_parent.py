"""`child_parent`: CP-NAS (Zhuo et al., IJCAI 2020, arXiv 2005.00057).

Two super-networks with weights of their own, a binary child and its real-valued parent, are trained on the same drawn
architectures. What binarization costs an architecture, A_P - A_C of the validation accuracies of both, enters its
score; the worst choice of every decision is given up, phase by phase, until one is left (`elimination.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from bnas.errors import BnasError, check_choice
from bnas.options import check_number, option
from bnas.strategy import SearchTask
from bnas.training.recipe import Recipe
from strategies.elimination import drop_fixed
from strategies.shrinking import ShrinkingSearch
from strategies.shrinking_options import ShrinkingOptions

# The default of beta in each form of the score.
BETAS = {"penalty": 1.0, "printed": 2.0}


@dataclass(frozen=True)
class ChildParentOptions(ShrinkingOptions):
    """Hyper-parameters of a child-parent search; the paper prints no optimizer and no T."""

    gap: str = option(
        "penalty",
        "score z of an architecture: penalty is A_C - beta (A_P - A_C); printed, as the paper has it, is "
        "A_C + beta (A_P - A_C)",
        "ours",
        choices=tuple(BETAS),
    )
    beta: float | None = option(None, "weight of the gap; null: 1 for penalty, 2 for printed", "ours")
    drop: int = option(1, "choices that each decision with the most of them gives up at the end of a phase", "paper")
    child_learning_rate: float = option(1e-3, "Adam's, at the start of a cosine to 0 over the whole search", "ours")
    parent_learning_rate: float = option(0.025, "SGD's, at the start of a cosine to 0 over the whole search", "ours")
    parent_momentum: float = option(0.9, "of the parent's SGD", "ours")
    parent_weight_decay: float = option(3e-4, "of the parent's weights", "ours")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("gap", self.gap, BETAS)
        if self.beta is not None:
            check_number("beta", self.beta, at_least=0)
        check_number("drop", self.drop, at_least=1, whole=True)
        for name in ("child_learning_rate", "parent_learning_rate"):
            check_number(name, getattr(self, name), above=0)
        check_number("parent_momentum", self.parent_momentum, at_least=0, below=1)
        check_number("parent_weight_decay", self.parent_weight_decay, at_least=0)

    def child_recipe(self) -> Recipe:
        return Recipe(learning_rate=self.child_learning_rate, precision=self.precision)

    def parent_recipe(self) -> Recipe:
        return Recipe(
            optimizer="sgd",
            learning_rate=self.parent_learning_rate,
            momentum=self.parent_momentum,
            weight_decay=self.parent_weight_decay,
            precision=self.precision,
        )


class ChildParent(ShrinkingSearch):
    """The strategy; see the module. The child has the search's scheme, the parent the scheme `real`.

    The printed score is (1 - beta) A_C + beta A_P, and with the beta of 2 that works best in the paper it punishes a
    good child; yet its ablation says that a larger beta gives fewer convolutions, which only a penalty on the gap does.
    """

    def __init__(self, task: SearchTask, options: ChildParentOptions) -> None:
        if task.spec.scheme == "real":
            raise BnasError(
                "child_parent compares a binary child with its real parent, and search.scheme is real for both; "
                "take a scheme with binary weights and activations, such as xnor"
            )
        self._gap, self._beta = options.gap, BETAS[options.gap] if options.beta is None else options.beta
        parent = replace(task.spec, scheme="real", scheme_options={})
        super().__init__(
            task,
            options,
            partial(drop_fixed, options.drop),
            {"child": (task.spec, options.child_recipe()), "parent": (parent, options.parent_recipe())},
            name="child_parent",
        )

    def judge(self, accuracies: Mapping[str, float]) -> float:
        gap = accuracies["parent"] - accuracies["child"]
        return accuracies["child"] + (self._beta if self._gap == "printed" else -self._beta) * gap
