"""Losses of a student that learns from a teacher: its soft labels, its logits, its features."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bnas.errors import BnasError, check_choice
from bnas.options import check_number, option
from bnas.training.loss_module import TaughtLoss, full_precision
from bnas.training.teacher import layer_named

FORMS = ("kl", "mse")


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """H(p_T, p_S) = -sum p_T log p_S, mean over the images; p = softmax(logits / temperature). Logits [N, classes]."""
    targets = F.softmax(full_precision(teacher) / temperature, dim=1)
    return -(targets * F.log_softmax(full_precision(student) / temperature, dim=1)).sum(dim=1).mean()


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_T || p_S), mean over the images: T^2 keeps the gradient's size (Hinton et al. 2015, arXiv 1503.02531)."""
    logs = [F.log_softmax(full_precision(logits) / temperature, dim=1) for logits in (student, teacher)]
    return temperature**2 * F.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class DistillOptions:
    """Options of distillation beside the labels."""

    weight: float = option(1.0, "of the term beside the cross-entropy", "ours")
    form: str = option("kl", "kl: T^2 KL of softened answers; mse: of the logits themselves", "ours", choices=FORMS)
    temperature: float = option(4.0, "T of kl, which mse does not read", "ours")

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)
        check_number("temperature", self.temperature, above=0)
        check_choice("form", self.form, FORMS)


class DistillLoss(TaughtLoss):
    """weight * T^2 KL(p_T || p_S) (Hinton et al. 2015), or weight * the mean squared difference of the logits.

    Both forms of DBNN (speech separation, IJCNN 2018), whose own weights are not known: kl for classes, mse for numbers.
    """

    def __init__(self, options: DistillOptions) -> None:
        super().__init__()
        self._options = options

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        teacher = self.teacher.logits()
        if self._options.form == "mse":
            return self._options.weight * F.mse_loss(full_precision(logits), full_precision(teacher))
        return self._options.weight * softened_divergence(logits, teacher, self._options.temperature)


@dataclass(frozen=True)
class SoftLabelOptions:
    """Options of soft labels alone."""

    temperature: float = option(1.0, "T of both softmax functions", "paper")

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0)


class SoftLabelLoss(TaughtLoss):
    """-sum p_T log p_S in the place of the cross-entropy: no label is read (ReActNet, Liu et al. 2020, arXiv 2003.03488)."""

    replaces_cross_entropy: ClassVar[bool] = True

    def __init__(self, options: SoftLabelOptions) -> None:
        super().__init__()
        self._options = options

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        return soft_cross_entropy(logits, self.teacher.logits(), self._options.temperature)


@dataclass(frozen=True)
class ApprenticeOptions:
    """Weights of Apprentice's three terms."""

    teacher: float = option(1.0, "alpha of H(y, p_T); the teacher is frozen here, so that it is a constant", "paper")
    labels: float = option(0.5, "beta of H(y, p_S)", "paper")
    answers: float = option(0.5, "gamma of H(p_T, p_S)", "paper")

    def __post_init__(self) -> None:
        for name in ("teacher", "labels", "answers"):
            check_number(name, getattr(self, name), at_least=0)
        if self.labels == self.answers == 0:
            raise BnasError("labels and answers are both 0: nothing is left that could train the network")


class ApprenticeLoss(TaughtLoss):
    """alpha H(y, p_T) + beta H(y, p_S) + gamma H(p_T, p_S) in the place of the cross-entropy.

    Apprentice (Mishra & Marr, ICLR 2018, arXiv 1711.05852), scheme B: the teacher is trained before and frozen. Scheme C
    starts the student from its real-valued self besides.
    """

    replaces_cross_entropy: ClassVar[bool] = True

    def __init__(self, options: ApprenticeOptions) -> None:
        super().__init__()
        self._options = options

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        teacher = self.teacher.logits()
        return (
            self._options.teacher * F.cross_entropy(full_precision(teacher), labels)
            + self._options.labels * F.cross_entropy(full_precision(logits), labels)
            + self._options.answers * soft_cross_entropy(logits, teacher)
        )


@dataclass(frozen=True)
class HintOptions:
    """Options of feature hints."""

    layers: tuple[str, ...] = option((), "layers of the student, such as [body.2, body.5]", "ours")
    teacher_layers: tuple[str, ...] = option((), "layers of the teacher, one for each; none: of the same names", "ours")
    weight: float = option(1.0, "of the sum over the layers", "ours")

    def __post_init__(self) -> None:
        check_number("weight", self.weight, above=0)
        if not self.layers:
            raise BnasError("layers is empty: name the layers whose outputs are compared, such as [body.2]")
        if self.teacher_layers and len(self.teacher_layers) != len(self.layers):
            raise BnasError(
                f"{len(self.layers)} layers, but {len(self.teacher_layers)} teacher_layers: name one for each"
            )


class HintLoss(TaughtLoss):
    """weight * sum over named layers of the mean squared difference of student's and teacher's outputs.

    As the knowledge transfer of binary-weight detectors (Xu et al., ICRA 2019, arXiv 1804.06332), whose exact form is not
    known; the idea of hints is FitNets' (Romero et al. 2015, arXiv 1412.6550). Both outputs must have one shape.
    """

    def __init__(self, options: HintOptions) -> None:
        super().__init__()
        self._options = options
        self._pairs = tuple(zip(options.layers, options.teacher_layers or options.layers, strict=True))
        self._features: dict[str, Tensor] = {}

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        for name, _ in self._pairs:
            layer_named(model, name, "the network").register_forward_hook(self._keep(name))
        self.teacher.watch_features([name for _, name in self._pairs])

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if module.training:
                self._features[name] = output

        return hook

    def forward(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for name, of_teacher in self._pairs:
            mine, theirs = self._features.pop(name), self.teacher.feature(of_teacher)
            if mine.shape != theirs.shape:
                raise BnasError(
                    f"loss hint: layer {name} gives {list(mine.shape[1:])}, and {of_teacher} of the teacher "
                    f"{list(theirs.shape[1:])}: name layers whose outputs have one shape"
                )
            total = total + F.mse_loss(full_precision(mine), full_precision(theirs))
        return self._options.weight * total
