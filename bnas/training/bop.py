"""Bop: binary weights without latent ones; a weight flips when the average of its gradients asks for it long enough."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bnas.binary.sign import sign_pm1
from bnas.training.recipe import Recipe


class Bop(torch.optim.Adam):
    """The group "latent" by Bop, every other group by Adam (Helwegen et al. 2019, arXiv 1906.02107).

    m <- (1 - gamma) m + gamma g; w <- -w where |m| >= threshold and sign(m) = sign(w) (`bop_flip: paper`, the default), or
    where m w > threshold (`larq`, the authors' code), which differs only on equality. The weights become their signs at
    the start. gamma follows the learning rate's schedule. No weight decay and no clipping act on them.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], recipe: Recipe, *, fused: bool) -> None:
        super().__init__(list(groups), lr=recipe.learning_rate, betas=recipe.betas, fused=fused)
        self._peak, self._gamma, self._threshold = recipe.learning_rate, recipe.bop_gamma, recipe.bop_threshold
        self._reached = torch.ge if recipe.bop_flip == "paper" else torch.gt
        with torch.no_grad():
            for weight in self._binary():
                weight.copy_(sign_pm1(weight))

    def _binary(self) -> list[Tensor]:
        return [w for group in self.param_groups if group["name"] == "latent" for w in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        rates = [group["lr"] for group in self.param_groups if group["name"] == "latent"]
        flipped = self._binary()
        for weight in flipped:
            if weight.grad is not None:
                self._flip(weight, weight.grad, self._gamma * rates[0] / self._peak)
                # Adam leaves out what has no gradient.
                weight.grad = None
        loss: float | None = super().step(closure)
        return loss

    def _flip(self, weight: Tensor, gradient: Tensor, gamma: float) -> None:
        state = self.state[weight]
        if not state:
            # Adam reads a step in every state that it loads.
            state["step"] = torch.zeros(())
            state["flip_average"] = torch.zeros_like(weight, requires_grad=False)
        average = state["flip_average"].lerp_(gradient, gamma)
        weight.mul_(torch.where(self._reached(average * weight, self._threshold), -1.0, 1.0))
