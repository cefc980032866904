"""Time on the device at hand: each operation of packed networks by itself, and whole networks to compare the sum with.

The packed runtime runs what is timed: binary operations by the named back end, real ones by torch, both on the host and
one image at a time. Operations are timed one by one; a back end that fuses them runs a whole network in less.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bnas import seeding
from bnas.deploy.file import Packed
from bnas.deploy.runtime import PackedNetwork
from bnas.environment import environment
from bnas.genotype import Genotype
from bnas.latency import Timing, operations
from bnas.space import SearchSpace

# A run repeats what is timed until it takes about as long as this: far above the clock's resolution.
SECONDS_A_RUN = 1e-3
# What makes two tables one; the rest of the environment is only told.
CONDITIONS = ("backend", "processor", "threads", "torch", "bnas")


def conditions(backend: str) -> dict[str, Any]:
    """What timings on this machine depend on."""
    return {"backend": backend, "batch": 1, "what": "packed runtime, operations one by one", **environment()}


def timed(call: Callable[[], object], runs: int) -> Timing:
    """Median and half of the middle 50 % of `runs` runs, in microseconds a call, after two calls to warm up."""
    call()
    start = time.perf_counter()
    call()
    repeats = max(1, round(SECONDS_A_RUN / max(time.perf_counter() - start, 1e-7)))
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        taken.append((time.perf_counter() - start) / repeats * 1e6)
    low, median, high = (float(value) for value in np.percentile(taken, (25, 50, 75)))
    return Timing(median, (high - low) / 2, runs)


def _image(packed: Packed) -> torch.Tensor:
    generator = seeding.torch_generator(0, "profile")
    return torch.randn(1, *packed.program.input_shape, generator=generator).contiguous(
        memory_format=torch.channels_last
    )


@torch.no_grad()
def time_operations(packed: Packed, backend: str, known: dict[str, Timing], runs: int) -> int:
    """Add to `known` the operations of a network that are not in it; how many there were."""
    network = PackedNetwork(packed, backend, fuse=False)
    values: dict[str, Any] = {packed.program.input: _image(packed)}
    added = 0
    for key, op in operations(packed):
        inputs = [values[name] for name in op.inputs]
        values[op.output] = network.run_op(op, *inputs)
        if key not in known:
            known[key] = timed(lambda op=op, inputs=inputs: network.run_op(op, *inputs), runs)  # type: ignore[misc]
            added += 1
    return added


@torch.no_grad()
def time_network(packed: Packed, backend: str, runs: int, *, fuse: bool) -> Timing:
    """One image through the whole network."""
    network, image = PackedNetwork(packed, backend, fuse=fuse), _image(packed)
    return timed(lambda: network.run(image), runs)


def covering(space: SearchSpace, patience: int) -> Iterator[tuple[Genotype, Callable[[int], None]]]:
    """Genotypes to measure, each with a function to be told how many operations it added.

    First one for every choice, taken by all decisions that have it; then random ones, until `patience` in a row add
    nothing: an operation may depend on several decisions.
    """
    idle = 0

    def tell(added: int) -> None:
        nonlocal idle
        idle = 0 if added else idle + 1

    most = max(len(decision.choices) for decision in space.decisions)
    for index in range(most):
        scores = {d.name: [float(i == index) for i in range(len(d.choices))] for d in space.decisions}
        yield space.derive(scores), tell
    idle = 0
    rng = seeding.numpy_generator(0, "profile", "genotypes")
    while idle < patience:
        yield space.random(rng), tell
