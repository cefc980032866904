"""Retraining: a found network is trained from its start, in one stage or several, in rounds that can be resumed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bnas import seeding
from bnas.binary.outputs import materialize
from bnas.data import Augmentation, Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.nonfinite import NonFiniteLoss
from bnas.options import check_number
from bnas.training.extra_losses import make_losses
from bnas.training.metrics import accuracy, latent_signs, sign_flips
from bnas.training.recipe import Recipe
from bnas.training.stages import STAGE_MODES, Stage, binarize_deepest, plan_stages, two_stages
from bnas.training.teacher import Teacher
from bnas.training.trainer import Trainer
from bnas.training.transfer import transfer

__all__ = ["STAGE_MODES", "Build", "Retraining", "Stage", "plan_stages", "two_stages"]

Build = Callable[[str, Mapping[str, Any]], nn.Module]

# Longest round by default, so that an epoch of a large data set is not one long piece of unsaved work.
ROUND_STEPS = 200


class Retraining:
    """Trains `stages` one after the other, in rounds; the engine runs, logs and saves them.

    Each stage builds its network by `build(scheme, scheme_options)`, takes over the weights of the one before
    (`transfer`) and has a fresh optimizer and schedule. `train`: all training images; `validation`, where given, is
    evaluated after each round. `round_steps`: steps a round, by default an epoch or an equal part of one of at most
    200 steps. `initial`: weights that the first stage starts from (a super-network's), by name and shape. `losses`:
    extra losses by name, with their options (`extra_losses.py`); each stage starts with new ones. `teacher`: a trained
    network for those that learn from one; it is frozen, and no part of the state.
    """

    def __init__(
        self,
        build: Build,
        stages: Sequence[Stage],
        recipe: Recipe,
        *,
        train: ImageSet,
        normalization: Normalization,
        seed: int,
        augmentation: Augmentation | None = None,
        validation: ImageSet | None = None,
        device: torch.device | str = "cpu",
        round_steps: int | None = None,
        initial: Mapping[str, Tensor] | None = None,
        losses: Mapping[str, Any] | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        if not stages:
            raise ValueError("a retraining needs at least one stage")
        self.stages = tuple(stages)
        self._build, self._recipe, self._seed, self._device = build, recipe, seed, device
        self._train, self._normalization, self._augmentation = train, normalization, augmentation
        self._losses = losses or {}
        self._teacher = None if teacher is None else Teacher(teacher)
        self._validation: Batches | None = None
        if validation is not None:
            self._validation = Batches(
                validation, recipe.batch_size, seed=seed, normalization=normalization, device=device
            )
        self.stage = 0
        # Names that `initial` had nothing for, or of another shape.
        self.left_at_start: tuple[str, ...] = ()
        self.trainer = self._make_trainer(0, initial)
        steps_per_epoch = self.trainer.batches.steps_per_epoch
        if round_steps is None:
            round_steps = math.ceil(steps_per_epoch / math.ceil(steps_per_epoch / ROUND_STEPS))
        check_number("round_steps", round_steps, at_least=1, whole=True)
        self.round_steps = round_steps
        self._stage_steps = [stage.epochs * steps_per_epoch for stage in self.stages]

    @property
    def rounds_total(self) -> int:
        return sum(self._rounds(steps) for steps in self._stage_steps)

    @property
    def rounds_done(self) -> int:
        """Rounds of finished stages and of this one; a round never reaches over the end of a stage."""
        return sum(self._rounds(steps) for steps in self._stage_steps[: self.stage]) + self._rounds(self.trainer.step)

    @property
    def finished(self) -> bool:
        return self.trainer.finished and self.stage == len(self.stages) - 1

    def run_round(self) -> Mapping[str, Any]:
        """Train for one round and return its figures, as values that JSON can hold.

        `stage`, `step` and `epoch` (of the whole retraining), the trainer's figures, `sign_flips` (share of the binary
        weights that changed sign in the round), `validation_accuracy` where there are validation images.
        """
        if self.finished:
            raise ValueError("all rounds are done")
        if self.trainer.finished:
            self._next_stage()
        trainer = self.trainer
        before = latent_signs(trainer.model)
        figures: dict[str, Any] = {"stage": self.stages[self.stage].name}
        earlier = sum(self._stage_steps[: self.stage])
        try:
            trained = trainer.run_steps(self.round_steps)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(earlier + error.step, error.what) from error
        step = earlier + trainer.step
        figures |= {"step": step, "epoch": step / trainer.batches.steps_per_epoch, **trained}
        if before:
            figures["sign_flips"] = sign_flips(before, latent_signs(trainer.model))
        if self._validation is not None:
            figures["validation_accuracy"] = accuracy(trainer.evaluation_model(), self._validation)
        return figures

    def evaluation_model(self) -> nn.Module:
        """The network as trained so far, in evaluation mode."""
        return self.trainer.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "trainer": self.trainer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["stage"] != self.stage:
            self.stage = state["stage"]
            self.trainer = self._make_trainer(self.stage, None)
        self.trainer.load_state_dict(state["trainer"])

    def _rounds(self, steps: int) -> int:
        return math.ceil(steps / self.round_steps)

    def _next_stage(self) -> None:
        source = self.trainer.evaluation_model()
        self.stage += 1
        self.trainer = self._make_trainer(self.stage, source.state_dict())

    def _make_trainer(self, index: int, start: Mapping[str, Tensor] | None) -> Trainer:
        """A trainer for stage `index` whose network starts from `start` where that fits."""
        stage = self.stages[index]
        with seeding.borrowed(self._seed, "init", index):
            model = self._build(stage.scheme, stage.scheme_options)
            binarize_deepest(model, stage.binary_share)
            materialize(model, torch.zeros(1, *self._train.shape))
        if start is not None:
            left = transfer(start, model)
            if index == 0:
                self.left_at_start = left
            if all(name in left for name, _ in model.named_parameters()):
                raise BnasError(
                    "none of the given weights fits the network by name and shape; "
                    "were they trained with another number of cells or channels?"
                )
        decay = self._recipe.weight_decay if stage.weight_decay is None else stage.weight_decay
        recipe = replace(self._recipe, epochs=stage.epochs, weight_decay=decay)
        purpose = f"stage-{index}"
        batches = Batches(
            self._train,
            recipe.batch_size,
            seed=self._seed,
            normalization=self._normalization,
            augmentation=self._augmentation,
            device=self._device,
            purpose=purpose,
        )
        return Trainer(
            model,
            batches,
            recipe,
            seed=self._seed,
            device=self._device,
            extra_losses=make_losses(self._losses, self._teacher),
            purpose=purpose,
        )
