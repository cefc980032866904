"""`darts`: differentiable architecture search, first order, with a temperature (Liu et al. 2019, arXiv 1806.09055).

All choices of all decisions run, weighted by softmax(alpha / T). Alphas follow the validation loss and weights the
training loss, a step each in turn. A temperature below 1 makes the weights spiky (BATS, Bulat et al. 2020, arXiv
2003.01711); the diversity term keeps early weights even (BNAS, Kim et al. 2020, arXiv 2002.06963).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnas import seeding
from bnas.errors import BnasError, check_choice
from bnas.genotype import Genotype
from bnas.nonfinite import NonFiniteLoss
from bnas.options import check_number, option
from bnas.space import Gates, argmax_scores, soft_gates
from bnas.strategy import SearchTask, StepKind, describe_genotype, slice_steps
from bnas.training.recipe import PRECISIONS, Recipe
from bnas.training.schedules import anneal
from bnas.training.trainer import Trainer

TEMPERATURES = ("constant", "linear", "exponential")
ALPHA_BETAS = (0.5, 0.999)
ALPHA_START = 1e-3


@dataclass(frozen=True)
class DartsOptions:
    """Hyper-parameters of a DARTS search; weights follow DARTS' released recipe (SGD with momentum, cosine)."""

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
    precision: str = option(
        "float32",
        "of the steps on weights and alphas: float32, bfloat16 (CUDA and CPU) or float16 (CUDA)",
        "ours",
        choices=PRECISIONS,
    )
    round_steps: int = option(0, "steps between two checkpoints; 0: an epoch, at most 200 steps", "ours")

    def __post_init__(self) -> None:
        check_choice("temperature", self.temperature, TEMPERATURES)
        check_choice("precision", self.precision, PRECISIONS)
        check_number("epochs", self.epochs, at_least=1, whole=True)
        check_number("round_steps", self.round_steps, at_least=0, whole=True)
        check_number("alpha_warmup", self.alpha_warmup, at_least=0, below=1)
        for name in ("temperature_start", "temperature_end", "diversity_decay", "learning_rate"):
            check_number(name, getattr(self, name), above=0)
        for name in ("alpha_learning_rate", "alpha_weight_decay", "diversity", "weight_decay", "grad_clip"):
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


def mean_entropy(weights: dict[str, Tensor]) -> Tensor:
    """Entropy in nats of each decision's weights (a distribution), averaged over the decisions."""
    return torch.stack([-(w * w.clamp_min(1e-12).log()).sum() for w in weights.values()]).mean()


class Darts:
    """The strategy; see the module. A `Resumable`: one round is `round_steps` steps."""

    def __init__(self, task: SearchTask, options: DartsOptions) -> None:
        self._task, self._options = task, options
        with seeding.borrowed(task.seed, "darts", "init"):
            self._net = task.space.supernet(task.spec)
        # A decision with one choice has nothing to learn.
        self._open = [d for d in task.space.decisions if len(d.choices) > 1]
        generator = seeding.torch_generator(task.seed, "darts", "alphas")
        self._alphas = {
            d.name: (ALPHA_START * torch.randn(len(d.choices), generator=generator)).to(task.device).requires_grad_()
            for d in self._open
        }
        self._betas = self._make_betas(generator) if options.edge_normalization else {}
        self._trainer = Trainer(
            self._net,
            task.train,
            options.recipe(),
            seed=task.seed,
            device=task.device,
            forward=lambda x: self._net(x, self._gates(self._detached)),
            before_step=self._alpha_step,
            purpose="darts",
        )
        self._detached: dict[str, Tensor] = {}
        self._warmup_steps = int(options.alpha_warmup * self._trainer.total_steps)
        self._round_steps = slice_steps(options.round_steps, task.train.steps_per_epoch)
        self._optimizer = torch.optim.Adam(
            self._architecture,
            lr=self.alpha_learning_rate,
            betas=ALPHA_BETAS,
            weight_decay=options.alpha_weight_decay,
        )
        # Gradients of the alphas flow back through float16 too, where small ones would be lost without a scale.
        self._scaler = torch.amp.GradScaler(task.device.type, enabled=options.precision == "float16")
        self._val_losses: list[Tensor] = []
        self._val_correct: list[Tensor] = []

    def _make_betas(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A logit per competing decision, by group."""
        groups = {unit[0].group: len(unit) for unit in self._task.space.units() if unit[0].group is not None}
        if not groups:
            raise BnasError(
                f"edge_normalization weighs decisions that compete, and space {self._task.space.name} has none: set false"
            )
        return {
            group: (ALPHA_START * torch.randn(size, generator=generator)).to(self._task.device).requires_grad_()
            for group, size in groups.items()
        }

    @property
    def _architecture(self) -> list[Tensor]:
        return [*self._alphas.values(), *self._betas.values()]

    @property
    def alpha_learning_rate(self) -> float:
        """As given, or in proportion to the steps there are: Adam moves a logit by about its rate a step."""
        steps = self._trainer.total_steps - self._warmup_steps
        return self._options.alpha_learning_rate or min(max(3 / steps, 3e-4), 0.05)

    @property
    def rounds_total(self) -> int:
        return math.ceil(self._trainer.total_steps / self._round_steps)

    @property
    def rounds_done(self) -> int:
        return math.ceil(self._trainer.step / self._round_steps)

    def temperature(self, step: int) -> float:
        """T of step `step`: the start value during the warm-up, then the schedule."""
        o = self._options
        if o.temperature == "constant":
            return o.temperature_end
        left = self._trainer.total_steps - self._warmup_steps
        share = min(max(step - self._warmup_steps, 0) / left, 1.0)
        return anneal(share, o.temperature_start, o.temperature_end, o.temperature)

    def _weights(self, step: int) -> dict[str, Tensor]:
        temperature = self.temperature(step)
        return {name: torch.softmax(alpha / temperature, dim=0) for name, alpha in self._alphas.items()}

    def _edge_weighted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each decision's weights times its share among those it competes with, where edges are normalized."""
        if not self._betas:
            return weights
        shares = {
            decision.name: share
            for unit in self._task.space.units()
            if unit[0].group is not None
            for decision, share in zip(unit, torch.softmax(self._betas[unit[0].group], dim=0), strict=True)
        }
        return {name: vector * shares[name] if name in shares else vector for name, vector in weights.items()}

    def _gates(self, weights: dict[str, Tensor]) -> Gates:
        return soft_gates(self._task.space.decisions, self._edge_weighted(weights))

    def _alpha_step(self, step: int) -> None:
        """Update the alphas on a validation batch, then fix this step's weights for the weight update."""
        if step >= self._warmup_steps:
            images, labels = self._task.val.batch(step - self._warmup_steps)
            weights = self._weights(step)
            with self._trainer.autocast():
                logits = self._net(images, self._gates(weights))
                loss = F.cross_entropy(logits, labels)
            self._val_losses.append(loss.detach())
            self._val_correct.append((logits.detach().argmax(1) == labels).float().mean())
            if self._options.diversity:
                epoch = step / self._task.train.steps_per_epoch
                tau = self._options.diversity_decay * self._options.epochs
                loss = loss - self._options.diversity * math.exp(-epoch / tau) * mean_entropy(weights)
            # Only the alphas' gradients: those of the weights are not even computed.
            logits_of = self._architecture
            for logit, grad in zip(logits_of, torch.autograd.grad(self._scaler.scale(loss), logits_of), strict=True):
                logit.grad = grad
            self._scaler.step(self._optimizer)
            self._scaler.update()
        with torch.no_grad():
            self._detached = self._weights(step)

    def run_round(self) -> dict[str, Any]:
        first = self._trainer.step
        self._val_losses, self._val_correct = [], []
        metrics: dict[str, Any] = dict(
            self._trainer.run_steps(min(self._round_steps, self._trainer.total_steps - first))
        )
        if self._val_losses:
            metrics["val_loss"] = torch.stack(self._val_losses).mean().item()
            metrics["val_accuracy"] = torch.stack(self._val_correct).mean().item()
            metrics["samples"] = round(metrics["samples"] * (1 + len(self._val_losses) / (self._trainer.step - first)))
        if not all(bool(torch.isfinite(alpha).all()) for alpha in self._architecture):
            raise NonFiniteLoss(self._trainer.step - 1, "an architecture weight is not a finite number")
        weights = self._weights(self._trainer.step)
        metrics["temperature"] = self.temperature(self._trainer.step)
        metrics["entropy"] = mean_entropy(weights).item()
        return metrics | describe_genotype(self._task.space, self.derive())

    def derive(self) -> Genotype:
        scores = argmax_scores(self._edge_weighted(self._weights(self._trainer.step)))
        single = {d.name: [1.0] for d in self._task.space.decisions if d.name not in scores}
        return self._task.space.derive(scores | single)

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor]:
        return self._net.state_for(genotype)

    def step_kinds(self) -> tuple[StepKind, ...]:
        total = self._trainer.total_steps
        parts = (("weights", 0, self._warmup_steps), ("weights and alphas", self._warmup_steps, total))
        return tuple(
            StepKind(name, end - first, ("epochs",), partial(self._steps_between, first, end))
            for name, first, end in parts
            if end > first
        )

    def _steps_between(self, first: int, end: int, sample: int) -> Callable[[], object]:
        self._trainer.step = first

        def step() -> object:
            if self._trainer.step == end:
                self._trainer.step = first
            return self._trainer.run_steps(1)

        return step

    def state_dict(self) -> dict[str, Any]:
        return {
            "trainer": self._trainer.state_dict(),
            "alphas": {name: alpha.detach().cpu().clone() for name, alpha in self._alphas.items()},
            "betas": {name: beta.detach().cpu().clone() for name, beta in self._betas.items()},
            "alpha_optimizer": self._optimizer.state_dict(),
            "alpha_scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state["trainer"])
        with torch.no_grad():
            for name, alpha in self._alphas.items():
                alpha.copy_(state["alphas"][name])
            for name, beta in self._betas.items():
                beta.copy_(state["betas"][name])
        self._optimizer.load_state_dict(state["alpha_optimizer"])
        self._scaler.load_state_dict(state["alpha_scaler"])
