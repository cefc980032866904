"""The training loss: smoothed cross-entropy, the auxiliary head's share, and terms that a caller adds."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Outputs = Tensor | tuple[Tensor, Tensor]


class ExtraLoss(Protocol):
    """A further term of the loss, already weighted: (model, logits [N, classes], labels [N]) -> scalar."""

    def __call__(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor: ...


def main_logits(outputs: Outputs) -> Tensor:
    """The logits [N, classes] of a network's answer, which in training may be (logits, auxiliary logits)."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def classification_loss(
    outputs: Outputs, labels: Tensor, *, label_smoothing: float = 0.0, auxiliary_weight: float = 0.0
) -> Tensor:
    """CE(logits) + auxiliary_weight * CE(auxiliary logits), in float32; the second term only for a pair.

    CE with label smoothing e: targets (1 - e) one_hot + e / classes (Szegedy et al. 2016, arXiv 1512.00567).
    """
    loss = F.cross_entropy(main_logits(outputs).float(), labels, label_smoothing=label_smoothing)
    if isinstance(outputs, tuple):
        auxiliary = F.cross_entropy(outputs[1].float(), labels, label_smoothing=label_smoothing)
        loss = loss + auxiliary_weight * auxiliary
    return loss


def total_loss(
    model: nn.Module,
    outputs: Outputs,
    labels: Tensor,
    *,
    label_smoothing: float,
    auxiliary_weight: float,
    extra_losses: Sequence[ExtraLoss] = (),
) -> Tensor:
    """`classification_loss` plus every extra term; an auxiliary head always has the cross-entropy.

    Where one of the terms stands in the place of the cross-entropy of the logits, that is left out.
    """
    logits = main_logits(outputs)
    replaced = any(getattr(extra, "replaces_cross_entropy", False) for extra in extra_losses)
    loss = logits.new_zeros((), dtype=torch.float32)
    if not replaced:
        loss = classification_loss(outputs, labels, label_smoothing=label_smoothing, auxiliary_weight=auxiliary_weight)
    elif isinstance(outputs, tuple):
        loss = auxiliary_weight * classification_loss(outputs[1], labels, label_smoothing=label_smoothing)
    for extra in extra_losses:
        loss = loss + extra(model, logits, labels)
    return loss
