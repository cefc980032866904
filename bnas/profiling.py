"""Time on the device at hand: the steps of packed networks, each in place in runs of its network, and whole networks.

The packed runtime runs what is timed, as it does where it is deployed: binary operations by the named back end, fused
where it fuses, real ones by torch, all on the host and one image at a time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bnas import seeding
from bnas.deploy.file import Packed
from bnas.deploy.runtime import PackedNetwork
from bnas.environment import environment
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.kernels import BACKENDS, get_backend
from bnas.latency import Timing, operations
from bnas.space import SearchSpace

# Runs that find buffers, caches and compiled code as later ones will.
WARM_UP = 3
# What makes two tables one; the rest of the environment is only told.
CONDITIONS = ("backend", "fused", "batch", "processor", "threads", "torch", "bnas")


def conditions(backend: str) -> dict[str, Any]:
    """What timings on this machine depend on; `BnasError` for a back end whose steps cannot be timed one by one."""
    if backend == "triton":
        hosts = ", ".join(name for name in BACKENDS if name != backend)
        raise BnasError(
            f"back end triton runs on a GPU, where a step's time cannot be read from the host's clock; "
            f"a table of steps is for {hosts}, and `bnas bench` times whole networks on triton"
        )
    fused = get_backend(backend).layer is not None
    return {"backend": backend, "fused": fused, "batch": 1, **environment()}


def differing(about: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """ "threads 2 -> 8", or "" where times measured under both conditions can be compared."""
    changed = [key for key in CONDITIONS if about.get(key) != now[key]]
    return ", ".join(f"{key} {about.get(key)} -> {now[key]}" for key in changed)


def _timing(microseconds: Sequence[float]) -> Timing:
    low, median, high = (float(value) for value in np.percentile(microseconds, (25, 50, 75)))
    return Timing(median, (high - low) / 2, len(microseconds))


def _image(packed: Packed) -> torch.Tensor:
    generator = seeding.torch_generator(0, "profile")
    return torch.randn(1, *packed.program.input_shape, generator=generator).contiguous(
        memory_format=torch.channels_last
    )


def time_steps(packed: Packed, backend: str, known: dict[str, Timing], runs: int) -> int:
    """Add to `known` the steps of a network that are not in it, timed in `runs` runs of it; how many there were.

    By the wall clock: it costs little to read, and the median leaves out the few readings in which another process ran.
    """
    network, image = PackedNetwork(packed, backend), _image(packed)
    keys = [key for key, _ in operations(packed, fused=network.fused is not None)]
    samples: dict[str, list[float]] = {key: [] for key in keys if key not in known}
    for number in range(WARM_UP + runs if samples else 0):
        taken = network.profile(image, time.perf_counter)
        for key, (_, seconds) in zip(keys, taken, strict=True):
            if number >= WARM_UP and key in samples:
                samples[key].append(seconds * 1e6)
    known |= {key: _timing(its) for key, its in samples.items()}
    return len(samples)


def time_network(packed: Packed, backend: str, runs: int) -> Timing:
    """One image through the whole network as it is deployed.

    With one thread by that thread's time: a run is long enough for other processes to be in many of them.
    """
    network, image = PackedNetwork(packed, backend), _image(packed)
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    taken = []
    for _ in range(WARM_UP + runs):
        start = now()
        network.run(image)
        taken.append((now() - start) * 1e6)
    return _timing(taken[WARM_UP:])


def covering(space: SearchSpace, patience: int) -> Iterator[tuple[Genotype, Callable[[int], None]]]:
    """Genotypes to measure, each with a function to be told how many steps it added.

    First one for every choice, taken by all decisions that have it; then random ones, until `patience` in a row add
    nothing: a step may depend on several decisions.
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
