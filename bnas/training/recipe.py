"""Recipe: how long and with what a network is trained, as one checked value."""

from dataclasses import dataclass

from bnas.errors import BnasError, check_choice
from bnas.options import check_number, option

OPTIMIZERS = ("adam", "sgd", "bop")
BOP_FLIPS = ("paper", "larq")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one training; the defaults are the retraining of BATS (Bulat et al. 2020, 2003.01711).

    All schedules run over the whole training and are functions of the step (`schedules.py`).
    """

    optimizer: str = option(
        "adam",
        "adam, sgd with momentum, or bop: flips for binary weights, adam for the rest",
        "paper",
        choices=OPTIMIZERS,
    )
    learning_rate: float = option(1e-3, "highest learning rate: where the schedule starts after the warm-up", "paper")
    learning_rate_end: float = option(0.0, "learning rate that the cosine arrives at", "ours")
    schedule: str = option(
        "cosine", "cosine from learning_rate to learning_rate_end, or constant", "paper", choices=SCHEDULES
    )
    warmup_fraction: float = option(0.0, "share of all steps in which the learning rate rises linearly from 0", "ours")
    momentum: float = option(0.9, "momentum of sgd; adam does not read it", "code")
    betas: tuple[float, float] = option((0.9, 0.999), "decay of adam's two averages; sgd does not read them", "ours")
    bop_gamma: float = option(
        1e-4, "share of each new gradient in bop's average; follows the learning rate's schedule", "code"
    )
    bop_threshold: float = option(1e-8, "size of bop's average from which a weight flips", "code")
    bop_flip: str = option(
        "paper",
        "a weight flips where m w is, paper: at least the threshold; larq: above it",
        "paper",
        choices=BOP_FLIPS,
    )
    weight_decay: float = option(0.0, "L2 penalty on real-valued weights; norms, biases and scales have none", "paper")
    latent_weight_decay: float = option(
        0.0, "L2 penalty on the latent weights of binary layers; a pull towards 0 makes their signs flicker", "paper"
    )
    epochs: int = option(600, "passes over the training images", "paper")
    batch_size: int = option(256, "images a step", "paper")
    grad_clip: float = option(0.0, "largest norm of the whole gradient; 0 is off", "ours")
    label_smoothing: float = option(0.0, "share of the target spread evenly over all classes", "ours")
    auxiliary_weight: float = option(0.4, "weight of the auxiliary head's loss, where the network has one", "paper")
    drop_path: float = option(0.0, "probability of dropping a path; rises linearly from 0 to this", "paper")
    ema_decay: float = option(
        0.0, "decay a step of the moving average of the weights that is evaluated and kept; 0 is off", "ours"
    )
    precision: str = option(
        "float32",
        "float32, or mixed precision: bfloat16 (CUDA and CPU), float16 (CUDA, with loss scaling)",
        "ours",
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        check_choice("recipe.optimizer", self.optimizer, OPTIMIZERS)
        check_choice("recipe.schedule", self.schedule, SCHEDULES)
        check_choice("recipe.precision", self.precision, PRECISIONS)
        check_number("recipe.learning_rate", self.learning_rate, above=0)
        check_number("recipe.learning_rate_end", self.learning_rate_end, at_least=0, at_most=self.learning_rate)
        check_number("recipe.epochs", self.epochs, at_least=1, whole=True)
        check_number("recipe.batch_size", self.batch_size, at_least=1, whole=True)
        for name in ("warmup_fraction", "momentum", "label_smoothing", "drop_path", "ema_decay"):
            check_number(f"recipe.{name}", getattr(self, name), at_least=0, below=1)
        for name in ("weight_decay", "latent_weight_decay", "grad_clip", "auxiliary_weight"):
            check_number(f"recipe.{name}", getattr(self, name), at_least=0)
        check_number("recipe.bop_gamma", self.bop_gamma, above=0, at_most=1)
        check_number("recipe.bop_threshold", self.bop_threshold, above=0)
        check_choice("recipe.bop_flip", self.bop_flip, BOP_FLIPS)
        if self.optimizer == "bop" and self.latent_weight_decay:
            raise BnasError("recipe.latent_weight_decay has nothing to decay under optimizer bop: set it to 0")
        if self.optimizer == "bop" and self.precision == "float16":
            raise BnasError(
                "optimizer bop compares gradients with a threshold, which loss scaling moves: take bfloat16"
            )
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise BnasError(f"recipe.betas is {self.betas!r}; it must be two numbers, such as (0.9, 0.999)")
        for index, beta in enumerate(self.betas):
            check_number(f"recipe.betas[{index}]", beta, at_least=0, below=1)
