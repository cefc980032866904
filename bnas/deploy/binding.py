"""Steps with their memory for one number of images: what a run of a packed network is made of.

Each value has its place before the first run: real ones are float32 [N, H, W, C], bits words [N, H, W, groups, words].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnas.deploy.arena import Arena
from bnas.deploy.fusion import Step
from bnas.deploy.ir import Op
from bnas.deploy.prepared import Prepared
from bnas.kernels.cpu.compare import compare
from bnas.kernels.cpu.layer import Outputs
from bnas.kernels.cpu.plan import InTurn, Plan
from bnas.kernels.cpu.pool import pool_bits
from bnas.kernels.cpu.real_join import join

Array = NDArray[Any]
RunOp = Callable[..., Any]
MakeBits = Callable[[Array, tuple[int, ...]], Any]
Run = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Bound:
    """A step that runs: it reads and writes memory that is planned."""

    step: Step
    run: Run


class Binding:
    """Binds the steps of a network to N images. `memory` holds what lies between them, `places` says where each value lies.

    A run begins with images in the tensor `input` and ends with logits in `output`. The call runs all, `steps` one by one.
    """

    def __init__(self, prepared: Prepared, N: int, run_op: RunOp, make_bits: MakeBits) -> None:
        self._prepared, self._N, self._run_op, self._make_bits = prepared, N, run_op, make_bits
        self.memory = Arena()
        self.places: dict[str, Array] = {}
        program = prepared.program
        self._take(program.input)
        self.input = self._value(program.input)
        last = prepared.last_readers()
        # Read under other names, too: never used again.
        self._shared = {program.output}
        work: list[Plan | Run] = []
        for index, step in enumerate(prepared.steps):
            work.append(self._bind(step))
            for name in step.reads:
                if last[name] == index and name not in self._shared:
                    self.memory.give_back(name)
        self.output = self._value(program.output)
        self.steps, self._runs = list[Bound](), list[Run]()
        self._group(work)

    def __call__(self) -> None:
        for run in self._runs:
            run()

    def _group(self, work: list[Plan | Run]) -> None:
        """Plans that follow each other are one call."""
        for is_plan, group in groupby(enumerate(work), lambda entry: isinstance(entry[1], Plan)):
            places, some = zip(*group, strict=True)
            runs = list(some)
            if is_plan:
                in_turn = InTurn(runs)
                self._runs.append(in_turn)
                runs = [partial(in_turn, place, place + 1) for place in range(len(runs))]
            else:
                self._runs += runs
            self.steps += [Bound(self._prepared.steps[place], run) for place, run in zip(places, runs, strict=True)]

    def _bind(self, step: Step) -> Plan | Run:
        prepared, op = self._prepared, step.ops[0]
        if step.conv is not None:
            return self._product(step, step.conv)
        reads = [self.places[name] for name in op.inputs]
        if op.kind == "flatten" and reads[0].shape[1:-1] in ((1, 1), (1, 1, 1)):
            return self._same_place(step)
        if step.output in prepared.joined:
            maps = reads if op.kind == "concat" else reads[:1]
            added = [self.places[name] for name in step.added]
            return join(maps, added, prepared.joined[step.output], self._take(step.output))
        if step.threshold is not None:
            return compare(reads, prepared.threshold(step.threshold), self._take(step.output))
        if step.output in prepared.real_layers:
            return prepared.real_layers[step.output].plan(reads[0], self._take(step.output))
        if prepared.is_pool_of_bits(step):
            return self._pool(step)
        return self._alone(step)

    def _product(self, step: Step, conv: Op) -> Plan:
        linear = conv.kind == "binary_linear"
        reads = [(step.threshold or conv).inputs[0], *step.added]
        x, *added = (self._for_product(self.places[name], linear) for name in reads)
        place = self._for_product(self._take(step.output), linear)
        outputs = Outputs(real=place)
        if step.bits is not None:
            outputs = Outputs(bits=place, bits_threshold=self._prepared.threshold(step.bits))
        compared = None if step.threshold is None else self._prepared.threshold(step.threshold)
        return self._prepared.layers[step.output].plan(x, outputs, threshold=compared, added=added)

    def _for_product(self, place: Array, linear: bool) -> Array:
        """The images of a linear layer lie on top of each other, as one."""
        N, H, W = place.shape[:3]
        return place.reshape(1, N * H, W, *place.shape[3:]) if linear else place

    def _pool(self, step: Step) -> Plan:
        op = step.ops[0]
        return pool_bits(
            self.places[op.inputs[0]],
            self._take(step.output),
            self._prepared.rewritten.falling[step.output],
            kernel=op.pair("kernel_size"),
            stride=op.pair("stride"),
            padding=op.pair("padding"),
            dilation=op.pair("dilation"),
        )

    def _same_place(self, step: Step) -> Run:
        """A map of one pixel is a vector as it lies."""
        self.places[step.output] = self.places[step.reads[0]]
        self._shared |= {step.output, step.reads[0]}
        return lambda: None

    def _alone(self, step: Step) -> Run:
        """An operation of torch, copied to its place."""
        op, run_op, inputs = step.ops[0], self._run_op, [self._value(name) for name in step.ops[0].inputs]
        self._take(step.output)
        result = self._value(step.output)
        if isinstance(result, torch.Tensor):
            return lambda: result.copy_(run_op(op, *inputs))
        return lambda: np.copyto(result.words, run_op(op, *inputs).words)

    def _take(self, name: str) -> Array:
        """Memory for a value."""
        self.places[name] = self.memory.take(name, *self._prepared.place_of(name, self._N))
        return self.places[name]

    def _value(self, name: str) -> Any:
        """A value in its place, as operations see it that run alone."""
        place, value = self.places[name], self._prepared.values[name]
        vector = len(value.shape) == 1
        if value.groups is not None:
            return self._make_bits(place.reshape(self._N, -1) if vector else place, value.shape)
        return torch.from_numpy(place).flatten(1) if vector else torch.from_numpy(place).permute(0, 3, 1, 2)
