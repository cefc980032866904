"""Convolutions whose number of groups may be chosen at each call, and the units around them.

One weight serves every group number. Seen as a table of output by input channels, a number g keeps the g blocks on its
diagonal; a smaller number that divides g keeps these and more. Each number has a binarizer of its own for what it
keeps, so that signs (where they depend on more than one weight), scales and gradients are those of the slice.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary import Binarizer, Scheme
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.layers.activation import Activation

MODULES = ("M1", "M2", "M3")

# The group numbers that run, each with its gate (None: 1).
Chosen = Sequence[tuple[int, Tensor | None]]


def narrowed(weight: Tensor, groups: int, into: int) -> Tensor:
    """What `into` groups keep of a weight [O, I, kh, kw] of `groups` groups: [O, I * groups / into, kh, kw].

    `groups` divides `into`.
    """
    if groups == into:
        return weight
    parts = into // groups
    blocks = weight.unflatten(1, (parts, -1)).unflatten(0, (groups, parts, -1))
    kept: Tensor = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).flatten(0, 2)
    return kept


def widened(weight: Tensor, groups: int, into: int) -> Tensor:
    """A weight [O, I, kh, kw] of `groups` groups as one of fewer: [O, I * groups / into, kh, kw], with zeros around.

    `into` divides `groups`; `narrowed` takes the zeros away again.
    """
    if groups == into:
        return weight
    blocks = weight.unflatten(0, (into, groups // into, -1)).movedim(1, -1)
    return torch.diag_embed(blocks, dim1=1, dim2=3).flatten(3, 4).flatten(0, 2)


def total_gate(chosen: Chosen) -> Tensor | float | None:
    """The sum of the gates; None for a single number without a gate."""
    if len(chosen) == 1:
        return chosen[0][1]
    total: Tensor | float = 0.0
    for _, gate in chosen:
        total = total + (1.0 if gate is None else gate)
    return total


def mixed(chosen: Chosen, weight_of: Callable[[int], Tensor]) -> tuple[Tensor, int]:
    """The sum of gate times weight over the chosen numbers, as one weight, and the number of groups that it has.

    `weight_of(g)` is the weight of g groups. A gate enters only where several numbers compete: a norm behind the
    convolution would divide that of a single one out.
    """
    if len(chosen) == 1:
        groups = chosen[0][0]
        return weight_of(groups), groups
    fewest = min(groups for groups, _ in chosen)
    parts = [widened(weight_of(groups), groups, fewest) for groups, _ in chosen]
    gated = [part if gate is None else gate * part for part, (_, gate) in zip(parts, chosen, strict=True)]
    return sum(gated[1:], gated[0]), fewest


class SharedBinaryConv2d(BinaryConv2d):
    """Binary 3x3 convolution C -> C in one of several `numbers` of groups, or in a mixture of them.

    The numbers ascend and each divides the next; the weight is that of the first. In evaluation a single number has
    exact accumulators, as `BinaryConv2d` has them; the sums of a mixture are no integers.
    """

    def __init__(self, channels: int, scheme: Scheme, numbers: Sequence[int], *, stride: int = 1) -> None:
        super().__init__(channels, channels, 3, scheme, stride=stride, padding=1, groups=numbers[0])
        if self.weight.shape != (channels, channels // numbers[0], 3, 3):
            raise BnasError(
                "its scheme makes several filters of each learned one, so that numbers of groups cannot share a weight; "
                "take another scheme for the super-network"
            )
        self.narrower = nn.ModuleDict({str(groups): scheme.weight(self.kept(groups)) for groups in numbers[1:]})

    def kept(self, groups: int) -> Tensor:
        """The latent weight of that number of groups."""
        return narrowed(self.weight, self.groups, groups)

    def binarizer_of(self, groups: int) -> Binarizer:
        """The binarizer of that number of groups, with what it learns."""
        return self.binarizer if groups == self.groups else cast(Binarizer, self.narrower[str(groups)])

    def forward(self, x: Tensor, chosen: Chosen | None = None) -> Tensor:
        """`chosen` None: the first of the numbers."""
        chosen = ((self.groups, None),) if chosen is None else chosen
        inner = self.output.enter(x)
        if len(chosen) == 1 and self.exact and not self.training:
            ((groups, _),) = chosen
            (term,) = self.binarizer_of(groups).terms(self.kept(groups))
            y = self.exactly(inner, term)
        else:
            weight, _ = mixed(chosen, lambda number: self.binarizer_of(number)(self.kept(number)))
            y = self.convolve(inner, weight)
        return self.output.leave(y, x, self.box)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """In as many groups as the weight has."""
        return F.conv2d(x, weight, None, self.stride, 1, 1, self.in_channels // weight.shape[1])

    def state_of(self, groups: int) -> Mapping[str, Tensor]:
        """The state of the `BinaryConv2d` of that number of groups."""
        binarizer = self.binarizer_of(groups).state_dict()
        return {"weight": self.kept(groups).detach(), **{f"binarizer.{name}": t for name, t in binarizer.items()}}


class SharedConv2d(nn.Conv2d):
    """Real 1x1 convolution without bias in one of several `numbers` of groups, or in a mixture of them."""

    def __init__(self, c_in: int, c_out: int, numbers: Sequence[int]) -> None:
        super().__init__(c_in, c_out, 1, groups=numbers[0], bias=False)

    def kept(self, groups: int) -> Tensor:
        """The weight of that number of groups."""
        return narrowed(self.weight, self.groups, groups)

    def forward(self, x: Tensor, chosen: Chosen | None = None) -> Tensor:
        """`chosen` None: the first of the numbers."""
        weight, groups = mixed(((self.groups, None),) if chosen is None else chosen, self.kept)
        return F.conv2d(x, weight, groups=groups)

    def state_of(self, groups: int) -> Mapping[str, Tensor]:
        """The state of the `nn.Conv2d` of that number of groups."""
        return {"weight": self.kept(groups).detach()}


class Place(NamedTuple):
    """One layer: input and output channels in units of the stem's, and the stride of its 3x3."""

    c_in: int
    c_out: int
    stride: int


def places(layers: Sequence[int], stem: str) -> list[Place]:
    """Where each layer stands. Layers that change the channels halve the map, but for the first ones.

    With all of MobileNetV1's layers, maps end 32 times smaller than the image (7 x 7 of 224) under stem imagenet, where
    the first change of the channels keeps the size, and 8 times (4 x 4 of 32) under cifar, where the first two do.
    """
    found: list[Place] = []
    keep_size = 1 if stem == "imagenet" else 2
    changes = 0
    for before, after in pairwise((1, *layers)):
        changes += before != after
        halves = before != after and changes > keep_size
        found.append(Place(before, after, 2 if halves else 1))
    return found


class SpatialUnit(nn.Module):
    """BN, sign, 3x3 convolution C -> C, BN, activation, + shortcut: 2x2 average pooling where the map is halved.

    The sum of the gates weighs what is added to the shortcut, so that the gate of a single active number has a gradient
    too. (As a factor of the weight alone the norm would divide it out.)
    """

    def __init__(self, conv: BinaryConv2d, scheme: Scheme, activation: str) -> None:
        super().__init__()
        channels = conv.in_channels
        self.norm = NormBinarize(channels, scheme)
        self.conv = conv
        self.after = nn.Sequential(nn.BatchNorm2d(channels), Activation(activation, channels))
        halves = conv.stride[0] == 2
        self.shortcut = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if halves else nn.Identity()

    def forward(self, x: Tensor, chosen: Chosen | None = None) -> Tensor:
        binary = self.norm(x)
        out: Tensor = self.after(self.conv(binary) if chosen is None else self.conv(binary, chosen))
        gate = None if chosen is None else total_gate(chosen)
        if gate is not None:
            out = out * gate
        around: Tensor = self.shortcut(x)
        return out + around


class PointwiseUnit(nn.Module):
    """BN, sign, binary 1x1 convolution C -> k C, BN, activation, + k copies of x.

    For k = 2 it is the widening of M3: two binary 1x1 convolutions that read the same signs, each with its own shortcut,
    side by side are one convolution with twice the outputs.
    """

    def __init__(self, c_in: int, c_out: int, scheme: Scheme, activation: str) -> None:
        super().__init__()
        self.copies = c_out // c_in
        self.norm = NormBinarize(c_in, scheme)
        self.conv = BinaryConv2d(c_in, c_out, 1, scheme)
        self.after = nn.Sequential(nn.BatchNorm2d(c_out), Activation(activation, c_out))

    def forward(self, x: Tensor, chosen: Chosen | None = None) -> Tensor:
        """`chosen` is for 1x1 convolutions that are searched; this one is dense."""
        out: Tensor = self.after(self.conv(self.norm(x)))
        return out + (x if self.copies == 1 else torch.cat([x] * self.copies, dim=1))


class RealPointwise(nn.Module):
    """Real 1x1 convolution, BN, activation, without a shortcut: the widening of M1 (dense) and M2 (grouped)."""

    def __init__(self, conv: nn.Conv2d, activation: str) -> None:
        super().__init__()
        self.conv = conv
        self.after = nn.Sequential(nn.BatchNorm2d(conv.out_channels), Activation(activation, conv.out_channels))

    def forward(self, x: Tensor, chosen: Chosen | None = None) -> Tensor:
        shared = chosen is not None and isinstance(self.conv, SharedConv2d)
        out: Tensor = self.after(self.conv(x, chosen) if shared else self.conv(x))
        return out


class Layer(nn.Module):
    """One 3x3 and one 1x1 convolution: [N, C, H, W] -> [N, C', H / stride, W / stride].

    `numbers`: the one number of groups of a fixed network, or (`shared`) those that a super-network offers. `module`: one of
    `MODULES`, the 1x1 where the channels change.
    """

    def __init__(
        self,
        channels: int,
        place: Place,
        scheme: Scheme,
        numbers: Sequence[int],
        *,
        module: str,
        activation: str,
        shared: bool,
    ) -> None:
        super().__init__()
        c_in, c_out, stride = channels * place.c_in, channels * place.c_out, place.stride
        if shared:
            spatial: BinaryConv2d = SharedBinaryConv2d(c_in, scheme, numbers, stride=stride)
        else:
            spatial = BinaryConv2d(c_in, c_in, 3, scheme, stride=stride, padding=1, groups=numbers[0])
        self.spatial = SpatialUnit(spatial, scheme, activation)
        if c_in == c_out or module == "M3":
            self.pointwise: nn.Module = PointwiseUnit(c_in, c_out, scheme, activation)
            return
        if shared and module == "M2":
            real: nn.Conv2d = SharedConv2d(c_in, c_out, numbers)
        else:
            real = nn.Conv2d(c_in, c_out, 1, groups=numbers[0] if module == "M2" else 1, bias=False)
        self.pointwise = RealPointwise(real, activation)

    def forward(self, x: Tensor, chosen: Chosen | None = None) -> Tensor:
        out: Tensor = self.pointwise(self.spatial(x, chosen), chosen)
        return out
