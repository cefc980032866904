"""Layers written plainly, in torch's own operations, as the papers' released code has them.

Without what `bnas` does for speed: the gradients of signs and PReLU in few passes, dilated convolutions as plain ones of
the pixels that are read, channels shuffled in the order of memory.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.estimators import Estimator
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.layers.activation import Activation
from bnas.layers.shuffle import ChannelShuffle

Net = TypeVar("Net", bound=nn.Module)


def plainly(net: Net) -> Net:
    """A copy of `net`, to be trained, whose layers compute the same numbers and gradients plainly."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if type(module) in _PLAIN:
            module.forward = partial(_PLAIN[type(module)], module)
    return net


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, estimator: Estimator) -> Tensor:
        ctx.save_for_backward(x)
        ctx.estimator = estimator
        return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.estimator.derivative(x), None


def _norm_binarize(layer: NormBinarize, x: Tensor) -> Tensor:
    normed, binarizer = layer.norm(x), layer.binarizer
    plain = binarizer.compares
    result: Tensor = _Sign.apply(binarizer.pre(normed), binarizer.estimator) if plain else binarizer(normed)
    return result


def _conv(layer: BinaryConv2d, x: Tensor) -> Tensor:
    weight, inner = layer.binarizer(layer.weight), layer.output.enter(x)
    if layer.kernel_size == (1, 1) or len(set(layer.padding)) > 1 or layer.pad_value:
        # Pointwise with a stride too: the one form of it that is safe (see `BinaryConv2d.convolve`).
        y = layer.convolve(inner, weight)
    else:
        y = F.conv2d(inner, weight, None, layer.stride, layer.padding[0], layer.dilation, layer.groups)
    return layer.output.leave(y, x, layer.box)


def _activation(layer: Activation, x: Tensor) -> Tensor:
    result: Tensor = layer.body(x)
    return result


def _shuffle(layer: ChannelShuffle, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, layer.groups, c // layer.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


_PLAIN: Mapping[type, Callable[..., Tensor]] = {
    NormBinarize: _norm_binarize,
    BinaryConv2d: _conv,
    Activation: _activation,
    ChannelShuffle: _shuffle,
}
