"""Terms of the loss that are not about answers but weights, levels and slopes; and the squared hinge."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.pre import ClipTo
from bnas.binary.scales import mean_abs_per_filter
from bnas.errors import BnasError, check_choice
from bnas.options import check_number, option
from bnas.training.loss_module import LossModule, full_precision
from bnas.training.updates import latent_weights

ALPHAS = ("layer", "filter")


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """mean over images and classes of max(0, 1 - t y)^2, t = +1 for the label's class and -1 for the others."""
    logits = full_precision(logits)
    targets = 2 * F.one_hot(labels, logits.shape[1]).to(logits.dtype) - 1
    return (1 - targets * logits).clamp_min(0).square().mean()


@dataclass(frozen=True)
class SquaredHingeOptions:
    """Options of the squared hinge."""

    weight: float = option(1.0, "of the whole loss, which this is", "paper")

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)


class SquaredHingeLoss(LossModule):
    """weight * `squared_hinge` in the place of the cross-entropy (BinaryConnect, arXiv 1511.00363; BNN, arXiv 1602.02830).

    Label smoothing is the cross-entropy's and has no part in it.
    """

    replaces_cross_entropy: ClassVar[bool] = True

    def __init__(self, options: SquaredHingeOptions) -> None:
        super().__init__()
        self._weight = options.weight

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        return self._weight * squared_hinge(logits, labels)


def binarity(weight: Tensor, alpha: Tensor, power: int) -> Tensor:
    """Sum of |alpha - |w||^power over a weight [O, ...]; alpha is broadcast to it."""
    return (alpha - weight.abs()).abs().pow(power).sum()


@dataclass(frozen=True)
class BinarityOptions:
    """Options of the binarity regularizer."""

    weight: float = option(1e-6, "lambda of the sum over all latent weights", "ours")
    power: int = option(1, "1: R1, |alpha - |w||; 2: R2, its square", "ours")
    alpha: str = option("layer", "one learned alpha a layer, or one a filter", "ours", choices=ALPHAS)

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)
        if self.power not in (1, 2):
            raise BnasError(f"power is {self.power!r}; it must be 1 (R1) or 2 (R2)")
        check_choice("alpha", self.alpha, ALPHAS)


class BinarityLoss(LossModule):
    """weight * sum over all latent weights of |alpha - |w||^power, with learned alphas: weights near -alpha and +alpha.

    BNN+ (Darabi et al. 2018, arXiv 1812.11800). The alphas start at mean |w| (ours) and are trained beside the network.
    0 while no weight is binary.
    """

    def __init__(self, options: BinarityOptions) -> None:
        super().__init__()
        self._options = options
        self.alphas = nn.ParameterList()

    def attach(self, model: nn.Module) -> None:
        for entry in latent_weights(model):
            start = mean_abs_per_filter(entry.weight.detach())
            self.alphas.append(nn.Parameter(start if self._options.alpha == "filter" else start.mean()))

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        total = torch.zeros((), device=logits.device)
        for entry, alpha in zip(latent_weights(model), self.alphas, strict=True):
            total = total + binarity(entry.weight, alpha, self._options.power)
        return self._options.weight * total


@dataclass(frozen=True)
class ClipLevelOptions:
    """Options of the penalty on clip levels."""

    weight: float = option(2e-4, "lambda", "ours")

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)


class ClipLevelLoss(LossModule):
    """weight * sum of a^2 over the clip levels a of all activations: keeps the range narrow (PACT, arXiv 1805.06085)."""

    def __init__(self, options: ClipLevelOptions) -> None:
        super().__init__()
        self._weight = options.weight

    def attach(self, model: nn.Module) -> None:
        if not clip_levels(model):
            raise BnasError("loss clip_level: the network has no learned clip level; scheme pact has them")

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        return self._weight * torch.stack([level.square() for level in clip_levels(model)]).sum()


def clip_levels(model: nn.Module) -> list[Tensor]:
    """The learned upper bounds of activations, scalars."""
    return [module.high for module in model.modules() if isinstance(module, ClipTo)]


@dataclass(frozen=True)
class SlimmingOptions:
    """Options of the penalty on slopes."""

    weight: float = option(1e-4, "of the sum of |gamma|", "ours")

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)


class SlimmingLoss(LossModule):
    """weight * sum of |gamma| over all batch norms with slopes: channels that do not matter fade, and can be taken out.

    Network slimming (Liu et al. 2017, arXiv 1708.06519), used here for the squeezing of a widened binary network
    (Widening and Squeezing, arXiv 2002.00555, whose own selector is not known to us).
    """

    def __init__(self, options: SlimmingOptions) -> None:
        super().__init__()
        self._weight = options.weight

    def attach(self, model: nn.Module) -> None:
        if not slopes(model):
            raise BnasError("loss slimming: the network has no batch norm with slopes")

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        return self._weight * torch.cat([full_precision(gamma).abs() for gamma in slopes(model)]).sum()


def slopes(model: nn.Module) -> list[Tensor]:
    """gamma [C] of each batch norm that has one."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [norm.weight for norm in norms if norm.weight is not None]
