"""Dense blocks: each adds channels to what it reads, and a real-valued transition between stages takes some away."""

from math import gcd

import torch
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.layers.residual import BinaryUnit
from bnas.layers.shuffle import ChannelShuffle


class DenseBlock(nn.Module):
    """x -> (x, conv(sign(BN(x)))): C -> C + growth channels, a 3x3 convolution without a bottleneck.

    BinaryDenseNet (Bethge et al. 2018-19, arXiv 1812.01965, 1906.08637). Padded taps are 0; BMXNet pads with -1.
    """

    def __init__(self, c_in: int, growth: int, scheme: Scheme) -> None:
        super().__init__()
        self.unit = BinaryUnit(c_in, growth, scheme, norm_after=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.unit(x)], dim=1)


class Transition(nn.Sequential):
    """Real: BN, 2x2 max pooling, ReLU, 1x1 convolution: [N, C, H, W] -> [N, O, H / 2, W / 2].

    The order of BMXNet's networks. `groups`: the channels are shuffled, and the convolution has that many groups or, of
    networks that are built smaller than published, the most that divide both widths (MeliusNet A to C).
    """

    def __init__(self, c_in: int, c_out: int, groups: int = 1) -> None:
        groups = gcd(groups, c_in, c_out)
        super().__init__(
            nn.BatchNorm2d(c_in),
            nn.MaxPool2d(2),
            nn.ReLU(),
            *([ChannelShuffle(c_in, groups)] if groups > 1 else []),
            nn.Conv2d(c_in, c_out, 1, groups=groups, bias=False),
        )
