"""Candidate operations of cells. Each has the form op(x, x_binary) -> [N, C, H / stride, W / stride].

`x` is the real-valued node, `x_binary` the same node after batch norm and sign. In a super-network that sign is
computed once per node and shared by all candidates (exact when the norm has no affine part); in a fixed network each
operation that needs it owns a `NormBinarize` (`norm`) and computes it from x.
"""

import torch
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.errors import BnasError
from bnas.layers.activation import Activation
from bnas.layers.conv import BinaryConv2d
from bnas.layers.following import Following, convolved
from bnas.layers.shuffle import ChannelShuffle


class Op(nn.Module):
    """Base of the candidates. `reads_binary`: it wants x_binary. `parameter_free`: it has nothing to learn."""

    reads_binary = False
    parameter_free = False
    is_identity = False


class BinaryOp(Op):
    """Base of the operations on +-1 input; `norm` makes it from x, where it is not shared with other operations."""

    reads_binary = True

    def __init__(self, norm: nn.Module | None) -> None:
        super().__init__()
        self.norm = norm

    def binary_input(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        if self.norm is not None:
            result: Tensor = self.norm(x)
            return result
        if x_binary is None:
            raise ValueError("an operation without a norm of its own needs x_binary")
        return x_binary


class BinaryConvOp(BinaryOp):
    """(norm, sign,) grouped k x k convolution C -> C, activation, channel shuffle, + x when the stride is 1.

    With PReLU and the sum, the convolution of BATS cells as released (Bulat et al. 2020, arXiv 2003.01711): no pointwise
    convolution and no second repetition; the shuffle has a fixed number of groups and is left out for ungrouped ones.
    With ReLU, dense and without the sum, that of BNAS cells as released (Kim et al. 2020, arXiv 2002.06963).
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        scheme: Scheme,
        *,
        kernel_size: int,
        norm: nn.Module | None,
        dilation: int = 1,
        groups: int = 1,
        shuffle_groups: int = 1,
        activation: str = "prelu",
        residual: bool = True,
    ) -> None:
        super().__init__(norm)
        self.conv = BinaryConv2d(
            channels,
            channels,
            kernel_size,
            scheme,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
        )
        self.activation = Activation(activation, channels)
        self.shuffle = ChannelShuffle(channels, shuffle_groups) if shuffle_groups > 1 and groups > 1 else None
        self.residual = residual and stride == 1

    def forward(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        binary = self.binary_input(x, x_binary)
        return convolved(self.conv, binary, Following(self.activation, self.shuffle, x if self.residual else None))


class SeparableOp(BinaryOp):
    """(norm, sign,) depthwise k x k, norm, sign, 1x1, norm, + x when the stride is 1: a binary separable convolution.

    As CP-NAS rebuilds it (Zhuo et al. 2020, arXiv 2005.00057): a norm after each convolution, a shortcut around both,
    no ReLU in front. `middle` makes the +-1 input of the 1x1; in a super-network it and the last norm have no affine
    part. An activation may come last, PReLU in the same lab's DCP-NAS. With real weights and activations, `middle` the
    identity, no shortcut and no activation, it is the dilated convolution of DARTS.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        scheme: Scheme,
        *,
        kernel_size: int,
        norm: nn.Module | None,
        middle: nn.Module,
        affine: bool,
        dilation: int = 1,
        residual: bool = True,
        activation: str = "none",
    ) -> None:
        super().__init__(norm)
        padding = dilation * (kernel_size // 2)
        self.depthwise = BinaryConv2d(
            channels, channels, kernel_size, scheme, stride=stride, padding=padding, dilation=dilation, groups=channels
        )
        self.middle = middle
        self.pointwise = BinaryConv2d(channels, channels, 1, scheme)
        self.out_norm = nn.BatchNorm2d(channels, affine=affine)
        self.activation = Activation(activation, channels)
        self.residual = residual and stride == 1

    def forward(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        binary = self.binary_input(x, x_binary)
        inner: Tensor = self.out_norm(self.pointwise(self.middle(self.depthwise(binary))))
        out: Tensor = self.activation(inner + x if self.residual else inner)
        return out


class FactorizedReduce(BinaryOp):
    """(norm, sign,) two 1x1 stride-2 convolutions of O / 2 channels, the second one pixel down and right, concat.

    Halves the map without leaving a pixel unread. Odd sizes round up, as a padded stride-2 convolution does. `after`
    comes last: PReLU in BATS, a batch norm in DARTS.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scheme: Scheme,
        *,
        norm: nn.Module | None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__(norm)
        if out_channels % 2:
            raise BnasError(
                f"a factorized reduction to {out_channels} channels needs an even number: "
                f"{out_channels - 1} or {out_channels + 1} would do"
            )
        half = out_channels // 2
        self.even = BinaryConv2d(in_channels, half, 1, scheme, stride=2)
        self.odd = BinaryConv2d(in_channels, half, 1, scheme, stride=2, padding=(-1, -1, 1, 1))
        self.after = Activation("prelu", out_channels) if after is None else after

    def forward(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        binary = self.binary_input(x, x_binary)
        out: Tensor = self.after(torch.cat([self.even(binary), self.odd(binary)], dim=1))
        return out


class Pool(Op):
    """3x3 pooling with padding 1: maximum, or average over the real pixels only.

    `norm_channels`: a batch norm without slope and offset over that many channels follows, as in the search of DARTS.
    """

    parameter_free = True

    def __init__(self, kind: str, stride: int, norm_channels: int | None = None) -> None:
        super().__init__()
        self.out_norm = None if norm_channels is None else nn.BatchNorm2d(norm_channels, affine=False)
        self.pool: nn.Module = (
            nn.MaxPool2d(3, stride, 1) if kind == "max" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        )

    def forward(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        out: Tensor = self.pool(x)
        return out if self.out_norm is None else self.out_norm(out)


class Identity(Op):
    """x itself (stride 1 only; at stride 2 a `FactorizedReduce` takes its place)."""

    parameter_free = True
    is_identity = True

    def forward(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        return x


class Zero(Op):
    """All zeros of the operation's output shape ("Zeroise"): a kept edge that carries nothing."""

    parameter_free = True

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, x_binary: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
