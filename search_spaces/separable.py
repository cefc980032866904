"""Spaces with the operations of DARTS: `cp_nas` and `bnas_beihang` with rebuilt binary convolutions, `darts` as it is.

The separable convolutions of DARTS (Liu et al. 2019, arXiv 1806.09055) lose most when they are binarized. CP-NAS (Zhuo
et al. 2020, arXiv 2005.00057) and Binarized NAS (Chen et al. 2020, arXiv 1911.10862), both from Beihang, search the same
eight operations with convolutions rebuilt for one bit: a norm after each convolution and a shortcut around both.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from bnas.binary import Scheme
from bnas.layers.activation import Activation
from bnas.layers.blocks import BinaryPointwise, CifarStem, ImageNetStem
from bnas.layers.conv import BinaryConv2d
from bnas.layers.norm import NormBinarize
from bnas.layers.ops import BinaryOp, FactorizedReduce, Identity, Op, Pool, SeparableOp, Zero
from bnas.options import option
from search_spaces.cells import CellSize, CellSpace

STEM_MULTIPLIER = 3
# Kernel size, dilation.
SEPARABLE = {"sep_conv_3x3": (3, 1), "sep_conv_5x5": (5, 1)}
DILATED = {"dil_conv_3x3": (3, 2), "dil_conv_5x5": (5, 2)}


@dataclass(frozen=True)
class SeparableSize(CellSize):
    """How large a network of `cp_nas` or `darts` is built."""

    pool_norm: bool = option(True, "batch norm without slope after pooling, as DARTS has in its search", "code")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_divides("the halves", 2 * self.partial_channels)


@dataclass(frozen=True)
class BeihangSize(SeparableSize):
    """How large a network of `bnas_beihang` is built; half of the channels are searched (not seen in the paper)."""

    cells: int = option(6, "cells in the chain; reductions at one and two thirds", "ours")
    partial_channels: int = option(
        2, "K: 1/K of the channels goes through an edge's operations while searching", "ours"
    )


class PointwiseNorm(nn.Module):
    """Binary input, binary 1x1 convolution, batch norm: what brings a cell's input to C in these spaces."""

    def __init__(self, c_in: int, c_out: int, scheme: Scheme, before: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.conv = BinaryConv2d(c_in, c_out, 1, scheme)
        self.out_norm = nn.BatchNorm2d(c_out)
        self.activation = Activation("none", c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.out_norm(self.conv(self.before(x))))
        return out


class TwiceSeparable(BinaryOp):
    """Two separable convolutions in a row, the stride in the first: `sep_conv` of DARTS."""

    def __init__(self, norm: nn.Module | None, first: SeparableOp, between: nn.Module, second: SeparableOp) -> None:
        super().__init__(norm)
        self.first, self.between, self.second = first, between, second

    def forward(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        out: Tensor = self.second(x, self.between(self.first(x, self.binary_input(x, x_binary))))
        return out


class _SeparableSpace(CellSpace):
    """What the three spaces share: the eight names, pooling, identity, stems."""

    size_class = SeparableSize
    ops = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", *SEPARABLE, *DILATED)
    never_derived = frozenset({"none"})
    parameter_free_ops = frozenset({"none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"})
    retrain_size: ClassVar[Mapping[str, Any]] = {
        "cells": 20,
        "channels": 36,
        "auxiliary": True,
        "partial_channels": 1,
        "pool_norm": False,
    }

    @abstractmethod
    def make_convolution(self, choice: str, channels: int, stride: int, scheme: Scheme, own_input: bool) -> Op: ...

    @abstractmethod
    def make_reduction(self, c_in: int, c_out: int, scheme: Scheme, own_input: bool) -> FactorizedReduce: ...

    def make_op(
        self, choice: str, channels: int, stride: int, scheme: Scheme, size: SeparableSize, own_input: bool
    ) -> Op:
        if choice in SEPARABLE or choice in DILATED:
            return self.make_convolution(choice, channels, stride, scheme, own_input)
        if choice == "none":
            return Zero(stride)
        if choice == "skip_connect":
            return Identity() if stride == 1 else self.make_reduction(channels, channels, scheme, own_input)
        return Pool(choice.removesuffix("_pool_3x3"), stride, channels if size.pool_norm else None)

    def stem(self, in_channels: int, size: SeparableSize) -> tuple[nn.Module, int, int]:
        if size.stem == "imagenet":
            return ImageNetStem(in_channels, size.channels, 1), size.channels, size.channels
        width = STEM_MULTIPLIER * size.channels
        return CifarStem(in_channels, width), width, width

    def own(self, own_input: bool, channels: int, scheme: Scheme) -> nn.Module | None:
        return self.make_input(channels, scheme, affine=True) if own_input else None


class CpNas(_SeparableSpace):
    """Zero, pooling, identity, and one-bit separable convolutions 3x3 and 5x5, plain and dilated, with shortcuts.

    The released description gives the separable convolution; the dilated one is built the same way, with dilation 2.
    """

    name = "cp_nas"

    def make_convolution(self, choice: str, channels: int, stride: int, scheme: Scheme, own_input: bool) -> Op:
        kernel_size, dilation = (SEPARABLE | DILATED)[choice]
        return SeparableOp(
            channels,
            stride,
            scheme,
            kernel_size=kernel_size,
            dilation=dilation,
            norm=self.own(own_input, channels, scheme),
            middle=NormBinarize(channels, scheme, affine=own_input),
            affine=own_input,
            activation="prelu",
        )

    def make_reduction(self, c_in: int, c_out: int, scheme: Scheme, own_input: bool) -> FactorizedReduce:
        return FactorizedReduce(c_in, c_out, scheme, norm=self.own(own_input, c_in, scheme))

    def make_preprocess(self, c_in: int, c_out: int, scheme: Scheme, size: SeparableSize, halve: bool) -> nn.Module:
        return self.make_reduction(c_in, c_out, scheme, True) if halve else BinaryPointwise(c_in, c_out, scheme)


class BnasBeihang(CpNas):
    """The same operations with half of the channels searched, as Binarized NAS does after PC-DARTS."""

    name = "bnas_beihang"
    size_class = BeihangSize


class Darts(_SeparableSpace):
    """The space of DARTS, real-valued under scheme `real` and with its convolutions binarized under any other.

    Real: (ReLU, depthwise, 1x1, BN), twice for `sep_conv` and once for `dil_conv`. Binary: each ReLU, and the place
    between depthwise and 1x1, becomes norm + sign, so that the network packs. The auxiliary head is that of BATS.
    """

    name = "darts"

    @staticmethod
    def _is_real(scheme: Scheme) -> bool:
        return not scheme.activation(1).binarizes

    def make_input(self, channels: int, scheme: Scheme, affine: bool) -> nn.Module:
        return nn.ReLU() if self._is_real(scheme) else super().make_input(channels, scheme, affine)

    def _separable(
        self, channels: int, stride: int, scheme: Scheme, shape: tuple[int, int], norm: nn.Module | None, affine: bool
    ) -> SeparableOp:
        middle = nn.Identity() if self._is_real(scheme) else self.make_input(channels, scheme, affine)
        return SeparableOp(
            channels,
            stride,
            scheme,
            kernel_size=shape[0],
            dilation=shape[1],
            norm=norm,
            middle=middle,
            affine=affine,
            residual=False,
        )

    def make_convolution(self, choice: str, channels: int, stride: int, scheme: Scheme, own_input: bool) -> Op:
        shape = (SEPARABLE | DILATED)[choice]
        norm = self.own(own_input, channels, scheme)
        if choice in DILATED:
            return self._separable(channels, stride, scheme, shape, norm, own_input)
        first, second = (self._separable(channels, s, scheme, shape, None, own_input) for s in (stride, 1))
        return TwiceSeparable(norm, first, self.make_input(channels, scheme, affine=own_input), second)

    def make_reduction(self, c_in: int, c_out: int, scheme: Scheme, own_input: bool) -> FactorizedReduce:
        after = nn.BatchNorm2d(c_out, affine=own_input)
        return FactorizedReduce(c_in, c_out, scheme, norm=self.own(own_input, c_in, scheme), after=after)

    def make_preprocess(self, c_in: int, c_out: int, scheme: Scheme, size: SeparableSize, halve: bool) -> nn.Module:
        if halve:
            return self.make_reduction(c_in, c_out, scheme, True)
        return PointwiseNorm(c_in, c_out, scheme, self.make_input(c_in, scheme, affine=True))

    def stem(self, in_channels: int, size: SeparableSize) -> tuple[nn.Module, int, int]:
        """As in the others, but without ReLU behind the CIFAR stem: each reader has its own."""
        stem, c0, c1 = super().stem(in_channels, size)
        return (CifarStem(in_channels, c1, relu=False) if size.stem == "cifar" else stem), c0, c1
