"""`bnas_gist`: the search space of BNAS (Kim, Singh, Choi, ECCV 2020, arXiv 2002.06963; code gistvision/bnas).

Seven operations with dense binary convolutions and no identity. Zeroise is kept in the final network, because all zeros
can be nearer to the real-valued output than a binary operation is. Cells are skipped by real-valued connections: from
the previous cell in the released code, from both previous cells in the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from bnas.binary import Scheme, make_scheme
from bnas.errors import check_choice
from bnas.genotype import Genotype
from bnas.layers.activation import Activation
from bnas.layers.blocks import ConvNorm
from bnas.layers.conv import BinaryConv2d
from bnas.layers.norm import NormBinarize
from bnas.layers.ops import BinaryConvOp, FactorizedReduce, Identity, Op, Pool, Zero
from bnas.options import check_number, option
from bnas.space import Scores
from search_spaces.cell_network import INPUTS, Place
from search_spaces.cells import CellSize, CellSpace

STEM_MULTIPLIER = 3
SKIPS = ("one", "both", "none")
CONVOLUTIONS = {"conv_3x3": (3, 1), "conv_5x5": (5, 1), "dil_conv_3x3": (3, 2), "dil_conv_5x5": (5, 2)}
# Cells and channels of the published networks A (CIFAR-10), D to H (ImageNet); C as inferred from its 42.4 M
# parameters; B is not known.
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "A": {"cells": 20, "channels": 36, "stem": "cifar"},
    "C": {"cells": 16, "channels": 108, "stem": "cifar"},
    "D": {"cells": 12, "channels": 64, "stem": "imagenet"},
    "E": {"cells": 12, "channels": 68, "stem": "imagenet"},
    "F": {"cells": 15, "channels": 68, "stem": "imagenet"},
    "G": {"cells": 11, "channels": 74, "stem": "imagenet"},
    "H": {"cells": 16, "channels": 128, "stem": "imagenet"},
}


@dataclass(frozen=True)
class GistSize(CellSize):
    """How large a BNAS network is built; `CONFIGURATIONS` has the published ones."""

    skips: str = option("one", "cells added to a cell's output: one (code), both (paper), none", "code", choices=SKIPS)
    real_preprocess: bool = option(True, "1x1 in front of a cell is real-valued, as in the released search", "code")
    pool_norm: bool = option(True, "batch norm without slope after pooling, as in the released search", "code")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("skips", self.skips, SKIPS)
        if self.stem == "imagenet":
            self.check_divides("the stem's halves", 2)


class Preprocess(nn.Module):
    """BN, sign, convolution, ReLU: 1x1, or 3x3 with stride 2 where the map must be halved."""

    def __init__(self, c_in: int, c_out: int, scheme: Scheme, halve: bool) -> None:
        super().__init__()
        self.norm = NormBinarize(c_in, scheme)
        kernel_size, stride = (3, 2) if halve else (1, 1)
        self.conv = BinaryConv2d(c_in, c_out, kernel_size, scheme, stride=stride, padding=kernel_size // 2)
        self.activation = Activation("relu", c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.conv(self.norm(x)))
        return out


class CifarStem(nn.Module):
    """BN, real 3x3 convolution, ReLU: x -> (s, s)."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(c_in), nn.Conv2d(c_in, channels, 3, padding=1, bias=False), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.body(x)
        return s, s


class ImageNetStem(nn.Module):
    """Three real stride-2 3x3 convolutions (C / 2, C, C) with batch norm: x -> (s at 1/4, s at 1/8)."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            ConvNorm(c_in, channels // 2, stride=2), ConvNorm(channels // 2, channels, stride=2, relu=False)
        )
        self.second = nn.Sequential(nn.ReLU(), ConvNorm(channels, channels, stride=2, relu=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s0 = self.first(x)
        return s0, self.second(s0)


class BnasGist(CellSpace):
    """Zeroise, max and average pooling, dense binary convolutions 3x3 and 5x5, plain and dilated.

    `zeroise_gamma` divides the score of Zeroise in `derive`: 3 where the cell is transferred to ImageNet (the released
    code divides the row of the first edge instead), else 1. `identity` adds that operation, as the successor EBNAS has it
    (code sscckk/EBNAS): x itself, and at stride 2 two binary 1x1 convolutions, BN and PReLU.
    """

    name = "bnas_gist"
    size_class = GistSize
    openable = ("activation", "scale")
    ops = ("zeroise", "max_pool_3x3", "avg_pool_3x3", *CONVOLUTIONS)
    parameter_free_ops = frozenset({"zeroise", "max_pool_3x3", "avg_pool_3x3", "identity"})
    # The skips add the cell's inputs to fixed places of the concatenation, so the order of the nodes matters.
    symmetric_nodes = False
    retrain_size: ClassVar[Mapping[str, Any]] = {**CONFIGURATIONS["A"], "real_preprocess": False, "pool_norm": False}

    def __init__(self, nodes: int = 4, zeroise_gamma: float = 1.0, identity: bool = False) -> None:
        if identity:
            self.ops = (*self.ops, "identity")
        super().__init__(nodes)
        if identity:
            # Named only where it is set: genotypes of the published space keep their arguments and digests.
            self.args = {**self.args, "identity": True}
        check_number("zeroise_gamma", zeroise_gamma, above=0)
        self.zeroise_gamma = zeroise_gamma

    def derive(self, scores: Scores) -> Genotype:
        zeroise = self.ops.index("zeroise")
        return super().derive(
            {
                name: [v / self.zeroise_gamma if i == zeroise else v for i, v in enumerate(values)]
                for name, values in scores.items()
            }
        )

    def make_op(self, choice: str, channels: int, stride: int, scheme: Scheme, size: GistSize, own_input: bool) -> Op:
        if choice == "zeroise":
            return Zero(stride)
        if choice == "identity":
            return Identity() if stride == 1 else self._reduction(channels, scheme, own_input)
        if choice in CONVOLUTIONS:
            kernel_size, dilation = CONVOLUTIONS[choice]
            return BinaryConvOp(
                channels,
                stride,
                scheme,
                kernel_size=kernel_size,
                dilation=dilation,
                norm=self.make_input(channels, scheme, affine=True) if own_input else None,
                activation="relu",
                residual=False,
            )
        kind = choice.removesuffix("_pool_3x3")
        return Pool(kind, stride, channels if size.pool_norm else None)

    def _reduction(self, channels: int, scheme: Scheme, own_input: bool) -> Op:
        after = nn.Sequential(nn.BatchNorm2d(channels, affine=own_input), Activation("prelu", channels))
        norm = self.make_input(channels, scheme, affine=True) if own_input else None
        return FactorizedReduce(channels, channels, scheme, norm=norm, after=after)

    def make_preprocess(self, c_in: int, c_out: int, scheme: Scheme, size: GistSize, halve: bool) -> nn.Module:
        return Preprocess(c_in, c_out, make_scheme("real") if size.real_preprocess else scheme, halve)

    def make_skips(self, place: Place, size: GistSize) -> Mapping[int, nn.Module]:
        """Identity where the shape is kept, else BN and a real 2x2 stride-2 convolution with bias; cell 0 has none.

        The stem's output is not skipped to: it has other channels in a normal cell. The published parameter counts are
        met when this BN has slope and offset in the ImageNet networks (F: 39.781 M) and none in the CIFAR network (A:
        5.578 M), so that is how it is.
        """
        wanted = {"one": (1,), "both": (0, 1), "none": ()}[size.skips]
        out = self.nodes * place.channels
        skips: dict[int, nn.Module] = {}
        for source in wanted:
            if place.position < INPUTS - source:
                continue
            halvings = int(place.reduction) + int(source == 0 and place.halve_first)
            layers: list[nn.Module] = []
            channels = place.c_in[source]
            for _ in range(halvings):
                layers += [nn.BatchNorm2d(channels, affine=size.stem == "imagenet"), nn.Conv2d(channels, out, 2, 2)]
                channels = out
            skips[source] = nn.Sequential(*layers)
        return skips

    def stem(self, in_channels: int, size: GistSize) -> tuple[nn.Module, int, int]:
        if size.stem == "imagenet":
            return ImageNetStem(in_channels, size.channels), size.channels, size.channels
        width = STEM_MULTIPLIER * size.channels
        return CifarStem(in_channels, width), width, width
