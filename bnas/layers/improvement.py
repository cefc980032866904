"""The block of MeliusNet: a dense block, and a second convolution that improves the channels which the first one added."""

import torch
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.layers.residual import BinaryUnit


class MeliusBlock(nn.Module):
    """x -> (x, d + conv(sign(BN((x, d))))), d = conv(sign(BN(x))): C -> C + growth channels, two 3x3 convolutions.

    Bethge et al. 2020, arXiv 2001.05936: the improvement block adds to the last `growth` channels of its input, which
    are those of the dense block in front of it.
    """

    def __init__(self, c_in: int, growth: int, scheme: Scheme) -> None:
        super().__init__()
        self.dense = BinaryUnit(c_in, growth, scheme, norm_after=False)
        self.improvement = BinaryUnit(c_in + growth, growth, scheme, norm_after=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.dense(x)
        improved = new + self.improvement(torch.cat([x, new], dim=1))
        return torch.cat([x, improved], dim=1)
