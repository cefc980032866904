"""Whole networks to time: untrained, packed and real-valued, of one architecture."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from bnas import seeding
from bnas.deploy.file import Packed
from bnas.deploy.pack import export
from bnas.space import NetSpec
from search_spaces.bats import Bats
from search_spaces.fixed import DECISION, Fixed
from search_spaces.widths import Widths


def _birealnet18(scheme: str) -> tuple[nn.Module, NetSpec]:
    """ResNet-18 with Bi-Real blocks at 224 x 224 (Liu et al. 2018, arXiv 1808.00278), down-sampling real."""
    space = Widths(network="resnet18")
    size = {"stem": "imagenet", "block": "bireal", "downsample": "real"}
    spec = NetSpec((3, 224, 224), 1000, scheme, size=size)
    return space.build(space.coded([1.0] * len(space.decisions)), spec), spec


def _bats20(scheme: str) -> tuple[nn.Module, NetSpec]:
    """A random architecture of the space `bats` at the paper's size for CIFAR: 20 cells, C = 36."""
    space = Bats()
    spec = NetSpec((3, 32, 32), 10, scheme, size={"cells": 20, "channels": 36})
    return space.build(space.random(np.random.default_rng(0)), spec), spec


def _vgg_small(scheme: str) -> tuple[nn.Module, NetSpec]:
    """VGG-small (Zhang et al. 2018, arXiv 1807.10029), whose pools stand in front of signs."""
    space = Fixed()
    spec = NetSpec((3, 32, 32), 10, scheme)
    return space.build(space.genotype({DECISION: "vgg_small"}), spec), spec


# The builder, and the scheme of the packed network.
NETWORKS: Mapping[str, tuple[Callable[[str], tuple[nn.Module, NetSpec]], str]] = {
    "birealnet18": (_birealnet18, "bireal"),
    "bats20": (_bats20, "bats"),
    "vgg_small": (_vgg_small, "xnor"),
}


def make(name: str) -> tuple[Packed, nn.Module]:
    """The packed network under its scheme, and the real-valued one, in evaluation; seed 0."""
    build, scheme = NETWORKS[name]
    with seeding.borrowed(0, "bench"):
        binary, spec = build(scheme)
        real, _ = build("real")
    channels = spec.input_shape[0]
    classes = tuple(str(number) for number in range(spec.num_classes))
    packed = export(binary, input_shape=spec.input_shape, classes=classes, mean=[0.5] * channels, std=[0.25] * channels)
    return packed, real.eval()
