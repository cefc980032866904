"""A packed network as prepared steps (see `fusion`): weights laid out once, buffers planned once for each batch size."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bnas.deploy.binding import Binding, MakeBits, RunOp
from bnas.deploy.file import Packed
from bnas.deploy.fusion import Step
from bnas.deploy.prepared import MakeLayer, prepare

# Buffers are kept for this many batch sizes.
BATCH_SIZES_KEPT = 4


class FusedProgram:
    """Runs a packed network in fused steps.

    `run_op` runs one operation that is not fused; `make_bits` wraps words as a value.
    """

    def __init__(self, packed: Packed, layer: MakeLayer, run_op: RunOp, make_bits: MakeBits) -> None:
        self._prepared, self._run_op, self._make_bits = prepare(packed, layer), run_op, make_bits
        self._bound: OrderedDict[int, Binding] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    @property
    def steps(self) -> tuple[Step, ...]:
        return self._prepared.steps

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
        program = self._prepared.program
        with self._one_at_a_time:
            values: dict[str, Any] = {program.input: x}
            for bound in self.binding(len(x)).steps:
                values[bound.step.output] = bound.run(values)
                after(bound.step)
                for name in bound.forget:
                    del values[name]
            # A copy: the original may lie in memory that the next run uses.
            logits: Tensor = values[program.output].clone()
            return logits

    def binding(self, N: int) -> Binding:
        """The steps for batches of that size."""
        bound = self._bound.get(N)
        if bound is None:
            bound = self._bound[N] = Binding(self._prepared, N, self._run_op, self._make_bits)
            if len(self._bound) > BATCH_SIZES_KEPT:
                self._bound.popitem(last=False)
        return bound
