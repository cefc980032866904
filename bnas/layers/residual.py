"""Binary layers of chain networks, plain and with shortcuts, and how soft width gates act in them.

The order is BN, sign, binary convolution, (max pooling,) BN, activation, + shortcut. Bi-Real net (Liu et al. 2018, arXiv
1808.00278) has no norm in front of its sign; the one here makes each sign's threshold a learned one, and together with
the sign it is a single comparison when packed.

A width gate g [C] weights channels: where a choice of half the width has weight 0.3, the channels that this choice does
not have count for 0.7. It multiplies the binary activation, after the sign (in front of a norm it would be divided out
again, in front of a sign it has no gradient), and what is added to a residual stream, so that a stream carries its gate
from its first layer to the classifier.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.layers.activation import Activation
from bnas.layers.conv import BinaryConv2d
from bnas.layers.norm import NormBinarize

BLOCKS = ("basic", "bireal")
DOWNSAMPLES = ("real", "binary")


class BlockGates(NamedTuple):
    """Soft width gates around one block; None is 1 everywhere.

    `entering`, `inner`, `outer`: [C] of its input, of what is between its two convolutions, of its output. `equal`:
    whether the inner width is the outer one, or [C'] how far it is: channel by channel the joint weight of the widths
    that both have and that reach this channel; C' is the largest of these widths.
    """

    entering: Tensor | None
    inner: Tensor | None
    outer: Tensor | None
    equal: Tensor | bool


def scale_channels(x: Tensor, gate: Tensor | None) -> Tensor:
    """x [N, C, H, W] times a gate [C]."""
    return x if gate is None else x * gate.view(1, -1, 1, 1)


def _reaching(x: Tensor, gate: Tensor, channels: int) -> Tensor:
    """The channels of x that a gate [C'] reaches, times it, filled up with zeros to that many channels."""
    reached = scale_channels(x[:, : len(gate)], gate)
    return F.pad(reached, (0, 0, 0, 0, 0, channels - len(gate)))


class BinaryUnit(nn.Module):
    """BN, sign, k x k binary convolution, (2x2 max pooling,) BN, activation: [N, C, H, W] -> [N, O, H / s, W / s].

    `norm_after` off: there is no BN behind the convolution, where another unit's BN follows at once. `affine` off: the
    norms have no slope and offset.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        scheme: Scheme,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        pool: bool = False,
        norm_after: bool = True,
        activation: str = "none",
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.norm = NormBinarize(c_in, scheme, affine=affine)
        self.conv = BinaryConv2d(
            c_in, c_out, kernel_size, scheme, stride=stride, padding=kernel_size // 2, groups=groups
        )
        self.after = nn.Sequential(
            nn.MaxPool2d(2) if pool else nn.Identity(),
            nn.BatchNorm2d(c_out, affine=affine) if norm_after else nn.Identity(),
            Activation(activation, c_out),
        )

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """`gate` [C] weights the binary input."""
        out: Tensor = self.after(self._gated(self.norm(x), gate))
        return out

    def _gated(self, binary: Tensor, gate: Tensor | None) -> Tensor:
        if gate is None:
            out: Tensor = self.conv(binary)
            return out
        # The same product as with a gated input, on a much smaller tensor; its sums are no integers, and not rounded.
        return self.conv.multiply(binary, scale_channels(self.conv.binarizer(self.conv.weight), gate))


class PooledProjection(nn.Module):
    """2x2 average pooling, real 1x1 convolution, BN: the down-sampling shortcut of Bi-Real net. Odd sides round up."""

    def __init__(self, c_in: int, c_out: int, *, affine: bool = True) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        self.conv = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """x carries its gate already, as part of a stream; `gate` is for shortcuts that binarize."""
        out: Tensor = self.norm(self.conv(self.pool(x)))
        return out


class ResidualBlock(nn.Module):
    """Two binary 3x3 units and what goes around them: c_in -> c_inner -> c_out.

    `block` basic: one shortcut around both convolutions (He et al. 2016; Shen et al. 2019, arXiv 1909.07378, code);
    bireal: one around each convolution, which needs c_inner = c_out; elsewhere a bireal block has the basic shortcut.
    A block with `downsample` halves the map and its shortcut is a `PooledProjection` (real) or a binary 1x1 convolution
    of stride 2 between norms (binary, as in the code of Shen et al.); any other has c_in = c_out and the identity.
    """

    def __init__(
        self,
        c_in: int,
        c_inner: int,
        c_out: int,
        scheme: Scheme,
        *,
        block: str,
        downsample: str | None = None,
        activation: str = "none",
        affine: bool = True,
    ) -> None:
        super().__init__()
        stride = 1 if downsample is None else 2
        self.first = BinaryUnit(c_in, c_inner, scheme, stride=stride, activation=activation, affine=affine)
        self.second = BinaryUnit(c_inner, c_out, scheme, activation=activation, affine=affine)
        self.shortcut: nn.Module | None = None
        if downsample == "real":
            self.shortcut = PooledProjection(c_in, c_out, affine=affine)
        elif downsample == "binary":
            self.shortcut = BinaryUnit(c_in, c_out, scheme, kernel_size=1, stride=2, affine=affine)
        self.around_each = block == "bireal"
        self._ungated = BlockGates(None, None, None, c_inner == c_out)

    def forward(self, x: Tensor, gates: BlockGates | None = None) -> Tensor:
        gates = gates or self._ungated
        equal = gates.equal if self.around_each else False
        around = x if self.shortcut is None else scale_channels(self.shortcut(x, gates.entering), gates.outer)
        inner = self.first(x, gates.entering)
        if isinstance(equal, Tensor):
            carried = _reaching(inner, equal, around.shape[1]) + around
            inner = inner + _reaching(around, equal, inner.shape[1])
        elif equal:
            carried = inner = inner + around
        else:
            carried = around
        return scale_channels(self.second(inner, gates.inner), gates.outer) + carried
