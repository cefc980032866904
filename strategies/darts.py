"""`darts`: differentiable architecture search (Liu et al. 2019, arXiv 1806.09055) with a temperature.

Choices run weighted by gates made of softmax(alpha / T) (`strategies.alphas`). Alphas follow the validation loss and
weights the training loss, a step each in turn. A temperature below 1 makes the weights spiky (BATS, Bulat et al. 2020,
arXiv 2003.01711); the diversity term keeps early weights even (BNAS, Kim et al. 2020, arXiv 2002.06963).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnas import seeding
from bnas.collapse import CollapseWatch
from bnas.execution import Execution
from bnas.feasible import Feasible
from bnas.genotype import Genotype
from bnas.nonfinite import NonFiniteLoss
from bnas.panel import NetworkPanel, gate_figures, mean_entropy
from bnas.scoring import PathScore
from bnas.space import Gates, argmax_scores
from bnas.stopwatch import NETWORK, OPTIMIZER, part
from bnas.strategy import SearchTask, StepKind, describe_genotype, slice_steps
from bnas.training.metrics import batch_statistics
from bnas.training.schedules import anneal
from bnas.training.trainer import Trainer
from strategies.alphas import Alphas
from strategies.darts_options import DartsOptions
from strategies.expected_cost import ExpectedCost, ExpectedLatency, ExpectedMacs
from strategies.unrolled import unrolled_gradient

ALPHA_BETAS = (0.5, 0.999)
ADVICE = "a longer alpha_warmup, a later or milder temperature_end, diversity above 0, a lower alpha_learning_rate"


class Darts:
    """The strategy; see the module. A `Resumable`: one round is `round_steps` steps."""

    def __init__(self, task: SearchTask, options: DartsOptions) -> None:
        self._task, self._options = task, options
        with seeding.borrowed(task.seed, "darts", "init"):
            self._net = task.space.supernet(task.spec)
        self._alphas = Alphas(
            task.space, task.seed, task.device, kind=options.gates, edge_normalization=options.edge_normalization
        )
        self._trainer = Trainer(
            self._net,
            task.train,
            options.recipe(),
            seed=task.seed,
            device=task.device,
            forward=lambda x: self._run(x, self._fixed),
            before_step=self._alpha_step,
            purpose="darts",
        )
        self._fixed: Gates
        # After the trainer, which moves the network to the device.
        self._run = Execution(self._net, options.execution, task.device)
        self._warmup_steps = int(options.alpha_warmup * self._trainer.total_steps)
        self._round_steps = slice_steps(options.round_steps, task.train.steps_per_epoch)
        self._optimizer = torch.optim.Adam(
            self._alphas.logits,
            lr=self.alpha_learning_rate,
            betas=ALPHA_BETAS,
            weight_decay=options.alpha_weight_decay,
        )
        # Gradients of the alphas flow back through float16 too, where small ones would be lost without a scale.
        self._scaler = torch.amp.GradScaler(task.device.type, enabled=options.precision == "float16")
        self._feasible = Feasible(task, options.budget)
        # Fails where the budget allows nothing, before anything is trained.
        self._of_alphas(temperature=1.0)
        self._cost = self._expected_cost() if options.cost_weight else None
        self._panel = NetworkPanel(self._net, next(task.val.fixed(1))[0])
        self._watch = CollapseWatch(options, ADVICE)
        self._ended = False
        self._best: dict[str, Any] = {}
        self._val_losses: list[Tensor] = []
        self._val_correct: list[Tensor] = []

    def _expected_cost(self) -> ExpectedCost:
        o, start = self._options, self._alphas.soft_gates(math.inf)
        if o.cost == "latency":
            return ExpectedLatency(self._task.space, self._feasible, self._task.device, o.cost_unit, start)
        return ExpectedMacs(self._net, o.cost_unit, start)

    @property
    def alpha_learning_rate(self) -> float:
        """As given, or in proportion to the steps there are: Adam moves a logit by about its rate a step."""
        steps = self._trainer.total_steps - self._warmup_steps
        return self._options.alpha_learning_rate or min(max(3 / steps, 3e-4), 0.05)

    @property
    def rounds_total(self) -> int:
        return self.rounds_done if self._ended else math.ceil(self._trainer.total_steps / self._round_steps)

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

    def _alpha_step(self, step: int) -> None:
        """Update the alphas on a validation batch, then fix this step's gates for the weight update."""
        if step >= self._warmup_steps:
            # Running statistics are those of training images, at weights that stay.
            with batch_statistics(self._net):
                gradients = self._alpha_gradients(step)
            for logit, gradient in zip(self._alphas.logits, gradients, strict=True):
                logit.grad = gradient
            with part(OPTIMIZER):
                self._scaler.step(self._optimizer)
                self._scaler.update()
        with torch.no_grad():
            self._fixed = self._alphas.sampled_gates(self.temperature(step), step, "weights")

    @part(NETWORK)
    def _alpha_gradients(self, step: int) -> list[Tensor]:
        logits = self._alphas.logits
        if self._options.order == "first":
            # Only the alphas' gradients: those of the weights are not even computed.
            loss = self._scaler.scale(self._validation_loss(step))
            return list(torch.autograd.grad(loss, logits, materialize_grads=True))
        optimizer, rate = self._trainer.optimizer, self._trainer.learning_rate
        _, gradients = unrolled_gradient(
            optimizer, rate, logits, partial(self._training_loss, step), partial(self._validation_loss, step)
        )
        return gradients

    def _training_loss(self, step: int) -> Tensor:
        images, labels = self._task.train.batch(step)
        return F.cross_entropy(self._run(images, self._sampled(step)), labels)

    def _sampled(self, step: int) -> Gates:
        return self._alphas.sampled_gates(self.temperature(step), step, "alphas")

    def _validation_loss(self, step: int) -> Tensor:
        """What the alphas minimize: the loss of a validation batch, and the terms on the architecture itself."""
        o = self._options
        images, labels = self._task.val.batch(step - self._warmup_steps)
        with self._trainer.autocast():
            logits = self._run(images, self._sampled(step))
            loss = F.cross_entropy(logits, labels)
        self._val_losses.append(loss.detach())
        self._val_correct.append((logits.detach().argmax(1) == labels).float().mean())
        temperature = self.temperature(step)
        if o.diversity:
            epoch = step / self._task.train.steps_per_epoch
            fading = math.exp(-epoch / (o.diversity_decay * o.epochs))
            loss = loss - o.diversity * fading * mean_entropy(self._alphas.distributions(temperature))
        if self._cost is not None:
            loss = loss + o.cost_weight * self._cost(self._alphas.soft_gates(temperature))
        return loss

    def run_round(self) -> dict[str, Any]:
        first = self._trainer.step
        self._val_losses, self._val_correct = [], []
        self._panel.begin()
        metrics: dict[str, Any] = dict(
            self._trainer.run_steps(min(self._round_steps, self._trainer.total_steps - first))
        )
        if self._val_losses:
            metrics["val_loss"] = torch.stack(self._val_losses).mean().item()
            metrics["val_accuracy"] = torch.stack(self._val_correct).mean().item()
            metrics["samples"] = round(metrics["samples"] * (1 + len(self._val_losses) / (self._trainer.step - first)))
        if not all(bool(torch.isfinite(logit).all()) for logit in self._alphas.logits):
            raise NonFiniteLoss(self._trainer.step - 1, "an architecture weight is not a finite number")
        return metrics | self._figures() | self._judged()

    @torch.no_grad()
    def _figures(self) -> dict[str, Any]:
        """What the gates and the binary parts look like after the round."""
        temperature = self.temperature(self._trainer.step)
        gates = self._alphas.settled_gates(temperature)
        found: dict[str, Any] = {"temperature": temperature} | gate_figures(self._alphas.distributions(temperature))
        if self._cost is not None:
            found[self._cost.figure] = self._cost(self._alphas.soft_gates(temperature)).item() * self._cost.unit
        return found | self._panel.figures(lambda x: self._net(x, gates))

    @torch.no_grad()
    def _judged(self) -> dict[str, Any]:
        """The architecture of the alphas as they are, what follows from it, and the answer as it stands then."""
        space, current = self._task.space, self._of_alphas()
        record = describe_genotype(space, current)
        # In the warm-up alphas are still the noise that they started as.
        if self._val_losses:
            verdict = self._watch.judge(self.rounds_done, space.facts(current), self._remembered)
            record |= verdict.record
            record |= self._scored(current)
            self._ended = verdict.action == "stop"
            if verdict.action == "restore":
                self._go_back(verdict.healthy)
        answer = self.derive()
        return record | {"genotype": dict(answer.choices), "digest": space.digest(answer)}

    def _scored(self, current: Genotype) -> dict[str, float]:
        """Accuracy of the super-network after the round, where that decides on the answer."""
        o = self._options
        if o.genotype != "best_val_after":
            return {}
        score = PathScore(
            self._net, self._task.train, self._task.val, o.genotype_images, autocast=self._trainer.autocast
        )
        accuracy = score(self._alphas.settled_gates(self.temperature(self._trainer.step)))
        if not self._best or accuracy > self._best["accuracy"]:
            self._best = {"accuracy": accuracy, "choices": dict(current.choices)}
        return {"val_accuracy_after": accuracy}

    def _remembered(self) -> dict[str, Any]:
        """What a healthy round leaves to go back to: the architecture and its optimizer. Weights only gain by training."""
        return {
            "logits": self._alphas.state_dict(),
            "optimizer": _copied(self._optimizer.state_dict()),
            "choices": dict(self._of_alphas().choices),
        }

    def _go_back(self, healthy: dict[str, Any]) -> None:
        self._alphas.load_state_dict(healthy["logits"])
        self._optimizer.load_state_dict(_copied(healthy["optimizer"]))
        for group in self._optimizer.param_groups:
            group["lr"] = self.alpha_learning_rate * self._options.restored_rate

    def _of_alphas(self, temperature: float | None = None) -> Genotype:
        """The best of the scores; over the budget, what is changed of it costs the least score (`Feasible.repaired`)."""
        temperature = self.temperature(self._trainer.step) if temperature is None else temperature
        scores = argmax_scores(self._alphas.scores(temperature))
        scores |= {d.name: [1.0] for d in self._task.space.decisions if d.name not in scores}
        return self._feasible.repaired(self._task.space.derive(scores), scores)

    def derive(self) -> Genotype:
        """By `genotype`; after a stop because of a collapse, that of the last healthy round."""
        if self._ended:
            return self._task.space.genotype(self._watch.healthy["choices"])
        if self._best:
            return self._task.space.genotype(self._best["choices"])
        return self._of_alphas()

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor]:
        # A network is built for its keys, and initialized.
        with seeding.borrowed(self._task.seed, "darts", "weights"):
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
            **self._alphas.state_dict(),
            "alpha_optimizer": self._optimizer.state_dict(),
            "alpha_scaler": self._scaler.state_dict(),
            "watch": self._watch.state_dict(),
            "ended": self._ended,
            "best": dict(self._best),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state["trainer"])
        self._alphas.load_state_dict(state)
        self._optimizer.load_state_dict(state["alpha_optimizer"])
        self._scaler.load_state_dict(state["alpha_scaler"])
        self._watch.load_state_dict(state["watch"])
        self._ended, self._best = state["ended"], dict(state["best"])


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with tensors of its own, on the CPU."""
    return {
        "state": {
            index: {name: value.detach().to("cpu", copy=True) for name, value in averages.items()}
            for index, averages in state["state"].items()
        },
        "param_groups": [dict(group) for group in state["param_groups"]],
    }
