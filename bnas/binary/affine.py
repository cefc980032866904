"""Scales with an offset: two levels that are not mirror images of each other (AdaBin, Tu et al. 2022, arXiv 2208.08084)."""

import torch
from torch import Tensor, nn

from bnas.binary.axes import reduced
from bnas.binary.scales import Scale


class Standardized(Scale):
    """std_o * code + mean_o, std divided by n: undoes a standardization of the weights (AdaBin, arXiv 2208.08084)."""

    formula, added = "std_o", "+ mean_o"

    def value(self, x: Tensor) -> Tensor:
        variance = x.var(dim=reduced(x, "filter"), keepdim=True, correction=0)
        return variance.clamp_min(torch.finfo(x.dtype).tiny).sqrt()

    def offset(self, x: Tensor) -> Tensor:
        return x.mean(dim=reduced(x, "filter"), keepdim=True)

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        return coded * self.value(x) + self.offset(x)


class LearnedPair(Scale):
    """alpha * code + beta, two learned numbers of a layer from 1 and 0; `pre` is (x - beta) / alpha (AdaBin).

    `scaled_offset`: alpha (code + beta), as in the released code.
    """

    def __init__(self, scaled_offset: bool) -> None:
        super().__init__()
        self.scaled_offset = scaled_offset
        self.added = "+ alpha beta" if scaled_offset else "+ beta"
        self.alpha, self.beta = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    formula = "alpha"

    def value(self, x: Tensor) -> Tensor:
        return self.alpha

    def offset(self, x: Tensor) -> Tensor:
        return self.alpha * self.beta if self.scaled_offset else self.beta

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        return coded * self.alpha + self.offset(x)


class Relative:
    """u = (x - beta) / alpha with the two numbers of a `LearnedPair`."""

    formula = "(x - beta) / alpha"

    def __init__(self, pair: LearnedPair) -> None:
        self.pair = pair

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.pair.beta) / self.pair.alpha

    def back(self, u: Tensor) -> Tensor:
        return u.to(self.pair.alpha) * self.pair.alpha + self.pair.beta
