"""The block of ReActNet's own network: a 3x3 and a 1x1 binary convolution, each with a shortcut and RPReLU."""

import torch
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.errors import BnasError
from bnas.layers.activation import Activation
from bnas.layers.conv import BinaryConv2d
from bnas.layers.norm import NormBinarize


class ReActBlock(nn.Module):
    """C -> C or 2C channels: (sign, 3x3, BN, + shortcut, RPReLU), (sign, 1x1, BN, + shortcut, RPReLU).

    Liu et al. 2020, arXiv 2003.03488, figure 5. Where the map is halved the first shortcut is 2x2 average pooling; where
    the channels double there are two 1x1 convolutions of C channels with a shortcut each, side by side. The RSign is the
    scheme's (reactnet: a learned shift per channel) behind a norm, which the paper does not have there: together they are
    one comparison with a learned threshold when packed.
    """

    def __init__(self, c_in: int, c_out: int, scheme: Scheme, *, stride: int = 1) -> None:
        super().__init__()
        if c_out not in (c_in, 2 * c_in):
            raise BnasError(f"a ReActNet block keeps its {c_in} channels or doubles them, it cannot have {c_out}")
        self.spatial_sign = NormBinarize(c_in, scheme)
        self.spatial = BinaryConv2d(c_in, c_in, 3, scheme, stride=stride, padding=1)
        self.spatial_norm = nn.BatchNorm2d(c_in)
        halves = stride == 2
        self.shortcut = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if halves else nn.Identity()
        self.spatial_activation = Activation("rprelu", c_in)
        self.pointwise_sign = NormBinarize(c_in, scheme)
        self.pointwise = nn.ModuleList(BinaryConv2d(c_in, c_in, 1, scheme) for _ in range(c_out // c_in))
        self.pointwise_norms = nn.ModuleList(nn.BatchNorm2d(c_in) for _ in self.pointwise)
        self.pointwise_activation = Activation("rprelu", c_out)

    def forward(self, x: Tensor) -> Tensor:
        around = self.shortcut(x)
        x = self.spatial_activation(self.spatial_norm(self.spatial(self.spatial_sign(x))) + around)
        binary = self.pointwise_sign(x)
        parts = [norm(conv(binary)) + x for conv, norm in zip(self.pointwise, self.pointwise_norms, strict=True)]
        out: Tensor = self.pointwise_activation(torch.cat(parts, dim=1))
        return out
