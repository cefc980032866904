"""The operations of a packed network on the device of the Triton kernels: bits as words in int32 tensors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnas.deploy.ir import Op
from bnas.deploy.real_ops import REAL_OPS
from bnas.deploy.runtime import Bits
from bnas.deploy.shapes import Value, pooled
from bnas.kernels import ops

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class DeviceBits:
    """`runtime.Bits` as an int32 tensor: words [N, H, W, groups, words] of (C, H, W), or [N, words] of (K,)."""

    words: Tensor
    shape: tuple[int, ...]

    def on_host(self) -> Bits:
        return Bits(self.words.cpu().numpy().view(np.uint32), self.shape)


DeviceValue = Tensor | DeviceBits


def run_op(op: Op, tensors: Tensors, *inputs: Any, compared: tuple[Op, Tensors] | None = None) -> DeviceValue:
    """The value that an operation writes. `compared`: the threshold that follows a binary convolution, in one kernel."""
    if op.kind == "max_pool2d" and isinstance(inputs[0], DeviceBits):
        return _pool_of_bits(op, tensors["falling"], inputs[0])
    if op.kind in REAL_OPS:
        return REAL_OPS[op.kind](op, tensors, *inputs)
    if compared is not None:
        return _conv2d_bits(op, *compared, tensors, *inputs)
    return _BINARY_OPS[op.kind](op, tensors, *inputs)


def _threshold(op: Op, tensors: Tensors, x: Tensor) -> DeviceBits:
    words = ops.pack(x, tensors["value"], tensors["flip"], op.attributes["groups"])
    return DeviceBits(words, tuple(x.shape[1:]))


def _parity_threshold(op: Op, tensors: Tensors, x: Tensor) -> DeviceBits:
    flip, groups = tensors["flip"], op.attributes["groups"]
    words = ops.pack(x, tensors["value"][0], flip, groups)
    for value in tensors["value"][1:]:
        words = words ^ ops.pack(x, value, flip, groups)
    return DeviceBits(words, tuple(x.shape[1:]))


def _unpack(op: Op, tensors: Tensors, bits: DeviceBits) -> Tensor:
    return _values(bits)


def _values(bits: DeviceBits) -> Tensor:
    """-1/+1 float32 [N, C, H, W] (channels last) or [N, K]."""
    from bnas.kernels.triton_launch import unpack

    if len(bits.shape) == 1:
        return unpack(bits.words.unsqueeze(-2), bits.shape[0], torch.float32)
    return unpack(bits.words, bits.shape[0], torch.float32).permute(0, 3, 1, 2)


def _conv_arguments(op: Op) -> tuple[Any, ...]:
    a = op.attributes
    return a["in_channels"], op.pair("stride"), op.sides("padding"), op.pair("dilation"), a["groups"], a["pad_value"]


def _binary_conv2d(op: Op, tensors: Tensors, bits: DeviceBits) -> Tensor:
    scaled: Tensor = ops.xnor_conv2d(bits.words, tensors["weight"], *_conv_arguments(op), tensors["scale"])
    return scaled.permute(0, 3, 1, 2)


def _conv2d_bits(op: Op, threshold: Op, compare: Tensors, conv: Tensors, bits: DeviceBits) -> DeviceBits:
    limits = compare["value"], compare["flip"], threshold.attributes["groups"]
    words = ops.xnor_conv2d_bits(bits.words, conv["weight"], *_conv_arguments(op), conv["scale"], *limits)
    return DeviceBits(words, (len(conv["weight"]), *words.shape[1:3]))


def _pool_of_bits(op: Op, falling: Tensor, bits: DeviceBits) -> DeviceBits:
    """The maximum of the values that were compared: an OR of words, an AND in channels whose bits fall with them."""
    (ky, kx), (sy, sx), (py, px) = op.pair("kernel_size"), op.pair("stride"), op.pair("padding")
    dy, dx = op.pair("dilation")
    turned = bits.words ^ falling
    _, Ho, Wo = pooled(op, (Value(bits.shape),), {}).shape
    spans = (Ho - 1) * sy + dy * (ky - 1) + 1, (Wo - 1) * sx + dx * (kx - 1) + 1
    H, W = bits.shape[1:]
    # Bits are clear where there is no pixel; a last window may hang over the edge, or end before it.
    padded = F.pad(turned, (0, 0, 0, 0, px, max(spans[1] - W - px, 0), py, max(spans[0] - H - py, 0)))
    found: Tensor | None = None
    for y in range(0, ky * dy, dy):
        for x in range(0, kx * dx, dx):
            tap = padded[:, y : y + (Ho - 1) * sy + 1 : sy, x : x + (Wo - 1) * sx + 1 : sx]
            found = tap if found is None else found | tap
    assert found is not None
    return DeviceBits((found ^ falling).contiguous(), (bits.shape[0], Ho, Wo))


def _binary_linear(op: Op, tensors: Tensors, bits: DeviceBits) -> Tensor:
    weight, scale = tensors["weight"], tensors["scale"]
    if weight.dim() == 4:
        # Of a whole map of several pixels: a convolution that covers it.
        over_map: Tensor = ops.xnor_conv2d(bits.words, weight, bits.shape[0], (1, 1), (0,) * 4, (1, 1), 1, 0, scale)
        return over_map.flatten(1)
    scaled: Tensor = ops.xnor_matmul(bits.words.flatten(1), weight, op.attributes["in_features"], scale)
    return scaled


def _flatten(op: Op, tensors: Tensors, value: DeviceValue) -> DeviceValue:
    if isinstance(value, Tensor):
        return value.flatten(1)
    features = math.prod(value.shape)
    if value.words.shape[1:4] == (1, 1, 1):
        return DeviceBits(value.words.flatten(1), (features,))
    flat = _values(value).reshape(-1, features, 1, 1)
    zeros = torch.zeros(features, device=flat.device)
    return DeviceBits(ops.pack(flat, zeros, zeros > 0, 1).flatten(1), (features,))


_BINARY_OPS: Mapping[str, Callable[..., DeviceValue]] = {
    "threshold": _threshold,
    "parity_threshold": _parity_threshold,
    "unpack": _unpack,
    "binary_conv2d": _binary_conv2d,
    "binary_linear": _binary_linear,
    "flatten": _flatten,
}
