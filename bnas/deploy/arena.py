"""Memory for values that live from one step to another; what is no longer read is used again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class _Block:
    """A block of memory, and the value that now lies in it."""

    memory: NDArray[np.uint8]
    value: str | None = None


class Arena:
    """Hands out blocks of memory by the names of values."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    @property
    def blocks(self) -> list[NDArray[np.uint8]]:
        """All memory that was taken."""
        return [block.memory for block in self._blocks]

    @property
    def nbytes(self) -> int:
        return sum(memory.nbytes for memory in self.blocks)

    def take(self, value: str, shape: Sequence[int], dtype: type) -> NDArray[Any]:
        """An array for that value, until it is given back."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        fitting = [block for block in self._blocks if block.value is None and block.memory.nbytes >= size]
        block = min(fitting, key=lambda block: block.memory.nbytes, default=None)
        if block is None:
            block = _Block(np.zeros(max(size, 64), dtype=np.uint8))
            self._blocks.append(block)
        block.value = value
        return block.memory[:size].view(dtype).reshape(shape)

    def give_back(self, value: str) -> None:
        """That value is no longer read; nothing happens where it lies elsewhere."""
        for block in self._blocks:
            if block.value == value:
                block.value = None
