"""Run a packed network: bits travel between operations as packed words, real values as float32 torch tensors on the CPU.

Binary operations go to a kernel back end (bnas.kernels); the real-valued rest uses torch, plain and right.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy import file
from bnas.deploy.file import Packed
from bnas.deploy.ir import Op, Program
from bnas.errors import BnasError
from bnas.kernels import Backend, get_backend
from bnas.kernels.packing import Words, pack_bits, unpack_activations, unpack_bits


@dataclass(frozen=True, eq=False)
class Bits:
    """Packed -1/+1 values: words [N, H, W, groups, words] of (C, H, W), or [N, words] of (K,); `shape` leaves N out."""

    words: Words
    shape: tuple[int, ...]

    def unpack(self) -> NDArray[np.float32]:
        """-1/+1 float32 [N, C, H, W] or [N, K]."""
        if len(self.shape) == 1:
            return np.where(unpack_bits(self.words, self.shape[0]), np.float32(1), np.float32(-1))
        return unpack_activations(self.words, self.shape[0])


Value = Tensor | Bits
Watch = Callable[[Op, Value], None]


class PackedNetwork:
    """A packed network that is called like a function: normalized images in, logits out.

    `backend` is the name of the kernels that run it. All tensors are prepared here, once.
    """

    def __init__(self, packed: Packed, backend: str = "reference") -> None:
        self.packed = packed
        self._backend = get_backend(backend)
        self._tensors = {name: _prepared(tensor) for name, tensor in packed.tensors.items()}
        self._last_reader = {name: op.output for op in self.program.ops for name in op.inputs}

    @property
    def program(self) -> Program:
        return self.packed.program

    @property
    def backend(self) -> str:
        """The name of the kernels that run."""
        return self._backend.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.program.classes

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.program.input_shape))
        return (
            f"PackedNetwork({len(self.program.ops)} operations, images {size}, "
            f"{len(self.classes)} classes, backend {self.backend})"
        )

    def __call__(self, images: Any) -> Any:
        """Logits float32 [N, classes] of normalized float32 images [N, C, H, W]; NumPy in, NumPy out, else torch."""
        self.check_images(images)
        return _like(images, self.run(_on_cpu(images)))

    def predict(self, images: Any) -> Any:
        """Logits of uint8 images [N, C, H, W], normalized here with the mean and std that the file holds."""
        self.check_images(images, "uint8")
        mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (self.program.mean, self.program.std))
        return _like(images, self.run(_on_cpu(images).to(torch.float32).div_(255).sub_(mean).div_(std)))

    @torch.no_grad()
    def run(self, x: Tensor, watch: Watch | None = None) -> Tensor:
        """Logits of x float32 [N, C, H, W]; `watch` sees every operation with the value that it wrote."""
        values: dict[str, Value] = {self.program.input: x}
        for op in self.program.ops:
            value = self.run_op(op, *(values[name] for name in op.inputs))
            values[op.output] = value
            if watch is not None:
                watch(op, value)
            for name in op.inputs:
                if self._last_reader[name] == op.output and name != self.program.output:
                    values.pop(name, None)
        return _real(values[self.program.output])

    def run_op(self, op: Op, *inputs: Value) -> Value:
        """The value that one operation writes."""
        tensors = {role: self._tensors[name] for role, name in op.tensors.items()}
        return _OPS[op.kind](self._backend, op, tensors, *inputs)

    def accumulators(self, op: Op, bits: Bits) -> NDArray[np.int32]:
        """The integer sums of a binary operation, before its scale: [N, Ho, Wo, O] or [N, O]."""
        return _accumulators(self._backend, op, self._tensors[op.tensors["weight"]], bits)

    def check_images(self, images: Any, dtype: str = "float32") -> None:
        """`BnasError` unless `images` is an array or tensor of that type and of the size that the network takes."""
        if not isinstance(images, (Tensor, np.ndarray)):
            raise BnasError(f"images must be a NumPy array or a torch tensor; found {type(images).__name__}")
        found = str(images.dtype).removeprefix("torch.")
        if found != dtype:
            hint = "normalized float32, or uint8 for predict" if dtype == "float32" else dtype
            raise BnasError(f"images must be {hint}; found {found}")
        if tuple(images.shape[1:]) != self.program.input_shape:
            needed = ", ".join(map(str, self.program.input_shape))
            raise BnasError(f"images must have the shape [N, {needed}]; found {list(images.shape)}")


def load(path: str | Path, backend: str = "reference") -> PackedNetwork:
    """The network of a `model.bnas` file; `BnasError` for a file that is not one, or a back end that is not there."""
    return PackedNetwork(file.load(path), backend)


def _on_cpu(images: Tensor | NDArray[Any]) -> Tensor:
    # Arrays are copied, because torch takes neither negative strides nor read-only memory.
    return images.detach().cpu() if isinstance(images, Tensor) else torch.from_numpy(images.copy())


def _like(images: Tensor | NDArray[Any], logits: Tensor) -> Tensor | NDArray[Any]:
    return logits.to(images.device) if isinstance(images, Tensor) else logits.numpy()


def _prepared(tensor: NDArray[Any]) -> Any:
    """Floats become torch tensors, flips bool; words stay as they are."""
    if tensor.dtype == np.float32:
        return torch.from_numpy(np.array(tensor))
    return tensor.astype(np.bool_) if tensor.dtype == np.uint8 else tensor


def _real(value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("a real-valued operation was given bits")
    return value


def _accumulators(backend: Backend, op: Op, weight: Words, bits: Bits) -> NDArray[np.int32]:
    if op.kind == "binary_linear":
        return backend.matmul(bits.words, weight, op.attributes["in_features"])
    return backend.conv2d(
        bits.words,
        weight,
        channels=op.attributes["in_channels"],
        stride=op.pair("stride"),
        padding=op.sides("padding"),
        dilation=op.pair("dilation"),
        groups=op.attributes["groups"],
        pad_value=op.attributes["pad_value"],
    )


Tensors = Mapping[str, Any]


def _threshold(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Bits:
    value, flip = tensors["value"].numpy(), tensors["flip"]
    return Bits(backend.threshold_pack(x.numpy(), value, flip, op.attributes["groups"]), tuple(x.shape[1:]))


def _unpack(backend: Backend, op: Op, tensors: Tensors, bits: Bits) -> Tensor:
    return torch.from_numpy(bits.unpack())


def _binary(backend: Backend, op: Op, tensors: Tensors, bits: Bits) -> Tensor:
    sums = torch.from_numpy(_accumulators(backend, op, tensors["weight"], bits)).to(torch.float32)
    if "scale" in tensors:
        sums *= tensors["scale"]
    return sums.permute(0, 3, 1, 2) if sums.dim() == 4 else sums


def _conv2d(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    top, left, bottom, right = op.sides("padding")
    pad_value, padding = op.attributes["pad_value"], (top, left)
    if (top, left) != (bottom, right) or min(top, left) < 0 or pad_value != 0:
        x, padding = F.pad(x, (left, right, top, bottom), value=float(pad_value)), (0, 0)
    bias, groups = tensors.get("bias"), op.attributes["groups"]
    return F.conv2d(x, tensors["weight"], bias, op.pair("stride"), padding, op.pair("dilation"), groups)


def _linear(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.linear(x, tensors["weight"], tensors.get("bias"))


def _batch_norm(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    shape = (-1,) + (1,) * (x.dim() - 2)
    normed: Tensor = x * tensors["scale"].view(shape) + tensors["shift"].view(shape)
    return normed


def _prelu(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.prelu(x, tensors["slope"])


def _relu(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.relu(x)


def _hardtanh(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return x.clamp(op.attributes["min"], op.attributes["max"])


def _add(backend: Backend, op: Op, tensors: Tensors, *inputs: Tensor) -> Tensor:
    total = inputs[0] + inputs[1]
    for x in inputs[2:]:
        total = total + x
    return total


def _concat(backend: Backend, op: Op, tensors: Tensors, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, dim=1)


def _max_pool2d(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    kernel, stride, padding = op.pair("kernel_size"), op.pair("stride"), op.pair("padding")
    return F.max_pool2d(x, kernel, stride, padding, op.pair("dilation"), ceil_mode=op.attributes["ceil_mode"])


def _avg_pool2d(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    kernel, stride, padding = op.pair("kernel_size"), op.pair("stride"), op.pair("padding")
    return F.avg_pool2d(x, kernel, stride, padding, op.attributes["ceil_mode"], op.attributes["count_include_pad"])


def _global_avg_pool(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


def _channel_shuffle(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    N, C, H, W = x.shape
    groups = op.attributes["groups"]
    return x.reshape(N, groups, C // groups, H, W).transpose(1, 2).reshape(N, C, H, W)


def _zeros_like(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Tensor:
    down, right = op.pair("stride")
    return torch.zeros_like(x[:, :, ::down, ::right])


def _flatten(backend: Backend, op: Op, tensors: Tensors, value: Value) -> Value:
    if isinstance(value, Tensor):
        return value.flatten(1)
    features = math.prod(value.shape)
    return Bits(pack_bits(value.unpack().reshape(-1, features) > 0), (features,))


_OPS: Mapping[str, Callable[..., Value]] = {
    "threshold": _threshold,
    "unpack": _unpack,
    "binary_conv2d": _binary,
    "binary_linear": _binary,
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
    "flatten": _flatten,
}
