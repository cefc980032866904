"""One seed in a job becomes every generator; the process's global generators are borrowed and put back.

Random numbers are addressed, not drawn in sequence: batch 517 of a run is a function of (seed, "batch", 517) and not
of what was drawn before it. So nothing about randomness needs to be saved, and a continued run equals an uninterrupted
one.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *address: object) -> int:
    """A 63-bit seed for the purpose named by `address`, equal on every machine and in every process."""
    text = "/".join(str(part) for part in (seed, *address))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *address: object) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *address))


def torch_generator(seed: int, *address: object, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derive(seed, *address))


@contextmanager
def borrowed(seed: int, *address: object) -> Iterator[None]:
    """Seed the global generators of `random`, NumPy and torch for the block, and put their states back after it.

    For code that cannot be handed a generator: parameter initialization, dropout, deap's operators.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    cuda_states = [torch.cuda.get_rng_state(d) for d in devices]
    value = derive(seed, *address)
    try:
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.manual_seed(value)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for device, state in zip(devices, cuda_states, strict=True):
            torch.cuda.set_rng_state(state, device)
