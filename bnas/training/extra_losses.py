"""EXTRA_LOSSES: further terms of the training loss that a job may ask for by name, each with its options.

A term is an `nn.Module`, so that what it remembers between steps is saved with the trainer as its buffers. A new one is
a subclass of `LossModule`, a dataclass of options and a line in the table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas import strict
from bnas.errors import BnasError
from bnas.options import check_number, option
from bnas.registry import Registry
from bnas.training.distillation import (
    ApprenticeLoss,
    ApprenticeOptions,
    DistillLoss,
    DistillOptions,
    HintLoss,
    HintOptions,
    SoftLabelLoss,
    SoftLabelOptions,
)
from bnas.training.loss_module import LossModule, TaughtLoss
from bnas.training.regularizers import (
    BinarityLoss,
    BinarityOptions,
    ClipLevelLoss,
    ClipLevelOptions,
    SlimmingLoss,
    SlimmingOptions,
    SquaredHingeLoss,
    SquaredHingeOptions,
)
from bnas.training.teacher import Teacher
from bnas.training.updates import latent_weights


@dataclass(frozen=True)
class KernelOptions:
    """Options of the kernel loss."""

    weight: float = option(1e-4, "lambda of the kernel loss", "ours")

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)


class KernelLoss(LossModule):
    """weight * sum over all binary filters of MSE(W_o, alpha_o sign(W_o)): keeps latent weights near what they stand for.

    CP-NAS (Zhuo et al. 2020, arXiv 2005.00057), L_H of its training; MSE is the mean over the elements of a filter.
    alpha and sign are those of the layer's scheme; sign is a constant for the gradient. 0 while no weight is binary.
    """

    def __init__(self, options: KernelOptions) -> None:
        super().__init__()
        self._weight = options.weight

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        total = torch.zeros((), device=logits.device)
        for entry in latent_weights(model):
            binary = torch.zeros_like(entry.weight)
            for term in entry.binarizer.terms(entry.weight):
                sign = term.sign_pm1.detach()
                binary = binary + (sign if term.scale is None else sign * term.scale)
            total = total + (entry.weight - binary).square().flatten(1).mean(dim=1).sum()
        return self._weight * total


@dataclass(frozen=True)
class CentreOptions:
    """Options of the intra-class compactness loss."""

    weight: float = option(1e-3, "lambda; half of it times the mean squared distance", "ours")
    momentum: float = option(0.9, "share of the old centre at each update", "ours")

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)
        check_number("momentum", self.momentum, at_least=0, below=1)


class CentreLoss(LossModule):
    """weight / 2 * mean over the images of |f - c_y|^2: features f [N, F] near the centre c of their class.

    Intra-class compactness of CP-NAS (Zhuo et al. 2020, arXiv 2005.00057), where it is a sum: a mean does not swamp the
    cross-entropy. f is what the network's `classifier` gets. c_y <- momentum c_y + (1 - momentum) * mean f of the class
    in the batch, after the loss; a class starts from its first mean. No gradient flows into the centres.
    """

    centres: Tensor
    seen: Tensor

    def __init__(self, options: CentreOptions) -> None:
        super().__init__()
        self._options = options
        self._features: Tensor | None = None

    def attach(self, model: nn.Module) -> None:
        classifier = getattr(model, "classifier", None)
        if not isinstance(classifier, nn.Linear):
            raise BnasError("loss centre: the network has no linear layer named classifier, whose input it compares")
        device = classifier.weight.device
        self.register_buffer("centres", torch.zeros(classifier.out_features, classifier.in_features, device=device))
        self.register_buffer("seen", torch.zeros(classifier.out_features, dtype=torch.bool, device=device))
        classifier.register_forward_pre_hook(self._remember)

    def _remember(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training:
            self._features = inputs[0]

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        if self._features is None:
            raise ValueError("the loss was not attached to the model before its forward")
        features, self._features = self._features.float(), None
        with torch.no_grad():
            members = F.one_hot(labels, len(self.centres)).T.to(features.dtype)
            counts = members.sum(dim=1)
            with torch.autocast(features.device.type, enabled=False):
                means = members @ features / counts.clamp_min(1)[:, None]
            here = counts > 0
            centres = torch.where((here & ~self.seen)[:, None], means, self.centres)
            moved = torch.where(here[:, None], torch.lerp(means, centres, self._options.momentum), centres)
            self.centres, self.seen = moved, self.seen | here
        return self._options.weight / 2 * (features - centres[labels]).square().sum(dim=1).mean()


@dataclass(frozen=True)
class LossEntry:
    """An extra loss and the dataclass of its options, all of which have defaults."""

    make: Callable[[Any], LossModule]
    options: type[Any]

    @property
    def is_taught(self) -> bool:
        """Whether it compares with a teacher."""
        return isinstance(self.make, type) and issubclass(self.make, TaughtLoss)


EXTRA_LOSSES: Registry[LossEntry] = Registry(
    "loss",
    {
        "kernel": LossEntry(KernelLoss, KernelOptions),
        "centre": LossEntry(CentreLoss, CentreOptions),
        "distill": LossEntry(DistillLoss, DistillOptions),
        "soft_labels": LossEntry(SoftLabelLoss, SoftLabelOptions),
        "apprentice": LossEntry(ApprenticeLoss, ApprenticeOptions),
        "hint": LossEntry(HintLoss, HintOptions),
        "squared_hinge": LossEntry(SquaredHingeLoss, SquaredHingeOptions),
        "binarity": LossEntry(BinarityLoss, BinarityOptions),
        "clip_level": LossEntry(ClipLevelLoss, ClipLevelOptions),
        "slimming": LossEntry(SlimmingLoss, SlimmingOptions),
    },
)


def loss_options(losses: Mapping[str, Any], key: str = "losses") -> dict[str, Any]:
    """The checked options of each named loss; `BnasError` names the key."""
    checked = {}
    for name, values in losses.items():
        try:
            entry = EXTRA_LOSSES[name]
        except BnasError as error:
            raise error.within(key) from None
        if not isinstance(values, Mapping | None):
            raise BnasError(f"{key}.{name}: expected a table of its options, found {strict.shown(values)}")
        checked[name] = strict.build(entry.options, values or {}, key=f"{key}.{name}")
    return checked


def check_teacher(losses: Mapping[str, Any], has_teacher: bool, key: str = "teacher") -> None:
    """`BnasError` where a loss has no teacher to learn from, or a teacher no loss; `key` is what names one in a job."""
    taught = [name for name in losses if EXTRA_LOSSES[name].is_taught]
    if taught and not has_teacher:
        raise BnasError(f"loss {taught[0]} learns from a trained network: name its checkpoint or folder by {key}")
    if has_teacher and not taught:
        kinds = ", ".join(name for name, entry in EXTRA_LOSSES.items() if entry.is_taught)
        raise BnasError(f"{key} is given, but no loss learns from it; those that do: {kinds}")


def make_losses(losses: Mapping[str, Any], teacher: Teacher | None = None) -> Sequence[LossModule]:
    """The losses of a table name -> options (a table of values, or none for the defaults), new and not attached."""
    options = loss_options(losses)
    check_teacher(losses, teacher is not None)
    made = tuple(EXTRA_LOSSES[name].make(values) for name, values in options.items())
    for loss in made:
        if isinstance(loss, TaughtLoss) and teacher is not None:
            loss.teacher = teacher
    return made
