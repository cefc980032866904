"""Run a packed network: bits travel between operations as packed words, real values as float32 torch tensors on the CPU.

Binary operations go to a kernel back end (bnas.kernels). Real-valued sums and pools have kernels that all of these share
(real_layers), what is left uses torch.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy import file
from bnas.deploy.file import Packed
from bnas.deploy.ir import Op, Program
from bnas.deploy.real_ops import REAL_OPS, Tensors
from bnas.deploy.shapes import infer
from bnas.errors import BnasError
from bnas.kernels import DEFAULT_BACKEND, Backend, get_backend
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


if TYPE_CHECKING:
    from bnas.deploy.fused import FusedProgram
    from bnas.deploy.fusion import Step
    from bnas.deploy.real_layers import RealLayer

Value = Tensor | Bits
Watch = Callable[[Op, Value], None]


class PackedNetwork:
    """A packed network that is called like a function: normalized images in, logits out.

    `backend` is the name of the kernels that run it. All tensors are prepared here, once. `fuse`: operations run
    together where the back end can; off, one by one, with the same results.
    """

    def __init__(self, packed: Packed, backend: str = DEFAULT_BACKEND, *, fuse: bool = True) -> None:
        self.packed = packed
        self._backend = get_backend(backend)
        self._tensors = {name: _prepared(tensor) for name, tensor in packed.tensors.items()}
        self._sizes = self.sizes()
        self._real_layers: dict[str, RealLayer] = {}
        self._last_reader = {name: op.output for op in self.program.ops for name in op.inputs}
        self.fused: FusedProgram | None = None
        if fuse and self._backend.layer is not None:
            from bnas.deploy import fused

            # None where operations run one by one.
            self.fused = fused.FusedProgram(packed, self._backend.layer, self.run_op, Bits)

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
        detail = f" ({self._backend.detail})" if self._backend.detail else ""
        return (
            f"PackedNetwork({len(self.program.ops)} operations, images {size}, "
            f"{len(self.classes)} classes, backend {self.backend}{detail})"
        )

    def __call__(self, images: Any) -> Any:
        """Logits float32 [N, classes] of normalized float32 images [N, C, H, W]; NumPy in, NumPy out, else torch."""
        self.check_images(images)
        return _like(images, self.run(self._take(images)))

    def predict(self, images: Any) -> Any:
        """Logits of uint8 images [N, C, H, W], normalized here with the mean and std that the file holds."""
        self.check_images(images, "uint8")
        x = self._take(images).to(torch.float32)
        mean, std = (x.new_tensor(v).view(-1, 1, 1) for v in (self.program.mean, self.program.std))
        return _like(images, self.run(x.div_(255).sub_(mean).div_(std)))

    @torch.no_grad()
    def run(self, x: Tensor, watch: Watch | None = None) -> Tensor:
        """Logits of x float32 [N, C, H, W]; `watch` sees every operation, unfused, with the value that it wrote."""
        if self.fused is not None and watch is None and len(x) > 0:
            return self.fused(x)
        # Channels last: the order of packed words.
        values: dict[str, Value] = {self.program.input: x.contiguous(memory_format=torch.channels_last)}
        for op in self.program.ops:
            value = self.run_op(op, *(values[name] for name in op.inputs))
            values[op.output] = value
            if watch is not None:
                watch(op, value)
            for name in op.inputs:
                if self._last_reader[name] == op.output and name != self.program.output:
                    values.pop(name, None)
        return _real(values[self.program.output])

    @torch.no_grad()
    def profile(self, x: Tensor, clock: Callable[[], float]) -> "list[tuple[Step | None, float]]":
        """One run: its steps in order, each with the time that it took by `clock`; None: what the run does besides."""
        from bnas.deploy.fusion import one_by_one

        found: list[tuple[Step | None, float]] = []
        begin = clock()
        if self.fused is not None:
            found += self.fused.profile(x, clock)
        else:
            marks = [begin]
            self.run(x, lambda op, value: marks.append(clock()))
            durations = [after - before for before, after in itertools.pairwise(marks)]
            found += zip(one_by_one(self.program), durations, strict=True)
        return [*found, (None, clock() - begin - sum(seconds for _, seconds in found))]

    def run_op(self, op: Op, *inputs: Value) -> Value:
        """The value that one operation writes."""
        from bnas.deploy.real_layers import REAL_LAYERS, run_real_layer

        if op.kind in REAL_LAYERS:
            return run_real_layer(self._real_layer(op), _real(inputs[0]), self._sizes[op.output])
        tensors = {role: self._tensors[name] for role, name in op.tensors.items()}
        if op.kind in REAL_OPS:
            result = REAL_OPS[op.kind](op, tensors, *inputs)
            # One memory order everywhere: some of torch's sums depend on it in their last bit.
            return result.contiguous(memory_format=torch.channels_last) if result.dim() == 4 else result
        return _BINARY_OPS[op.kind](self._backend, op, tensors, *inputs)

    def _real_layer(self, op: Op) -> "RealLayer":
        """Made when it is first needed: most networks run fused, with layers of their own."""
        from bnas.deploy.real_layers import real_layer

        if op.output not in self._real_layers:
            arrays = {role: self.packed.tensors[name] for role, name in op.tensors.items()}
            self._real_layers[op.output] = real_layer(op, arrays)
        return self._real_layers[op.output]

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every value for one image: (C, H, W) or (K,)."""
        values = infer(self.program, {name: tensor.shape for name, tensor in self.packed.tensors.items()})
        return {name: value.shape for name, value in values.items()}

    def accumulators(self, op: Op, bits: Bits) -> NDArray[np.int32]:
        """The integer sums of a binary operation, before its scale: [N, Ho, Wo, O] or [N, O]."""
        return _accumulators(self._backend, op, self._tensors[op.tensors["weight"]], bits)

    def _take(self, images: Tensor | NDArray[Any]) -> Tensor:
        """The images where the network runs."""
        # Arrays are copied, because torch takes neither negative strides nor read-only memory.
        return images.detach().cpu() if isinstance(images, Tensor) else torch.from_numpy(images.copy())

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


def load(path: str | Path, backend: str = DEFAULT_BACKEND) -> PackedNetwork:
    """The network of a `model.bnas` file; `BnasError` for a file that is not one, or a back end that is not there."""
    packed = file.load(path)
    if backend == "triton":
        # Its values live on the GPU, so that it has a way of its own to run.
        from bnas.deploy.device_network import DeviceNetwork

        return DeviceNetwork(packed)
    return PackedNetwork(packed, backend)


def _like(images: Tensor | NDArray[Any], logits: Tensor) -> Tensor | NDArray[Any]:
    return logits.to(images.device) if isinstance(images, Tensor) else logits.cpu().numpy()


def _prepared(tensor: NDArray[Any]) -> Any:
    """Floats become torch tensors, flips bool; words stay as they are."""
    if tensor.dtype == np.float32:
        copy = torch.from_numpy(np.array(tensor))
        return copy.contiguous(memory_format=torch.channels_last) if copy.dim() == 4 else copy
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


def _threshold(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Bits:
    value, flip = tensors["value"].numpy(), tensors["flip"]
    return Bits(backend.threshold_pack(x.numpy(), value, flip, op.attributes["groups"]), tuple(x.shape[1:]))


def _parity_threshold(backend: Backend, op: Op, tensors: Tensors, x: Tensor) -> Bits:
    """Each comparison packed, and their words combined: a bit is the parity of its comparisons, tail bits stay 0."""
    flip, groups = tensors["flip"], op.attributes["groups"]
    packed = [backend.threshold_pack(x.numpy(), value, flip, groups) for value in tensors["value"].numpy()]
    return Bits(np.bitwise_xor.reduce(packed), tuple(x.shape[1:]))


def _unpack(backend: Backend, op: Op, tensors: Tensors, bits: Bits) -> Tensor:
    return torch.from_numpy(bits.unpack())


def _binary(backend: Backend, op: Op, tensors: Tensors, bits: Bits) -> Tensor:
    sums = torch.from_numpy(_accumulators(backend, op, tensors["weight"], bits)).to(torch.float32)
    if "scale" in tensors:
        sums *= tensors["scale"]
    return sums.permute(0, 3, 1, 2) if sums.dim() == 4 else sums


def _flatten(backend: Backend, op: Op, tensors: Tensors, value: Value) -> Value:
    if isinstance(value, Tensor):
        return value.flatten(1)
    features = math.prod(value.shape)
    return Bits(pack_bits(value.unpack().reshape(-1, features) > 0), (features,))


_BINARY_OPS: Mapping[str, Callable[..., Value]] = {
    "threshold": _threshold,
    "parity_threshold": _parity_threshold,
    "unpack": _unpack,
    "binary_conv2d": _binary,
    "binary_linear": _binary,
    "flatten": _flatten,
}
