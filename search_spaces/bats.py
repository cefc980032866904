"""`bats`: the search space of BATS (Bulat, Martinez, Tzimiropoulos, ECCV 2020, arXiv 2003.01711).

Eight operations on 2 inputs + 4 nodes; grouped convolutions take the place of depthwise separable ones, which binarize
badly. Paper and released code differ in the groups: the paper states 12 channels a group (the default here), the code
passes 12 as the number of groups; `groups_are` chooses. The released code has no search and no genotype.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from bnas.binary import Scheme
from bnas.errors import check_choice
from bnas.layers.blocks import BinaryPointwise, CifarStem, ImageNetStem
from bnas.layers.ops import BinaryConvOp, FactorizedReduce, Identity, Op, Pool, Zero
from bnas.options import check_number, option
from search_spaces.cells import CellSize, CellSpace

STEM_MULTIPLIER = 3
GROUPINGS = ("channels_per_group", "number_of_groups")
CONVOLUTIONS = {
    "group_conv_3x3": (3, 1),
    "group_conv_5x5": (5, 1),
    "dil_group_conv_3x3": (3, 2),
    "dil_group_conv_5x5": (5, 2),
}


@dataclass(frozen=True)
class BatsSize(CellSize):
    """How large a BATS network is built. The paper's evaluation networks: 20 cells, C = 36 (CIFAR); 14, 80 (ImageNet)."""

    channels: int = option(24, "channels of the first cells' nodes; doubled at each reduction", "ours")
    groups_are: str = option(
        "channels_per_group",
        "what `groups` counts: channels_per_group (paper) or number_of_groups (code)",
        "paper",
        choices=GROUPINGS,
    )
    groups: int = option(12, "channels per group, or number of groups, of the convolutions (ImageNet: 20)", "paper")
    shuffle_groups: int = option(4, "groups of the channel shuffle after a grouped convolution", "code")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("groups_are", self.groups_are, GROUPINGS)
        check_number("groups", self.groups, at_least=1, whole=True)
        check_number("shuffle_groups", self.shuffle_groups, at_least=1, whole=True)
        # What is searched has 1/K of the channels, in groups all the same.
        searched = "groups" if self.partial_channels == 1 else f"groups x partial_channels ({self.partial_channels})"
        self.check_divides(searched, self.groups * self.partial_channels)
        self.check_divides("shuffle_groups", self.shuffle_groups * self.partial_channels)
        self.check_divides("the halves", 2 * self.partial_channels)
        if self.stem == "imagenet":
            self.check_divides("twice the stem's groups", 2 * self.stem_groups)

    @property
    def stem_groups(self) -> int:
        return self.conv_groups(self.channels)

    def conv_groups(self, channels: int) -> int:
        """Number of groups of a convolution on that many channels."""
        return channels // self.groups if self.groups_are == "channels_per_group" else self.groups


class Bats(CellSpace):
    """Group convolutions 3x3 and 5x5, dilated ones, identity, max and average pooling, zero; `zero` is never derived."""

    name = "bats"
    size_class = BatsSize
    openable = ("activation", "scale")
    ops = (*CONVOLUTIONS, "identity", "max_pool_3x3", "avg_pool_3x3", "zero")
    never_derived = frozenset({"zero"})
    parameter_free_ops = frozenset({"identity", "max_pool_3x3", "avg_pool_3x3", "zero"})
    retrain_size: ClassVar[Mapping[str, Any]] = {"cells": 20, "channels": 36, "auxiliary": True}

    def make_op(self, choice: str, channels: int, stride: int, scheme: Scheme, size: BatsSize, own_input: bool) -> Op:
        norm = self.make_input(channels, scheme, affine=True) if own_input else None
        if choice in CONVOLUTIONS:
            kernel_size, dilation = CONVOLUTIONS[choice]
            return BinaryConvOp(
                channels,
                stride,
                scheme,
                kernel_size=kernel_size,
                dilation=dilation,
                groups=size.conv_groups(channels),
                shuffle_groups=size.shuffle_groups,
                norm=norm,
            )
        if choice == "identity":
            return Identity() if stride == 1 else FactorizedReduce(channels, channels, scheme, norm=norm)
        if choice == "zero":
            return Zero(stride)
        return Pool(choice.removesuffix("_pool_3x3"), stride, channels if size.pool_norm else None)

    def make_preprocess(self, c_in: int, c_out: int, scheme: Scheme, size: BatsSize, halve: bool) -> nn.Module:
        if halve:
            return FactorizedReduce(c_in, c_out, scheme, norm=self.make_input(c_in, scheme, affine=True))
        return BinaryPointwise(c_in, c_out, scheme)

    def stem(self, in_channels: int, size: BatsSize) -> tuple[nn.Module, int, int]:
        if size.stem == "imagenet":
            return ImageNetStem(in_channels, size.channels, size.stem_groups), size.channels, size.channels
        width = STEM_MULTIPLIER * size.channels
        return CifarStem(in_channels, width), width, width
