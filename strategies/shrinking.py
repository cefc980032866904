"""What `child_parent` and `abandon` share: super-networks trained draw by draw while choices are abandoned."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnas import seeding
from bnas.collapse import CollapseWatch
from bnas.cost import BINARY_MACS_PER_REAL
from bnas.feasible import Feasible
from bnas.genotype import Genotype
from bnas.panel import NetworkPanel, gate_figures
from bnas.scoring import PathScore, path_trainer
from bnas.space import Gates, NetSpec, Supernet, soft_gates
from bnas.strategy import SearchTask, StepKind, describe_genotype, slice_steps
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer
from strategies.elimination import Drawn, Elimination, Shrink
from strategies.shrinking_options import ShrinkingOptions

# Draws that `bnas plan` times, as they differ in cost.
PLANNED_DRAWS = 2
ADVICE = "more repeats or longer draws (draw_steps), a lower cost_weight, a wider budget"


class Member(NamedTuple):
    """A super-network with its training and its scores."""

    net: Supernet
    trainer: Trainer
    score: PathScore


class ShrinkingSearch(ABC):
    """Trains its networks on one drawn architecture after the other, scores it, and abandons the worst choices.

    Steps 0 ... `warmup` - 1 visit a uniformly drawn path each; after them each draw has `draw_steps` steps. A round is
    a slice of one draw, by all networks in turn; the last slice of a draw ends with its scores. Schedules run over all
    steps of the search. Drawn architectures may be over a budget, what is derived is not. The first network is the one
    that is searched for: its weights are handed on.
    """

    def __init__(
        self,
        task: SearchTask,
        options: ShrinkingOptions,
        shrink: Shrink,
        networks: Mapping[str, tuple[NetSpec, Recipe]],
        *,
        name: str,
        warmup_epochs: int = 0,
        draws: type[Elimination] = Elimination,
    ) -> None:
        self._task, self._options, self._name = task, options, name
        within = Feasible(task, options.budget).repaired if options.budget.limits else None
        with seeding.borrowed(task.seed, self._name, "penalties"):
            penalties = _penalties(task, options.cost_weight) if options.cost_weight else None
        self._elimination = draws(task.space, options.repeats, shrink, task.seed, within=within, penalties=penalties)
        self._draw_steps = options.draw_steps or task.train.steps_per_epoch
        self._round_steps = slice_steps(options.round_steps, task.train.steps_per_epoch)
        self._warmup = warmup_epochs * task.train.steps_per_epoch
        total = self._warmup + self._elimination.total * self._draw_steps
        self._members = {role: self._member(role, spec, recipe, total) for role, (spec, recipe) in networks.items()}
        self._first = next(iter(self._members.values()))
        images, _ = next(task.val.fixed(1))
        self._panel = NetworkPanel(self._first.net, images)
        self._drawn: tuple[int, Drawn] | None = None
        self._watch = CollapseWatch(options, ADVICE)
        self._ended = False

    def _member(self, role: str, spec: NetSpec, recipe: Recipe, total: int) -> Member:
        task, options = self._task, self._options
        with seeding.borrowed(task.seed, self._name, "init", role):
            net = task.space.supernet(spec)
        trainer = path_trainer(
            net,
            task.train,
            recipe,
            self._path,
            seed=task.seed,
            device=task.device,
            purpose=f"{self._name}/{role}",
            total_steps=total,
        )
        score = PathScore(
            net,
            task.train,
            task.val,
            options.score_images,
            options.score_norms,
            options.recalibration_batches,
            trainer.autocast,
            options.score_convolutions,
        )
        return Member(net, trainer, score)

    @abstractmethod
    def judge(self, accuracies: Mapping[str, float]) -> float:
        """The score of a drawn architecture from the validation accuracy of each network."""

    @property
    def rounds_total(self) -> int:
        if self._ended:
            return self.rounds_done
        return self._rounds(self._warmup) + self._elimination.total * self._rounds(self._draw_steps)

    @property
    def rounds_done(self) -> int:
        step = self._first.trainer.step
        if step < self._warmup:
            return self._rounds(step)
        draws, within = divmod(step - self._warmup, self._draw_steps)
        return self._rounds(self._warmup) + draws * self._rounds(self._draw_steps) + self._rounds(within)

    def _rounds(self, steps: int) -> int:
        return math.ceil(steps / self._round_steps)

    def _path(self, step: int) -> Gates:
        """The gates of training step `step`, of every network."""
        if step < self._warmup:
            rng = seeding.numpy_generator(self._task.seed, self._name, "warmup", step)
            return _one_each({d.name: d.choices[int(rng.integers(len(d.choices)))] for d in self._task.space.decisions})
        return _one_each(self._draw((step - self._warmup) // self._draw_steps))

    def _draw(self, index: int) -> Drawn:
        if self._drawn is None or self._drawn[0] != index:
            self._drawn = index, self._elimination.draw(index)
        return self._drawn[1]

    def run_round(self) -> dict[str, Any]:
        step = self._first.trainer.step
        warming = step < self._warmup
        left = self._warmup - step if warming else self._draw_steps - (step - self._warmup) % self._draw_steps
        metrics: dict[str, Any] = {"choices": self._elimination.phase.choices}
        self._panel.begin()
        samples = 0
        for role, member in self._members.items():
            trained = member.trainer.run_steps(min(self._round_steps, left))
            samples += round(trained.pop("samples"))
            metrics |= trained if len(self._members) == 1 else {f"{role}_{key}": v for key, v in trained.items()}
        draw_ends = not warming and left <= self._round_steps
        if draw_ends:
            metrics |= self._finish_draw()
        metrics["samples"] = samples
        gates = self._path(self._first.trainer.step - 1)
        metrics |= self._panel.figures(lambda x: self._first.net(x, gates)) | gate_figures(self._indicators())
        return metrics | self._judged(draw_ends)

    def _judged(self, draw_ends: bool) -> dict[str, Any]:
        """The architecture of the scores as they are, what follows from it, and the answer as it stands then."""
        space, current = self._task.space, self._elimination.derive()
        record = describe_genotype(space, current)
        # Before every choice has been drawn, the order of the draws decides on the architecture.
        if draw_ends and self._elimination.done >= self._elimination.phases[0].choices:
            verdict = self._watch.judge(self.rounds_done, space.facts(current), lambda: dict(current.choices))
            record |= verdict.record
            self._ended = verdict.action == "stop"
        answer = self.derive()
        return record | {"genotype": dict(answer.choices), "digest": space.digest(answer)}

    def _indicators(self) -> dict[str, Tensor]:
        indicators = {name: self._elimination.indicators(name) for name in self._elimination.remaining}
        return {name: torch.tensor(list(table.values())) for name, table in indicators.items()}

    def _finish_draw(self) -> dict[str, Any]:
        """Score the architecture that has just been trained, and credit it."""
        drawn = self._draw(self._elimination.done)
        gates = _one_each(drawn)
        accuracies = {role: member.score(gates) for role, member in self._members.items()}
        score = self.judge(accuracies)
        metrics: dict[str, Any] = {"draw": self._elimination.done + 1, "score": score}
        for role, value in accuracies.items():
            metrics["val_accuracy" if role == next(iter(accuracies)) else f"{role}_val_accuracy"] = value
        if dropped := self._elimination.credit(drawn, score):
            metrics["given_up"] = dropped
        return metrics

    def derive(self) -> Genotype:
        """By the scores; after a stop because of a collapse, the architecture of the last healthy draw."""
        return self._task.space.genotype(self._watch.healthy) if self._ended else self._elimination.derive()

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor]:
        return self._first.net.state_for(genotype)

    def step_kinds(self) -> tuple[StepKind, ...]:
        draws = self._elimination.total
        samples = min(self._elimination.phases[0].choices, PLANNED_DRAWS)
        count = self._first.trainer.total_steps
        kinds = []
        for role, member in self._members.items():
            kinds.append(
                StepKind(f"{role} training", count, ("repeats",), partial(self._training_step, member), samples)
            )
            kinds.append(StepKind(f"{role} scoring", draws, ("repeats",), partial(self._scoring_step, member), samples))
        return tuple(kinds)

    def _training_step(self, member: Member, sample: int) -> Callable[[], object]:
        first = self._warmup + sample * self._draw_steps
        member.trainer.step = first

        def step() -> object:
            if member.trainer.step == first + self._draw_steps:
                member.trainer.step = first
            return member.trainer.run_steps(1)

        return step

    def _scoring_step(self, member: Member, sample: int) -> Callable[[], object]:
        gates = _one_each(self._elimination.draw(sample))
        return lambda: member.score(gates)

    def state_dict(self) -> dict[str, Any]:
        return {
            "elimination": self._elimination.state_dict(),
            "watch": self._watch.state_dict(),
            "ended": self._ended,
            "trainers": {role: member.trainer.state_dict() for role, member in self._members.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._elimination.load_state_dict(state["elimination"])
        self._watch.load_state_dict(state["watch"])
        self._ended = state["ended"]
        for role, member in self._members.items():
            member.trainer.load_state_dict(state["trainers"][role])
        self._drawn = None


def _one_each(choices: Drawn) -> Gates:
    """Gates with one active choice of every decision, also of those that compete."""
    return Gates({decision: (choice,) for decision, choice in choices.items()})


def _penalties(task: SearchTask, weight: float) -> dict[str, dict[str, float]]:
    """weight * cost with a choice / cost, every other decision taking each of its choices in equal parts."""
    net = task.space.supernet(task.spec)
    decisions = task.space.decisions
    even = soft_gates(decisions, {d.name: torch.full((len(d.choices),), 1 / len(d.choices)) for d in decisions})

    def cost(gates: Gates) -> float:
        real, binary = net.expected_cost(gates)
        return float(real) + float(binary) / BINARY_MACS_PER_REAL

    def fixed(decision: str, choice: str) -> Gates:
        weights = {name: vector for name, vector in even.weights.items() if name != decision}
        return Gates({**even.active, decision: (choice,)}, weights)

    average = cost(even)
    return {d.name: {c: weight * cost(fixed(d.name, c)) / average for c in d.choices} for d in decisions}
