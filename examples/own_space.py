"""A search space of one's own: three layers, each a binary convolution, a pooling or nothing.

    bnas search examples/own_space.yaml --plugin examples.own_space

A plugin is a module with a table `SPACES` (or `STRATEGIES`, `SCHEMES`) of what it adds, by name. It is named by its
import path on the command line or under `plugins:` in a job; no other file makes anything be imported.
"""

from typing import ClassVar

from torch import nn

from bnas.layers import NormBinarize
from bnas.layers.ops import BinaryConvOp, Identity, Pool
from search_spaces.layerwise import LayerwiseSpace

CHANNELS = 16


class OwnSpace(LayerwiseSpace):
    name = "own"
    layers: ClassVar = {f"layer_{i}": ("conv_3x3", "conv_5x5", "max_pool", "identity") for i in (1, 2, 3)}

    def stem(self, spec, scheme):
        return nn.Sequential(nn.Conv2d(spec.input_shape[0], CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS))

    def layer(self, name, choice, spec, scheme):
        if choice.startswith("conv"):
            norm = NormBinarize(CHANNELS, scheme)
            return BinaryConvOp(CHANNELS, 1, scheme, kernel_size=int(choice[-1]), norm=norm)
        return Identity() if choice == "identity" else Pool("max", 1)

    def head(self, spec, scheme):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def features(self, spec):
        return CHANNELS


SPACES = {"own": OwnSpace}
