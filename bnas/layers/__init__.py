"""Torch modules of binary networks."""

from bnas.layers.activation import RPReLU
from bnas.layers.conv import BinaryConv2d
from bnas.layers.drop_path import DropPath
from bnas.layers.linear import BinaryLinear
from bnas.layers.norm import NormBinarize
from bnas.layers.shuffle import ChannelShuffle, channel_shuffle

__all__ = ["BinaryConv2d", "BinaryLinear", "ChannelShuffle", "DropPath", "NormBinarize", "RPReLU", "channel_shuffle"]
