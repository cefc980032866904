"""Addressed randomness: equal everywhere, and the process's generators are put back."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from bnas import seeding


def test_addresses_differ_and_repeat() -> None:
    assert seeding.derive(1, "a", 2) == seeding.derive(1, "a", 2)
    assert len({seeding.derive(1, "a", 2), seeding.derive(1, "a", 3), seeding.derive(2, "a", 2)}) == 3


def test_same_number_in_another_process() -> None:
    code = "from bnas import seeding; print(seeding.derive(7, 'batch', 517))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == seeding.derive(7, "batch", 517)


def _draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_borrowed_seeds_the_block_and_puts_the_states_back_after_an_exception() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    undisturbed = _draws()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    first = []

    def fails() -> None:
        with seeding.borrowed(5, "x"):
            first.append(_draws())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert _draws() == undisturbed
    with seeding.borrowed(5, "x"):
        assert _draws() == first[0]
