"""A packed network as prepared steps (see `fusion`): weights laid out once, buffers planned once for each batch size.

Real values between steps are float32 [N, C, H, W] in the memory order [N, H, W, C].
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy.file import Packed
from bnas.deploy.fusion import Step, fuse
from bnas.deploy.ir import Op
from bnas.deploy.shapes import infer
from bnas.kernels.cpu.layer import BinaryLayer, Epilogue, Outputs, Plan, Threshold
from bnas.kernels.cpu.real import follow
from bnas.kernels.packing import words_for

Array = NDArray[Any]

# Buffers are kept for this many batch sizes.
BATCH_SIZES_KEPT = 4

RunOp = Callable[..., Any]
MakeBits = Callable[[Array, tuple[int, ...]], Any]


@dataclass(eq=False)
class _Kept:
    """A block of memory that values use one after the other."""

    memory: NDArray[np.uint8]
    free: bool = True


class _Arena:
    """Buffers for values that live from one step to another; what is no longer read is used again."""

    def __init__(self) -> None:
        self._blocks: list[_Kept] = []
        self._of: dict[str, _Kept] = {}

    def take(self, name: str, shape: Sequence[int], dtype: type) -> Array:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        fitting = [block for block in self._blocks if block.free and block.memory.nbytes >= size]
        block = min(fitting, key=lambda block: block.memory.nbytes, default=None)
        if block is None:
            block = _Kept(np.zeros(max(size, 64), dtype=np.uint8))
            self._blocks.append(block)
        block.free = False
        self._of[name] = block
        return block.memory[:size].view(dtype).reshape(shape)

    def give_back(self, name: str) -> None:
        if name in self._of:
            self._of.pop(name).free = True


@dataclass(eq=False)
class _Bound:
    """A step with its buffers. `moving`: fields of the record whose values torch puts elsewhere in each run."""

    step: Step
    plan: Plan | None
    result: Any = None
    moving: list[tuple[str, str]] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)


class FusedProgram:
    """Runs a packed network in fused steps.

    `run_op` runs one operation that is not fused; `make_bits` wraps words as a value.
    """

    def __init__(self, packed: Packed, layer: Callable[..., BinaryLayer], run_op: RunOp, make_bits: MakeBits) -> None:
        self._program, self._tensors = packed.program, packed.tensors
        self._run_op, self._make_bits = run_op, make_bits
        self.steps = fuse(packed.program)
        self._values = infer(packed.program, {name: tensor.shape for name, tensor in packed.tensors.items()})
        self._layers = {step.output: _prepare(step, packed.tensors, layer) for step in self.steps if step.conv}
        self._following = {
            step.output: _following(step, packed.tensors, None).rows(self._values[step.output].shape[0])
            for step in self.steps
            if step.conv is None and len(step.ops) > 1
        }
        self._bound: OrderedDict[int, list[_Bound]] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """The program's output for x [N, C, H, W], N >= 1."""
        return self._run(x, lambda step: None)

    def profile(self, x: Tensor, clock: Callable[[], float]) -> list[tuple[Step, float]]:
        """One run: its steps in order, with the time that each took by `clock`."""
        marks: list[tuple[Step | None, float]] = [(None, clock())]
        self._run(x, lambda step: marks.append((step, clock())))
        return [(step, now - before) for (_, before), (step, now) in pairwise(marks) if step is not None]

    @torch.no_grad()
    def _run(self, x: Tensor, after: Callable[[Step], None]) -> Tensor:
        with self._one_at_a_time:
            values: dict[str, Any] = {self._program.input: x}
            for place in self._places(len(x)):
                self._execute(place, values)
                after(place.step)
                for name in place.forget:
                    del values[name]
            # A copy: the original may lie in memory that the next run uses.
            logits: Tensor = values[self._program.output].clone()
            return logits

    def _places(self, N: int) -> list[_Bound]:
        bound = self._bound.get(N)
        if bound is None:
            bound = self._bound[N] = self._bind(N)
            if len(self._bound) > BATCH_SIZES_KEPT:
                self._bound.popitem(last=False)
        return bound

    def _execute(self, place: _Bound, values: dict[str, Any]) -> None:
        op = place.step.ops[0]
        if place.plan is None:
            result = self._run_op(op, *(values[name] for name in op.inputs))
            if len(place.step.ops) > 1:
                N, C, H, W = result.shape
                follow(result.data_ptr(), N * H * W, C, self._following[place.step.output])
            values[place.step.output] = result
            return
        for name, target in place.moving:
            values[name], address = _in_place(values[name])
            place.plan.job[target] = address
        place.plan()
        values[place.step.output] = place.result

    def _bind(self, N: int) -> list[_Bound]:
        arena, fixed = _Arena(), dict[str, Array]()
        last_reader = {name: index for index, step in enumerate(self.steps) for name in step.reads}
        bound = []
        for index, step in enumerate(self.steps):
            place = self._bind_step(step, N, arena, fixed) if step.conv is not None else _Bound(step, None)
            place.forget = [name for name in step.reads if last_reader[name] == index and name != self._program.output]
            for name in place.forget:
                # A real operation may have given back a view of what it read; such memory is not used again.
                if not self._may_be_seen_through(name):
                    arena.give_back(name)
            bound.append(place)
        return bound

    def _may_be_seen_through(self, name: str) -> bool:
        return any(step.conv is None and name in step.reads for step in self.steps)

    def _bind_step(self, step: Step, N: int, arena: _Arena, fixed: dict[str, Array]) -> _Bound:
        layer, result = self._layers[step.output], self._values[step.output]
        C, H, W = result.shape
        place = _Bound(step, None)
        if result.groups is None:
            real = arena.take(step.output, (N, H, W, C), np.float32)
            fixed[step.output] = real
            outputs = Outputs(real=real)
            place.result = torch.from_numpy(real).permute(0, 3, 1, 2)
        else:
            words = arena.take(step.output, (N, H, W, result.groups, words_for(C // result.groups)), np.uint32)
            fixed[step.output] = words
            assert step.bits is not None
            outputs = Outputs(bits=words, bits_threshold=_threshold(step.bits, self._tensors))
            place.result = self._make_bits(words, result.shape)

        def operand(name: str, target: str) -> Array:
            if name in fixed:
                return fixed[name]
            place.moving.append((name, target))
            # Its shape and order count; where it lies is told in each run.
            value = self._values[name]
            c, h, w = value.shape
            if value.groups is None:
                return np.empty((N, h, w, c), dtype=np.float32)
            return np.empty((N, h, w, value.groups, words_for(c // value.groups)), dtype=np.uint32)

        assert step.conv is not None
        compared = None if step.threshold is None else _threshold(step.threshold, self._tensors)
        x = operand((step.threshold or step.conv).inputs[0], "x")
        others = {target: operand(name, target) for name, target in zip(step.added, ("first", "second"), strict=False)}
        place.plan = layer.plan(x, outputs, threshold=compared, **others)
        return place


def _in_place(value: Any) -> tuple[Any, int]:
    """A value that torch made, as compiled code wants it, and where it lies."""
    if isinstance(value, Tensor):
        value = value.contiguous(memory_format=torch.channels_last)
        return value, value.data_ptr()
    return value, value.words.ctypes.data


def _threshold(op: Op, tensors: Mapping[str, Array]) -> Threshold:
    return Threshold(tensors[op.tensors["value"]], tensors[op.tensors["flip"]].astype(np.bool_))


def _prepare(step: Step, tensors: Mapping[str, Array], layer: Callable[..., BinaryLayer]) -> BinaryLayer:
    """The layer of a fused step, its weights laid out and what follows it as parameters of its output channels."""
    conv = step.conv
    assert conv is not None
    weight = tensors[conv.tensors["weight"]]

    source = None
    if step.shuffle is not None:
        source = np.arange(len(weight)).reshape(step.shuffle.attributes["groups"], -1).T.reshape(-1)
    return layer(
        weight,
        channels=conv.attributes["in_channels"],
        stride=conv.pair("stride"),
        padding=conv.sides("padding"),
        dilation=conv.pair("dilation"),
        groups=conv.attributes["groups"],
        pad_value=conv.attributes["pad_value"],
        epilogue=_following(step, tensors, source),
    )


def _following(step: Step, tensors: Mapping[str, Array], source: Array | None) -> Epilogue:
    """What follows the sums of a step, or the values of a real convolution; parameters in the order of `source`."""

    def tensor(op: Op | None, role: str) -> Array | None:
        return None if op is None or role not in op.tensors else tensors[op.tensors[role]]

    def shuffled(values: Array | None) -> Array | None:
        return values if values is None or source is None or len(values) == 1 else values[source]

    act = step.activation
    limits = (-np.inf, np.inf)
    if act is not None and act.kind == "relu":
        limits = (0.0, np.inf)
    elif act is not None and act.kind == "hardtanh":
        limits = (act.attributes["min"], act.attributes["max"])
    return Epilogue(
        scale=tensor(step.conv, "scale"),
        factor=shuffled(tensor(step.batch_norm, "scale")),
        shift=shuffled(tensor(step.batch_norm, "shift")),
        slope=shuffled(tensor(act, "slope")),
        low=limits[0],
        high=limits[1],
        source=source,
    )
