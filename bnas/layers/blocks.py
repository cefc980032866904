"""Blocks around the searched part of a network: stems, the 1x1 in front of a cell, the auxiliary head."""

import torch
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.layers.activation import Activation
from bnas.layers.conv import BinaryConv2d
from bnas.layers.following import Following, convolved
from bnas.layers.norm import NormBinarize


class ConvNorm(nn.Sequential):
    """Real convolution without bias, batch norm, and optionally ReLU: the real-valued part of a stem."""

    def __init__(
        self, c_in: int, c_out: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(c_out), *([nn.ReLU()] if relu else []))


class CifarStem(nn.Module):
    """Real 3x3 convolution to `channels`, batch norm, ReLU (not in DARTS): x -> (s, s)."""

    def __init__(self, c_in: int, channels: int, *, relu: bool = True) -> None:
        super().__init__()
        self.body = ConvNorm(c_in, channels, relu=relu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.body(x)
        return s, s


class ImageNetStem(nn.Module):
    """Three real stride-2 3x3 convolutions (C / 2, C, C; the last two grouped): x -> (s at 1/4, s at 1/8).

    As in the released network of BATS, whose groups have 20 channels.
    """

    def __init__(self, c_in: int, channels: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            ConvNorm(c_in, channels // 2, stride=2),
            ConvNorm(channels // 2, channels, stride=2, groups=groups, relu=False),
        )
        self.second = nn.Sequential(nn.ReLU(), ConvNorm(channels, channels, stride=2, groups=groups, relu=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s0 = self.first(x)
        return s0, self.second(s0)


class BinaryPointwise(nn.Module):
    """BN, sign, binary 1x1 convolution, PReLU, + x where the channels are equal: what brings a cell's input to C."""

    def __init__(self, c_in: int, c_out: int, scheme: Scheme) -> None:
        super().__init__()
        self.norm = NormBinarize(c_in, scheme)
        self.conv = BinaryConv2d(c_in, c_out, 1, scheme)
        self.activation = Activation("prelu", c_out)
        self.residual = c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return convolved(self.conv, self.norm(x), Following(self.activation, shortcut=x if self.residual else None))


class AuxiliaryHead(nn.Module):
    """Average pooling 5 x 5, 1x1 to 128, 2x2 to 768, linear: a second classifier two thirds of the way, in training.

    DARTS' head (arXiv 1806.09055) in the form of BATS' released network: BN before the convolutions and PReLU after
    them, real-valued. Wants a map of at least 8 x 8 (`stride` 3, CIFAR) or 7 x 7 (`stride` 2, ImageNet).
    """

    def __init__(self, channels: int, num_classes: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AvgPool2d(5, stride, count_include_pad=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.PReLU(128),
            nn.BatchNorm2d(128),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.PReLU(768),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.body(x), 1))
        return logits
