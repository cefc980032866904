"""Run a packed network where the Triton kernels run: bits and real values stay on the device from the image to the logits.

Nothing waits for the device between the operations, so that a run can be captured in a CUDA graph (`capture`). What runs is
the program as `rewrite` and `sums` have it: bits only, wherever nothing real is needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy.device_ops import DeviceBits, DeviceValue, Tensors, run_op
from bnas.deploy.file import Packed
from bnas.deploy.ir import Op, Program, readers_of
from bnas.deploy.rewrite import on_map, rewrite
from bnas.deploy.runtime import PackedNetwork, Watch
from bnas.deploy.sums import compare_sums
from bnas.errors import BnasError
from bnas.kernels import gpu
from bnas.kernels.epilogue import writes_whole_words
from bnas.kernels.packing import pack_bits
from bnas.layers.precision import without_tf32


@dataclass(frozen=True, eq=False)
class Step:
    """One operation, or a binary convolution with the threshold that alone reads it, in one kernel; tensors by role."""

    op: Op
    tensors: Tensors
    threshold: Op | None = None
    limits: Tensors = field(default_factory=dict)

    @property
    def compared(self) -> tuple[Op, Tensors] | None:
        return None if self.threshold is None else (self.threshold, self.limits)

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
        on_device = {name: _to_device(t, self.device) for name, t in packed.tensors.items()}
        self._one_by_one = tuple(Step(op, self._roles(op, on_device)) for op in self.program.ops)
        self._steps = self._fused(on_device)
        self._last_step = {name: step.output for step in self._steps for name in step.op.inputs}

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
        last_reader = self._last_step if watch is None else self._last_reader
        with without_tf32(), torch.cuda.device_of(values[self.program.input]):
            for step in self._steps if watch is None else self._one_by_one:
                value = run_op(
                    step.op, step.tensors, *(values[name] for name in step.op.inputs), compared=step.compared
                )
                values[step.output] = value
                if watch is not None:
                    watch(step.op, value.on_host() if isinstance(value, DeviceBits) else value.cpu())
                for name in step.op.inputs:
                    if last_reader[name] == step.output and name != self.program.output:
                        values.pop(name, None)
        logits = values[self.program.output]
        if not isinstance(logits, Tensor):
            raise TypeError("the output of a network is real-valued")
        return logits

    def _take(self, images: Tensor | NDArray[Any]) -> Tensor:
        """The images on the device of the network."""
        return images.detach().to(self.device) if isinstance(images, Tensor) else super()._take(images).to(self.device)

    def _roles(self, op: Op, on_device: Tensors) -> dict[str, Tensor]:
        tensors = {role: on_device[name] for role, name in op.tensors.items()}
        if op.kind in ("binary_conv2d", "binary_linear"):
            # Times 1 is no change, and makes the kernel write real values.
            tensors.setdefault("scale", torch.ones(len(tensors["weight"]), device=self.device))
        return tensors

    def _fused(self, on_device: Tensors) -> tuple[Step, ...]:
        """What runs: the program rewritten, its tensors made ready; those of the file are not copied again."""
        packed = self.packed
        rewritten, arrays = compare_sums(
            rewrite(packed.program, packed.tensors), packed.tensors, lambda conv, bits: _fit(packed, conv, bits)
        )
        for name, array in arrays.items():
            if name not in on_device:
                on_device = {**on_device, name: _to_device(array, self.device)}
        steps = []
        for op, threshold in _joined(packed, rewritten.program):
            tensors = self._roles(op, on_device)
            read = rewritten.values[op.inputs[0]]
            if op.kind == "binary_linear" and read.shape[1:] not in ((), (1, 1)):
                tensors["weight"] = _to_device(on_map(arrays[op.tensors["weight"]], read), self.device)
            if op.output in rewritten.falling:
                falling = pack_bits(rewritten.falling[op.output].reshape(read.groups or 1, -1))
                tensors["falling"] = _to_device(falling, self.device)
            limits = {} if threshold is None else self._roles(threshold, on_device)
            steps.append(Step(op, tensors, threshold, limits))
        return tuple(steps)


def _joined(packed: Packed, program: Program) -> Iterator[tuple[Op, Op | None]]:
    """The operations, each threshold that alone reads a binary convolution joined to it where words allow."""
    readers, joined = readers_of(program.ops), set()
    for op in program.ops:
        if op.output in joined:
            continue
        after = readers.get(op.output, [])
        alone = len(after) == 1 and op.output != program.output and after[0].kind == "threshold"
        if op.kind == "binary_conv2d" and alone and _fit(packed, op, after[0]):
            joined.add(after[0].output)
            yield op, after[0]
        else:
            yield op, None


def _fit(packed: Packed, conv: Op, threshold: Op) -> bool:
    filters = len(packed.tensors[conv.tensors["weight"]])
    return writes_whole_words(filters, conv.attributes["groups"], threshold.attributes["groups"])


def _to_device(tensor: NDArray[Any], device: torch.device) -> Tensor:
    """Floats as they are, words int32, flips bool."""
    if tensor.dtype == np.uint32:
        return torch.from_numpy(np.array(tensor).view(np.int32)).to(device)
    return torch.from_numpy(np.array(tensor, dtype=np.bool_ if tensor.dtype == np.uint8 else None)).to(device)
