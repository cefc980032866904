"""Drop-path: drop a whole branch of one sample during training."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """x / (1 - p) with probability 1 - p per sample, else 0, in training; x in evaluation.

    Larsson et al. 2017 (FractalNet), arXiv 1605.07648, in the per-sample form of DARTS. Draws from torch's global
    generator, which the trainer seeds for each step.
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = torch.empty(x.shape[0], *(1,) * (x.dim() - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)
