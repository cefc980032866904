"""The gradient of the validation loss after one step of the weights: the second order of DARTS.

Liu et al. 2019, arXiv 1806.09055, eq. 7 and 8, as in the released code: the step is the optimizer's own, with momentum
and weight decay; neither the clipping of gradients nor that of latent weights is part of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[], Tensor]

# epsilon of eq. 8 is this over the norm of the gradient at w' (as the paper's footnote and code have it).
EPSILON = 0.01


def unrolled_gradient(
    optimizer: torch.optim.Optimizer, rate: float, logits: Sequence[Tensor], train_loss: Loss, val_loss: Loss
) -> tuple[Tensor, list[Tensor]]:
    """(L_val(w', a), its gradient to each of `logits`) with w' = w - rate * (momentum buffer + decay + dL_train/dw).

    dL_val(w')/da - rate * (dL_train(w+)/da - dL_train(w-)/da) / (2 epsilon), w+- = w +- epsilon * dL_val/dw': a finite
    difference takes the place of the product with the Hessian. Under a binarized weight it sees only the estimator's
    gradients and the signs that epsilon flips. The losses are functions of the optimizer's weights and of `logits`,
    called once (val) and three times (train) with the same random numbers; weights are put back bit for bit.
    """
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    saved = [weight.detach().clone() for weight in weights]
    try:
        gradients = torch.autograd.grad(train_loss(), weights, allow_unused=True)
        with torch.no_grad():
            for weight, gradient, group in zip(weights, gradients, groups, strict=True):
                if gradient is not None:
                    weight -= rate * _direction(optimizer, group, weight, gradient)
        loss = val_loss()
        found = torch.autograd.grad(loss, [*logits, *weights], allow_unused=True)
        direct, ahead = found[: len(logits)], found[len(logits) :]
        vector = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, ahead, strict=True)]
        norm = torch.stack([part.norm() for part in vector]).norm()
        epsilon = EPSILON / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        sides = []
        for sign in (1, -1):
            _place(weights, [old + sign * epsilon * part for old, part in zip(saved, vector, strict=True)])
            sides.append(torch.autograd.grad(train_loss(), logits, allow_unused=True))
    finally:
        _place(weights, saved)
    result = []
    for logit, own, plus, minus in zip(logits, direct, *sides, strict=True):
        total = torch.zeros_like(logit) if own is None else own
        if plus is not None and minus is not None:
            total = total - rate * (plus - minus) / (2 * epsilon)
        result.append(total)
    return loss.detach(), result


def _direction(optimizer: torch.optim.Optimizer, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> Tensor:
    """What SGD with momentum would subtract, over its learning rate."""
    direction: Tensor = gradient + group["weight_decay"] * weight
    buffer = optimizer.state.get(weight, {}).get("momentum_buffer")
    return direction if buffer is None else direction + group["momentum"] * buffer


@torch.no_grad()
def _place(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
