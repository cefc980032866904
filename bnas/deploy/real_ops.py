"""The real-valued operations of a packed network in torch, on whatever device its tensors are."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnas.deploy.ir import Op

Tensors = Mapping[str, Any]


def _conv2d(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    top, left, bottom, right = op.sides("padding")
    pad_value, padding = op.attributes["pad_value"], (top, left)
    if (top, left) != (bottom, right) or min(top, left) < 0 or pad_value != 0:
        x, padding = F.pad(x, (left, right, top, bottom), value=float(pad_value)), (0, 0)
    bias, groups = tensors.get("bias"), op.attributes["groups"]
    return F.conv2d(x, tensors["weight"], bias, op.pair("stride"), padding, op.pair("dilation"), groups)


def _linear(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.linear(x, tensors["weight"], tensors.get("bias"))


def _batch_norm(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    shape = (-1,) + (1,) * (x.dim() - 2)
    normed: Tensor = x * tensors["scale"].view(shape) + tensors["shift"].view(shape)
    return normed


def _prelu(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.prelu(x, tensors["slope"])


def _relu(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.relu(x)


def _hardtanh(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return x.clamp(op.attributes["min"], op.attributes["max"])


def _add(op: Op, tensors: Tensors, *inputs: Tensor) -> Tensor:
    total = inputs[0] + inputs[1]
    for x in inputs[2:]:
        total = total + x
    return total


def _concat(op: Op, tensors: Tensors, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, dim=1)


def _max_pool2d(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    kernel, stride, padding = op.pair("kernel_size"), op.pair("stride"), op.pair("padding")
    return F.max_pool2d(x, kernel, stride, padding, op.pair("dilation"), ceil_mode=op.attributes["ceil_mode"])


def _avg_pool2d(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    kernel, stride, padding = op.pair("kernel_size"), op.pair("stride"), op.pair("padding")
    return F.avg_pool2d(x, kernel, stride, padding, op.attributes["ceil_mode"], op.attributes["count_include_pad"])


def _global_avg_pool(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


def _channel_shuffle(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    N, C, H, W = x.shape
    groups = op.attributes["groups"]
    return x.reshape(N, groups, C // groups, H, W).transpose(1, 2).reshape(N, C, H, W)


def _zeros_like(op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    down, right = op.pair("stride")
    return torch.zeros_like(x[:, :, ::down, ::right])


# Each takes the operation, its tensors by role, and its inputs.
REAL_OPS: Mapping[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "prelu": _prelu,
    "relu": _relu,
    "hardtanh": _hardtanh,
    "add": _add,
    "concat": _concat,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "global_avg_pool": _global_avg_pool,
    "channel_shuffle": _channel_shuffle,
    "zeros_like": _zeros_like,
}
