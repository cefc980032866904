"""Small networks of real layers for the tests of deploy, with the statistics and slopes that training leaves behind."""

import torch
from torch import nn

from bnas.binary.schemes import make_scheme
from bnas.deploy.file import Packed
from bnas.deploy.pack import export
from bnas.layers import BinaryLinear, NormBinarize
from bnas.layers.blocks import BinaryPointwise, CifarStem
from bnas.layers.ops import BinaryConvOp, FactorizedReduce, Identity, Pool, Zero
from bnas.seeding import borrowed

SHAPE = (3, 9, 9)
CLASSES = ("cat", "dog", "fox", "owl", "yak")


class Cell(nn.Module):
    """Every kind of layer that a BATS network has, in one small cell, and a binary fully connected layer."""

    def __init__(self, scheme_name: str, channels: int = 12) -> None:
        super().__init__()
        scheme, C = make_scheme(scheme_name), channels
        self.stem = CifarStem(3, C)
        self.conv = BinaryConvOp(C, 1, scheme, kernel_size=3, norm=NormBinarize(C, scheme), groups=3, shuffle_groups=4)
        self.dilated = BinaryConvOp(
            C, 2, scheme, kernel_size=5, norm=NormBinarize(C, scheme), dilation=2, groups=2, shuffle_groups=4
        )
        self.reduce = FactorizedReduce(C, 2 * C, scheme, norm=NormBinarize(C, scheme))
        self.skip, self.zero, self.average, self.maximum = Identity(), Zero(2), Pool("avg", 2), Pool("max", 2)
        self.mix = BinaryPointwise(4 * C, C, scheme)
        self.norm = NormBinarize(C, scheme)
        self.hidden = BinaryLinear(C, 16, scheme)
        self.classifier = nn.Linear(16, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.stem(x)
        x = self.skip(self.conv(x, None), None)
        node = self.dilated(x, None) + self.zero(x, None) + self.average(x, None)
        x = self.mix(torch.cat([node, self.maximum(x, None), self.reduce(x, None)], dim=1))
        x = self.norm(nn.functional.adaptive_avg_pool2d(x, 1))
        return self.classifier(self.hidden(torch.flatten(x, 1)))


def trained(model: nn.Module, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> nn.Module:
    """`model` with random weights, slopes of both signs and of 0, and running statistics of its own activations."""
    with borrowed(seed, "trained"), torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # The average over all batches, so that few of them suffice.
                module.momentum = None
                if module.affine:
                    module.weight[:1] = 0
        model.train()
        for _ in range(3):
            model(torch.randn(8, *shape))
    return model.eval()


def images(count: int = 20, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> torch.Tensor:
    with borrowed(seed, "images"):
        return torch.randn(count, *shape)


def packed(model: nn.Module, shape: tuple[int, ...] = SHAPE, classes: tuple[str, ...] = CLASSES) -> Packed:
    channels = shape[0]
    return export(
        model, input_shape=shape, classes=classes, mean=[0.5] * channels, std=[0.25] * channels, about={"seed": 0}
    )
