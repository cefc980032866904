"""Plans: compiled work whose sizes and memory are fixed. One runs alone, or many one after the other in a single call."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import Tasks, run_in_turn, threads_for
from bnas.kernels.cpu.operands import aligned

Array = NDArray[Any]

# Below this a second thread costs more than it brings.
MICROSECONDS_FOR_THREADS = 30
# What one thread moves or compares in a microsecond, about, where that is most of the work.
VALUES_A_MICROSECOND = 3_000


@dataclass(eq=False)
class Plan:
    """`code` for `tasks` tasks of the record `job`. `kept`: the arrays that the record points to.

    `microseconds`: what a run takes one thread, about. `scratch_bytes`: of a thread, at the address `scratch` of the record.
    """

    code: Tasks
    job: Array
    tasks: int
    microseconds: float
    scratch_bytes: int = 0
    kept: Any = None

    def __post_init__(self) -> None:
        self.address = int(self.job.ctypes.data)

    def threads(self) -> int:
        return threads_for(self.microseconds, MICROSECONDS_FOR_THREADS) if self.tasks > 1 else 1

    def __call__(self) -> None:
        threads = self.threads()
        if self.scratch_bytes:
            self.job["scratch"] = scratch_memory(threads * self.scratch_bytes)
        self.code(self.address, self.tasks, threads)


def record(kind: np.dtype[Any], fields: Iterable[tuple[str, int]]) -> Array:
    """One record of int64, what is not given 0."""
    job = np.zeros(1, dtype=kind)
    for name, value in fields:
        job[name] = value
    return job


class InTurn:
    """Plans that run in their order, without a step of Python between them; not from several threads at a time."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = plans
        self._threads = 0

    def __call__(self, first: int = 0, end: int | None = None) -> None:
        """All of them, or those from `first` to before `end`."""
        if self._threads != torch.get_num_threads():
            self._prepare()
        run_in_turn(self._table.ctypes.data, first, len(self.plans) if end is None else end, self._most)

    def _prepare(self) -> None:
        self._threads = torch.get_num_threads()
        threads = [plan.threads() for plan in self.plans]
        self._most = max(threads, default=1)
        sizes = [plan.scratch_bytes * count for plan, count in zip(self.plans, threads, strict=True)]
        self._scratch = aligned(np.zeros(max(sizes, default=0), dtype=np.uint8))
        for plan in self.plans:
            if plan.scratch_bytes:
                plan.job["scratch"] = self._scratch.ctypes.data
        rows = [
            (plan.code.address, plan.address, plan.tasks, count)
            for plan, count in zip(self.plans, threads, strict=True)
        ]
        self._table = np.array(rows, dtype=np.int64).reshape(-1, 4)


_own = threading.local()


def scratch_memory(size: int) -> int:
    """Address of at least `size` bytes, for the calling thread alone and until its next call: all plans share them."""
    memory: Array | None = getattr(_own, "memory", None)
    if memory is None or memory.nbytes < size:
        # Bytes behind the last pixel are read, whatever they are, and not used.
        memory = _own.memory = aligned(np.zeros(size, dtype=np.uint8))
    return int(memory.ctypes.data)
