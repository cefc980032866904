"""Options of `darts`."""

from dataclasses import dataclass, field

from bnas.budget import ABOUT_BUDGET, Budget
from bnas.collapse import CollapseOptions
from bnas.errors import BnasError, check_choice
from bnas.execution import EXECUTIONS
from bnas.options import check_number, option
from bnas.training.recipe import PRECISIONS, Recipe
from strategies.alphas import GATES

ORDERS = ("first", "second")
TEMPERATURES = ("constant", "linear", "exponential")
COSTS = ("macs", "latency")
GENOTYPE_RULES = ("last", "best_val_after")


@dataclass(frozen=True)
class DartsMethod:
    """Hyper-parameters of the search itself; weights follow DARTS' released recipe (SGD with momentum, cosine)."""

    epochs: int = option(50, "passes over the training half", "code")
    learning_rate: float = option(0.025, "of the weights, at the start of the cosine", "code")
    learning_rate_end: float = option(0.001, "of the weights, at the end of the cosine", "code")
    momentum: float = option(0.9, "of the weights' SGD", "code")
    weight_decay: float = option(3e-4, "of the real-valued weights", "code")
    grad_clip: float = option(5.0, "largest norm of the weights' gradient", "code")
    alpha_learning_rate: float = option(
        0.0, "Adam's rate for the alphas; 0: 3 / number of alpha steps, within 3e-4 and 0.05", "ours"
    )
    alpha_weight_decay: float = option(1e-3, "of the alphas", "code")
    alpha_warmup: float = option(0.2, "share of the search in which only weights are trained", "ours")
    gates: str = option(
        "soft",
        "soft: all choices, weighted; gumbel: weighted by a random sample a step; straight-through: one of it runs",
        "code",
        choices=GATES,
    )
    order: str = option(
        "first",
        "second: the alphas' gradient looks ahead by one step of the weights (DARTS eq. 7)",
        "ours",
        choices=ORDERS,
    )
    temperature: str = option(
        "exponential",
        "schedule of T after the warm-up; constant is the end value",
        "ours",
        choices=TEMPERATURES,
    )
    temperature_start: float = option(1.0, "T at the end of the warm-up", "ours")
    temperature_end: float = option(0.2, "T at the end of the search; below 1 is spiky", "ours")
    diversity: float = option(
        0.0, "lambda of the term - lambda * mean entropy * exp(-epoch / tau); BNAS uses 1", "paper"
    )
    diversity_decay: float = option(0.154, "tau as a share of the epochs (BNAS: 7.7 of 50)", "code")
    edge_normalization: bool = option(
        False,
        "a weight per edge, softmax over the edges into one node, times those of its operations (PC-DARTS)",
        "code",
    )
    cost: str = option(
        "macs",
        "what cost_weight weighs: macs, real + binary / 64; latency, by budget.latency_table",
        "ours",
        choices=COSTS,
    )
    cost_weight: float = option(0.0, "lambda of the term + lambda * expected cost / unit in the alphas' loss", "ours")
    cost_unit: float = option(
        0.0, "MACs (microseconds) of one image that count as 1; 0: what even gates are expected to cost", "ours"
    )
    budget: Budget = field(default_factory=Budget, metadata=ABOUT_BUDGET)
    genotype: str = option(
        "last",
        "the answer: that of the last alphas, or best_val_after: of the round whose super-network is the most accurate",
        "ours",
        choices=GENOTYPE_RULES,
    )
    genotype_images: int = option(
        2000, "validation images, always the same, by which best_val_after measures after each round", "ours"
    )
    restored_rate: float = option(
        0.1, "collapse restore: the alphas' learning rate is multiplied by this once they are back", "ours"
    )
    precision: str = option(
        "float32",
        "of the steps on weights and alphas: float32, bfloat16 (CUDA and CPU) or float16 (CUDA)",
        "ours",
        choices=PRECISIONS,
    )
    execution: str = option(
        "eager",
        "of the steps: eager; graph: captured CUDA graphs; compile: each cell by torch.compile, minutes at the start",
        "ours",
        choices=EXECUTIONS,
    )
    round_steps: int = option(0, "steps between two checkpoints; 0: an epoch, at most 200 steps", "ours")


@dataclass(frozen=True)
class DartsOptions(CollapseOptions, DartsMethod):
    """All options of a DARTS search, checked. Fields of the last base come first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("gates", self.gates, GATES)
        check_choice("order", self.order, ORDERS)
        check_choice("temperature", self.temperature, TEMPERATURES)
        check_choice("cost", self.cost, COSTS)
        if self.cost == "latency" and self.budget.latency_table is None:
            raise BnasError("cost latency needs budget.latency_table, a file that `bnas profile` writes")
        check_choice("genotype", self.genotype, GENOTYPE_RULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("execution", self.execution, EXECUTIONS)
        if self.order == "second" and self.precision != "float32":
            raise BnasError(
                f"order second takes differences that {self.precision} is too coarse for: set precision to float32"
            )
        check_number("epochs", self.epochs, at_least=1, whole=True)
        check_number("round_steps", self.round_steps, at_least=0, whole=True)
        check_number("genotype_images", self.genotype_images, at_least=1, whole=True)
        check_number("restored_rate", self.restored_rate, at_least=0, at_most=1)
        check_number("alpha_warmup", self.alpha_warmup, at_least=0, below=1)
        for name in ("temperature_start", "temperature_end", "diversity_decay", "learning_rate"):
            check_number(name, getattr(self, name), above=0)
        for name in ("alpha_learning_rate", "alpha_weight_decay", "diversity", "weight_decay", "grad_clip"):
            check_number(name, getattr(self, name), at_least=0)
        for name in ("cost_weight", "cost_unit"):
            check_number(name, getattr(self, name), at_least=0)

    def recipe(self) -> Recipe:
        """The recipe of the super-network's weights."""
        return Recipe(
            optimizer="sgd",
            learning_rate=self.learning_rate,
            learning_rate_end=self.learning_rate_end,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
            epochs=self.epochs,
            precision=self.precision,
        )
