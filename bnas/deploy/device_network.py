"""Run a packed network where the Triton kernels run: bits and real values stay on the device from the image to the logits.

Nothing waits for the device between the operations, so that a run can be captured in a CUDA graph (`capture`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy.file import Packed
from bnas.deploy.ir import Op
from bnas.deploy.real_ops import REAL_OPS
from bnas.deploy.runtime import Bits, PackedNetwork, Watch
from bnas.errors import BnasError
from bnas.kernels import gpu, ops
from bnas.kernels.epilogue import writes_whole_words
from bnas.layers.precision import without_tf32

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class DeviceBits:
    """`runtime.Bits` as an int32 tensor: words [N, H, W, groups, words] of (C, H, W), or [N, words] of (K,)."""

    words: Tensor
    shape: tuple[int, ...]

    def on_host(self) -> Bits:
        return Bits(self.words.cpu().numpy().view(np.uint32), self.shape)


DeviceValue = Tensor | DeviceBits


@dataclass(frozen=True)
class Step:
    """One operation, or a binary convolution with the threshold that alone reads it, in one kernel."""

    op: Op
    threshold: Op | None = None

    @property
    def output(self) -> str:
        return (self.threshold or self.op).output


class DeviceNetwork(PackedNetwork):
    """A packed network on a GPU (or in Triton's interpreter); `BnasError` where neither is there.

    Called like any `PackedNetwork`. Images on the GPU stay there, and so do their logits.
    """

    def __init__(self, packed: Packed) -> None:
        self.device = gpu.device()
        super().__init__(packed, "triton")
        self._on_device = {name: _to_device(t, self.device) for name, t in packed.tensors.items()}
        self._tensors_of = {op.output: self._roles(op) for op in self.program.ops}
        self._steps = fused(packed)

    def capture(self, batch: int = 1) -> Callable[[Tensor], Tensor]:
        """A function of normalized images float32 [batch, C, H, W] that replays a CUDA graph of one run.

        It copies the images into its own memory and returns its own logits tensor, which the next call overwrites.
        """
        if self.device.type != "cuda":
            raise BnasError("a CUDA graph needs a GPU; the interpreter has none")
        images = torch.zeros((batch, *self.program.input_shape), device=self.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Compiles and measures what is new; a capture must find everything in its place.
            self.run(images)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self.run(images)

        def replay(x: Tensor) -> Tensor:
            self.check_images(x)
            if len(x) != batch:
                raise BnasError(f"this graph was captured for {batch} images; found {len(x)}")
            images.copy_(x)
            graph.replay()
            return logits

        return replay

    @torch.no_grad()
    def run(self, x: Tensor, watch: Watch | None = None) -> Tensor:
        """Logits of x float32 [N, C, H, W], on the device; with `watch`, operations run one by one."""
        values: dict[str, DeviceValue] = {self.program.input: x.to(self.device)}
        with without_tf32(), torch.cuda.device_of(values[self.program.input]):
            for step in self._steps if watch is None else [Step(op) for op in self.program.ops]:
                value = self._run_step(step, *(values[name] for name in step.op.inputs))
                values[step.output] = value
                if watch is not None:
                    watch(step.op, value.on_host() if isinstance(value, DeviceBits) else value.cpu())
                for name in step.op.inputs:
                    if self._last_reader[name] == step.op.output and name != self.program.output:
                        values.pop(name, None)
        logits = values[self.program.output]
        if not isinstance(logits, Tensor):
            raise TypeError("the output of a network is real-valued")
        return logits

    def _take(self, images: Tensor | NDArray[Any]) -> Tensor:
        """The images on the device of the network."""
        return images.detach().to(self.device) if isinstance(images, Tensor) else super()._take(images).to(self.device)

    def _roles(self, op: Op) -> Tensors:
        tensors = {role: self._on_device[name] for role, name in op.tensors.items()}
        if op.kind in ("binary_conv2d", "binary_linear"):
            # Times 1 is no change, and makes the kernel write real values.
            tensors.setdefault("scale", torch.ones(len(tensors["weight"]), device=self.device))
        return tensors

    def _run_step(self, step: Step, *inputs: Any) -> DeviceValue:
        op, tensors = step.op, self._tensors_of[step.op.output]
        if op.kind in REAL_OPS:
            return REAL_OPS[op.kind](op, tensors, *inputs)
        if step.threshold is not None:
            return _conv2d_bits(op, step.threshold, tensors, self._tensors_of[step.threshold.output], *inputs)
        return _BINARY_OPS[op.kind](op, tensors, *inputs)


def fused(packed: Packed) -> tuple[Step, ...]:
    """The operations, each threshold that alone reads a binary convolution joined to it where words allow."""
    program = packed.program
    readers: dict[str, list[Op]] = {}
    for op in program.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    steps, joined = [], set()
    for op in program.ops:
        if op.output in joined:
            continue
        after = readers.get(op.output, [])
        alone = len(after) == 1 and op.output != program.output and after[0].kind == "threshold"
        if op.kind == "binary_conv2d" and alone and _fit(packed, op, after[0]):
            joined.add(after[0].output)
            steps.append(Step(op, after[0]))
        else:
            steps.append(Step(op))
    return tuple(steps)


def _fit(packed: Packed, conv: Op, threshold: Op) -> bool:
    filters = len(packed.tensors[conv.tensors["weight"]])
    return writes_whole_words(filters, conv.attributes["groups"], threshold.attributes["groups"])


def _to_device(tensor: NDArray[Any], device: torch.device) -> Tensor:
    """Floats as they are, words int32, flips bool."""
    if tensor.dtype == np.uint32:
        return torch.from_numpy(np.array(tensor).view(np.int32)).to(device)
    return torch.from_numpy(np.array(tensor, dtype=np.bool_ if tensor.dtype == np.uint8 else None)).to(device)


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


def _conv2d_bits(op: Op, threshold: Op, conv: Tensors, compare: Tensors, bits: DeviceBits) -> DeviceBits:
    limits = compare["value"], compare["flip"], threshold.attributes["groups"]
    words = ops.xnor_conv2d_bits(bits.words, conv["weight"], *_conv_arguments(op), conv["scale"], *limits)
    return DeviceBits(words, (len(conv["weight"]), *words.shape[1:3]))


def _binary_linear(op: Op, tensors: Tensors, bits: DeviceBits) -> Tensor:
    scaled: Tensor = ops.xnor_matmul(bits.words, tensors["weight"], op.attributes["in_features"], tensors["scale"])
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
