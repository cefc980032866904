"""Steps with their buffers for one batch size: what a run of a packed network is made of.

Real values between steps are float32 [N, C, H, W] in the memory order [N, H, W, C].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy.arena import Arena
from bnas.deploy.fusion import Step
from bnas.deploy.ir import Op
from bnas.deploy.prepared import Prepared
from bnas.deploy.rewrite import map_size
from bnas.deploy.shapes import Value
from bnas.kernels.cpu.compare import Comparison
from bnas.kernels.cpu.layer import Outputs
from bnas.kernels.cpu.pool import BitPool
from bnas.kernels.cpu.real import follow
from bnas.kernels.packing import words_for

Array = NDArray[Any]
RunOp = Callable[..., Any]
MakeBits = Callable[[Array, tuple[int, ...]], Any]
Run = Callable[[dict[str, Any]], Any]


class Planned(Protocol):
    """What runs as one call of compiled code; `read` says where the value in a place lies from now on."""

    def read(self, place: int, address: int) -> None: ...

    def __call__(self) -> None: ...


# Of torch's operations, those whose result may be a view of what they read.
VIEWS = ("flatten", "channel_shuffle")


@dataclass(frozen=True, eq=False)
class Bound:
    """A step that runs: from the values that are there to the one that it writes. `forget`: those that are read no more."""

    step: Step
    run: Run
    forget: tuple[str, ...]


class Binding:
    """Binds the steps of a network to a batch of N. `steps` run in their order; `memory` holds what lies between them."""

    def __init__(self, prepared: Prepared, N: int, run_op: RunOp, make_bits: MakeBits) -> None:
        self._prepared, self._N, self._run_op, self._make_bits = prepared, N, run_op, make_bits
        self.memory = Arena()
        # Where each value lies that compiled steps write.
        self._fixed: dict[str, Array] = {}
        last_reader = {name: index for index, step in enumerate(prepared.steps) for name in step.reads}
        seen_through = {name for step in prepared.steps if step.ops[0].kind in VIEWS for name in step.reads}
        self.steps: list[Bound] = []
        for index, step in enumerate(prepared.steps):
            run = self._bind(step)
            gone = [name for name in step.reads if last_reader[name] == index and name != prepared.program.output]
            self.steps.append(Bound(step, run, tuple(gone)))
            for name in gone:
                if name not in seen_through:
                    self.memory.give_back(name)

    def _bind(self, step: Step) -> Run:
        if step.conv is not None:
            return self._product(step, step.conv)
        if step.threshold is not None:
            return self._comparison(step, step.threshold)
        if self._prepared.is_pool_of_bits(step):
            return self._pool(step)
        if step.output in self._prepared.real_layers:
            return self._real_layer(step)
        if step.ops[0].kind == "flatten" and self._is_flat(step.ops[0].inputs[0]):
            return self._same_memory(step)
        return self._alone(step)

    def _alone(self, step: Step) -> Run:
        op, rows, run_op = step.ops[0], self._prepared.following.get(step.output), self._run_op

        def run(values: dict[str, Any]) -> Any:
            result = run_op(op, *(values[name] for name in op.inputs))
            return result if rows is None else _followed(result, rows)

        return run

    def _product(self, step: Step, conv: Op) -> Run:
        linear = conv.kind == "binary_linear"
        value = self._prepared.values[step.output]
        outputs, result = self._output(step, value, linear)
        reads = [(step.threshold or conv).inputs[0], *step.added]
        x, *added = (self._operand(name, linear) for name in reads)
        compared = None if step.threshold is None else self._prepared.threshold(step.threshold)
        plan = self._prepared.layers[step.output].plan(x, outputs, threshold=compared, added=added)
        return self._planned(plan, reads, result)

    def _real_layer(self, step: Step) -> Run:
        reads = step.ops[0].inputs
        real, result = self._real(step.output)
        plan = self._prepared.real_layers[step.output].plan(self._operand(reads[0], False), real)
        return self._planned(plan, reads, result)

    def _is_flat(self, name: str) -> bool:
        """Whether a value of compiled steps is real and has one pixel, so that its channels are its elements in order."""
        value = self._prepared.values[name]
        return name in self._fixed and value.groups is None and map_size(value)[1:] == (1, 1)

    def _same_memory(self, step: Step) -> Run:
        self._fixed[step.output] = self._fixed[step.reads[0]]
        result = torch.from_numpy(self._fixed[step.output]).flatten(1)
        return lambda values: result

    def _real(self, name: str) -> tuple[Array, Any]:
        """Memory for real values, [N, H, W, C], and that as a value."""
        value = self._prepared.values[name]
        C, H, W = map_size(value)
        real = self._take(name, (H, W, C), np.float32)
        result = torch.from_numpy(real)
        return real, result.permute(0, 3, 1, 2) if len(value.shape) == 3 else result.flatten(1)

    def _output(self, step: Step, value: Value, linear: bool) -> tuple[Outputs, Any]:
        """Where a product writes, and that as the value of other steps."""
        if value.groups is None:
            real, result = self._real(step.output)
            return Outputs(real=real.reshape(1, self._N, 1, -1) if linear else real), result
        assert step.bits is not None
        words, result = self._bits(step.output)
        return Outputs(bits=words, bits_threshold=self._prepared.threshold(step.bits)), result

    def _bits(self, name: str) -> tuple[Array, Any]:
        """Memory for bits, and that as a value."""
        value = self._prepared.values[name]
        C, H, W = map_size(value)
        assert value.groups is not None
        words = self._take(name, (H, W, value.groups, words_for(C // value.groups)), np.uint32)
        return words, self._make_bits(words, value.shape)

    def _comparison(self, step: Step, threshold: Op) -> Run:
        words, result = self._bits(step.output)
        maps = [self._operand(name, False) for name in step.ops[0].inputs]
        comparison = Comparison(maps, self._prepared.threshold(threshold), words)
        return self._planned(comparison, step.ops[0].inputs, result)

    def _pool(self, step: Step) -> Run:
        op = step.ops[0]
        words, result = self._bits(step.output)
        pool = BitPool(
            self._operand(op.inputs[0], False),
            words,
            self._prepared.rewritten.falling[step.output],
            kernel=op.pair("kernel_size"),
            stride=op.pair("stride"),
            padding=op.pair("padding"),
            dilation=op.pair("dilation"),
        )
        return self._planned(pool, op.inputs, result)

    def _planned(self, plan: Planned, reads: Sequence[str], result: Any) -> Run:
        """`reads`: the value in each place of the plan. Where torch puts a value is told in each run."""
        moving = [(place, name) for place, name in enumerate(reads) if name not in self._fixed]

        def run(values: dict[str, Any]) -> Any:
            for place, name in moving:
                values[name], address = _in_place(values[name])
                plan.read(place, address)
            plan()
            return result

        return run

    def _take(self, name: str, shape: tuple[int, ...], dtype: type) -> Array:
        self._fixed[name] = self.memory.take(name, (self._N, *shape), dtype)
        return self._fixed[name]

    def _operand(self, name: str, linear: bool) -> Array:
        """A value as a product reads it. Of one that torch writes, the shape and the order count."""
        value = self._prepared.values[name]
        C, H, W = map_size(value)
        pixels = (1, self._N * H, W) if linear else (self._N, H, W)
        channels = (C,) if value.groups is None else (value.groups, words_for(C // value.groups))
        if name in self._fixed:
            return self._fixed[name].reshape(*pixels, *channels)
        return np.empty((*pixels, *channels), np.float32 if value.groups is None else np.uint32)


def _followed(result: Tensor, rows: Array) -> Tensor:
    channels = result.shape[1]
    follow(result.data_ptr(), result.numel() // channels, channels, rows)
    return result


def _in_place(value: Any) -> tuple[Any, int]:
    """A value that torch made, as compiled code wants it, and where it lies."""
    if isinstance(value, Tensor):
        order = torch.channels_last if value.dim() == 4 else torch.contiguous_format
        value = value.contiguous(memory_format=order)
        return value, value.data_ptr()
    return value, value.words.ctypes.data
