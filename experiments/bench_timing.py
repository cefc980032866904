"""Timing that all benchmarks share: candidates take turns in one process; median, spread, and where it was measured."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

from bnas.environment import environment

# One sample lasts at least this long, so that the clock's own steps do not show.
SECONDS_A_SAMPLE = 1e-3

# A call that lasts longer is warm after one.
SECONDS_FOR_ONE_WARM_UP = 0.5

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the median over the rounds, and the spread (half the distance of the quartiles)."""

    us: float
    spread: float


def in_turn(candidates: Mapping[str, Call], rounds: int) -> dict[str, Timing]:
    """Time each candidate once a round, in their order; what slows the machine down then meets all of them.

    With one thread the clock is that thread's processor time, which other work on the machine does not lengthen.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    repeats = {}
    for name, call in candidates.items():
        seconds = _seconds(call, clock)
        if seconds < SECONDS_FOR_ONE_WARM_UP:
            seconds = _seconds(call, clock)
        repeats[name] = max(1, int(SECONDS_A_SAMPLE / max(seconds, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = clock()
            for _ in range(repeats[name]):
                call()
            samples[name].append((clock() - start) / repeats[name] * 1e6)
    return {name: Timing(median(its), spread_of(its)) for name, its in samples.items()}


def _seconds(call: Call, clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def spread_of(samples: Sequence[float]) -> float:
    """Half the distance of the quartiles; 0 of a single sample."""
    if len(samples) < 2:
        return 0.0
    low, _, high = quantiles(samples, n=4)
    return (high - low) / 2


@contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Torch, and what takes its number from torch, on that many threads; None leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def where() -> dict[str, Any]:
    """Device, versions, threads and clock, for a table and for a file."""
    here = environment()
    return {
        "device": here["cuda_device"] or here["processor"],
        "versions": {name: here[name] for name in ("bnas", "python", "torch", "numpy")} | _others(),
        "threads": torch.get_num_threads(),
        "clock": "processor time of the thread" if torch.get_num_threads() == 1 else "wall time",
    }


def _others() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("numba", "llvmlite", "onnxruntime", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def ratio_text(ratio: float | None) -> str:
    """How many times as quick; a loss in words."""
    if ratio is None:
        return "-"
    return f"{ratio:.2f}x" + (" slower" if ratio < 1 else "")
