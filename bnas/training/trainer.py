"""Trainer: batches in, weights changed. It knows of no search, no stage and no file."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from bnas import seeding
from bnas.binary.anneal import annealed_parts
from bnas.binary.outputs import waiting
from bnas.errors import BnasError
from bnas.nonfinite import NonFiniteLoss, check_images, not_finite
from bnas.stopwatch import NETWORK, OPTIMIZER, part
from bnas.training import schedules
from bnas.training.loss_module import LossModule
from bnas.training.losses import ExtraLoss, main_logits, total_loss
from bnas.training.metrics import Forward
from bnas.training.recipe import Recipe
from bnas.training.source import BatchSource
from bnas.training.updates import clip_to_windows, latent_weights, make_optimizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer:
    """Trains `model` by `recipe`, a slice of steps at a time.

    Everything is a function of the global step: batch, learning rate, drop-path, and the random numbers that the
    network draws. So a training that was saved at any step and continued equals an uninterrupted one bit for bit (on
    CUDA in deterministic mode). `forward`: images -> logits or (logits, auxiliary logits), where it is not the model
    itself (a super-network with its gates). `before_step(step)` runs before each weight update, with the model in
    training mode (a search's step on its gates). `purpose` keeps the random numbers of two trainings of one seed apart.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        forward: Forward | None = None,
        extra_losses: Sequence[ExtraLoss] = (),
        before_step: Callable[[int], None] | None = None,
        purpose: str = "train",
    ) -> None:
        self.device = torch.device(device)
        if recipe.precision == "float16" and self.device.type != "cuda":
            raise BnasError(f"precision float16 needs a CUDA device; on {self.device.type} take bfloat16 or float32")
        self._set_drop_path = getattr(model, "set_drop_path", None)
        if recipe.drop_path and self._set_drop_path is None:
            raise BnasError(f"recipe.drop_path is {recipe.drop_path}, but this network has no paths to drop; set 0")
        if (name := waiting(model)) is not None:
            raise BnasError(
                f"{name} is tied to one size of map, which a super-network does not know: take gamma 'channel'"
            )
        # The layout of the batches (see `bnas.data.images.normalize`); torch's stubs do not know the argument.
        move: Any = model.to
        self.model: nn.Module = move(device=self.device, memory_format=torch.channels_last)
        self.batches, self.recipe, self.extra_losses = batches, recipe, tuple(extra_losses)
        self.total_steps = recipe.epochs * batches.steps_per_epoch
        # Looking at a loss makes the host wait for the device; on the CPU there is nothing to wait for.
        self.waits_each_step = self.device.type == "cpu"
        self.step = 0
        self._seed, self._purpose = seed, purpose
        self._before_step = before_step
        self._forward: Forward = model if forward is None else forward
        self._average = copy.deepcopy(self.model).requires_grad_(False) if recipe.ema_decay else None
        self._stateful = [loss for loss in self.extra_losses if isinstance(loss, LossModule)]
        for loss in self._stateful:
            # After the copy for the average, which is to have no hooks.
            loss.attach(self.model)
        self._optimizer = make_optimizer(model, recipe, [p for loss in self._stateful for p in loss.parameters()])
        # Bop's weights are -1 or +1 and never beyond a window.
        self._clips = recipe.optimizer != "bop"
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self._latents = latent_weights(model)
        self._annealed = annealed_parts(model)
        self._checked = False

    @property
    def finished(self) -> bool:
        return self.step == self.total_steps

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """For a step that has to know what the next update will be."""
        return self._optimizer

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return schedules.learning_rate(self.recipe, self.step, self.total_steps)

    def run_steps(self, count: int) -> dict[str, float]:
        """Run `count` steps, or those that are left, and return the slice's figures.

        `loss` (mean), `accuracy` (share of the training images that were right before their update), `learning_rate`
        (of the last step), `samples`; with `grad_clip`, `clipped_steps`, the share of them whose gradient was longer.
        `NonFiniteLoss` names the first step whose loss is not a number: on the CPU before that step changed a weight;
        elsewhere after the slice, as nothing waits for the device in between. In both cases load a saved state before
        going on.
        """
        count = min(count, self.total_steps - self.step)
        if count < 1:
            raise ValueError(f"no step to run: {self.step} of {self.total_steps} are done")
        losses = torch.empty(count, device=self.device)
        norms = []
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        samples = 0
        self.model.train()
        if not self._checked:
            self._check_weights()
        for index in range(count):
            with seeding.borrowed(self._seed, self._purpose, "step", self.step):
                if self._set_drop_path is not None:
                    self._set_drop_path(schedules.drop_path(self.recipe, self.step, self.total_steps))
                if self._before_step is not None:
                    self._before_step(self.step)
                for part in self._annealed:
                    part.set_progress(schedules.progress(self.step, self.total_steps))
                images, labels = self.batches.batch(self.step)
                loss, logits = self._loss(images, labels)
                losses[index] = loss.detach()
                if self.waits_each_step:
                    self._check_finite(losses[index : index + 1], self.step)
                norms += self._update(loss)
            correct += (logits.detach().argmax(dim=1) == labels).sum()
            samples += len(labels)
            self.step += 1
        self._check_finite(losses, self.step - count)
        self._check_weights()
        figures = {
            "loss": losses.double().mean().item(),
            "accuracy": int(correct) / samples,
            "learning_rate": schedules.learning_rate(self.recipe, self.step - 1, self.total_steps),
            "samples": samples,
        }
        if norms:
            figures["clipped_steps"] = (torch.stack(norms) > self.recipe.grad_clip).double().mean().item()
        return figures

    def evaluation_model(self) -> nn.Module:
        """The network to evaluate and to keep, in evaluation mode: the moving average where there is one.

        It is live, not a copy: the next `run_steps` changes it.
        """
        return (self.model if self._average is None else self._average).eval()

    def state_dict(self) -> dict[str, Any]:
        """All that a continued training needs, as copies on the CPU that `torch.load(weights_only=True)` accepts."""
        average = None if self._average is None else dict(self._average.state_dict())
        state = {
            "step": self.step,
            "model": dict(self.model.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "ema": average,
            "scaler": self._scaler.state_dict(),
            "extra_losses": [dict(loss.state_dict()) for loss in self._stateful],
        }
        copied: dict[str, Any] = _on_cpu(state)
        return copied

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of a trainer with the same network and recipe; the given tensors are not kept."""
        self.step = state["step"]
        self._checked = False
        self.model.load_state_dict(state["model"])
        # The optimizer takes over the tensors that it is given, so it gets copies.
        self._optimizer.load_state_dict(_on_cpu(state["optimizer"]))
        _lay_out_like_weights(self._optimizer)
        self._scaler.load_state_dict(state["scaler"])
        for loss, values in zip(self._stateful, state["extra_losses"], strict=True):
            loss.load_state_dict(values)
        if self._average is not None:
            self._average.load_state_dict(state["ema"])

    def autocast(self) -> AbstractContextManager[None]:
        """The recipe's precision, for every forward of a step; a search's step on its gates takes it too."""
        precision = self.recipe.precision
        return torch.autocast(self.device.type, dtype=_DTYPES[precision], enabled=precision != "float32")

    @part(NETWORK)
    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar loss and the logits [N, classes] of one batch."""
        if self.waits_each_step:
            check_images(images, self.step)
        with self.autocast():
            outputs = self._forward(images)
            loss = total_loss(
                self.model,
                outputs,
                labels,
                label_smoothing=self.recipe.label_smoothing,
                auxiliary_weight=self.recipe.auxiliary_weight,
                extra_losses=self.extra_losses,
            )
        return loss, main_logits(outputs)

    @part(OPTIMIZER)
    def _update(self, loss: Tensor) -> list[Tensor]:
        """One update of the weights, the latent windows and the moving average; the gradient's norm where it is clipped."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        with part(NETWORK):
            self._scaler.scale(loss).backward()
        norms = []
        if self.recipe.grad_clip:
            self._scaler.unscale_(self._optimizer)
            norms.append(nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip))
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._clips:
            clip_to_windows(self._latents)
        if self._average is not None:
            _average_into(self._average, self.model, min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step)))
        return norms

    def _check_weights(self) -> None:
        """Once a slice."""
        self._checked = True
        if (name := not_finite(self.model)) is not None:
            binarized = any(name == latent.name for latent in self._latents)
            where = "where it is binarized" if binarized else "and a sign behind it would hide that"
            raise NonFiniteLoss(self.step, f"{name} is not a finite number {where}")

    def _check_finite(self, losses: Tensor, first_step: int) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            index = int(bad[0])
            lost = "" if (name := not_finite(self.model)) is None else f", and {name} is not a finite number"
            raise NonFiniteLoss(first_step + index, f"the loss is {losses[index].item()}{lost}")


@torch.no_grad()
def _average_into(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, for parameters and float buffers; counters are copied.

    The caller lowers the decay in the first steps, or the average would hold the random start for a long time.
    """
    olds = [*average.parameters(), *average.buffers()]
    news = [*model.parameters(), *model.buffers()]
    pairs = list(zip(olds, news, strict=True))
    floating = [(old, new) for old, new in pairs if old.is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floating], [new for _, new in floating], 1 - decay)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give each average of an optimizer the memory layout of its weight.

    The fused steps walk through both as they lie in memory: with another layout they would pair the wrong elements,
    without a word.
    """
    for weight, averages in optimizer.state.items():
        for name, value in averages.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                averages[name] = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)


def _on_cpu(value: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(entry) for entry in value)
    return value
