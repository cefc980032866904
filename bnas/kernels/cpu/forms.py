"""The two inner loops as the rest sees them: how operands and weights lie in memory, and which one is quick here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding
from numpy.typing import NDArray

from bnas.errors import BnasError
from bnas.kernels.cpu import compiled
from bnas.kernels.cpu.micro import LANES, STEPS_TO_FLUSH
from bnas.kernels.packing import WORD_BITS, Words, words_for

Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """One inner loop. `step_bits` channels are one step, which takes `step_bytes` of operands."""

    name: str
    step_bits: int
    step_bytes: int
    steps_at_once: int | None
    serial: Callable[[Array, int], None]
    parallel: Callable[[Array, int], None]
    # Blocks of 16 filters that lie step by step beside each other, given how many there are and the number of pixels.
    together: Callable[[int, int], Sequence[int]]
    steps_of: Callable[[Words, int], Array]
    tables: Array | None = None

    @property
    def detail(self) -> str:
        """The inner loop and what the processor gives it."""
        known = ("avx512vpopcntdq", "avx512bw", "avx2", "neon")
        best = next((feature for feature in known if feature in features()), "no vector instructions that matter")
        return f"{self.name}, {best}"

    def steps(self, channels: int) -> int:
        """Steps of one tap."""
        return -(-channels // self.step_bits)

    def lay_out(self, weight_words: Words, groups: int, channels: int, pixels: int) -> Array:
        """Packed weights [O, kh, kw, words] to [groups, ...]: for every block, step and filter of 16, one step's bits."""
        filters = weight_words.shape[0] // groups
        blocks = -(-filters // LANES)
        steps = self.steps_of(weight_words, channels).reshape(groups, filters, -1)
        padded = np.zeros((groups, blocks * LANES, steps.shape[2]), dtype=steps.dtype)
        padded[:, :filters] = steps
        by_block = padded.reshape(groups, blocks, LANES, -1)
        parts, start = [], 0
        for many in self.together(blocks, pixels):
            part = by_block[:, start : start + many].transpose(0, 3, 1, 2)
            parts.append(part.reshape(groups, -1))
            start += many
        return aligned(np.concatenate(parts, axis=1))

    def segments(self, runs: Sequence[tuple[int, int]]) -> Array:
        """Runs (offset in bytes, steps) of operands as int64 [segments, 3]: offset, steps, whether sums are full then."""
        found: list[list[int]] = []
        room = self.steps_at_once
        for offset, steps in runs:
            while steps:
                now = steps if room is None else min(steps, room)
                found.append([offset, now, 0])
                offset, steps = offset + now * self.step_bytes, steps - now
                if room is not None:
                    room -= now
                    if room == 0:
                        found[-1][2], room = 1, self.steps_at_once
        found[-1][2] = 1
        return np.array(found, dtype=np.int64)


def aligned(array: Array, to: int = 64) -> Array:
    """A copy that begins at an address divisible by `to`."""
    room = np.empty(array.nbytes + to, dtype=np.uint8)
    start = -room.ctypes.data % to
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _words(weight_words: Words, channels: int) -> Array:
    return weight_words


def _nibbles(weight_words: Words, channels: int) -> Array:
    shifts = np.arange(0, WORD_BITS, 4, dtype=np.uint32)
    nibbles = (weight_words[..., None] >> shifts & 15).astype(np.uint8)
    by_tap = nibbles.reshape(*weight_words.shape[:3], words_for(channels) * 8)
    return by_tap[..., : -(-channels // 4)]


def _word_blocks(blocks: int, pixels: int) -> list[int]:
    fours = blocks // 4 if pixels < 4 else 0
    return [4] * fours + [1] * (blocks - 4 * fours)


def _table_blocks(blocks: int, pixels: int) -> list[int]:
    return [4] * (blocks // 4) + ([blocks % 4] if blocks % 4 else [])


def _popcount_tables() -> Array:
    nibble = np.arange(16, dtype=np.uint8)
    # Twice as many bytes as are looked up: operands behind the last pixel are read, and not used.
    return aligned(np.concatenate([np.bitwise_count(nibble[:, None] ^ nibble).ravel(), np.zeros(256, np.uint8)]))


@cache
def all_forms() -> dict[str, Form]:
    """By name; `tables` needs AVX2."""
    return {
        "popcount": Form(
            "popcount", WORD_BITS, 4, None, compiled.words_serial, compiled.words_parallel, _word_blocks, _words
        ),
        "tables": Form(
            "tables",
            4,
            1,
            STEPS_TO_FLUSH,
            compiled.tables_serial,
            compiled.tables_parallel,
            _table_blocks,
            _nibbles,
            _popcount_tables(),
        ),
    }


@cache
def features() -> frozenset[str]:
    """What this processor has, in LLVM's words."""
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


@cache
def best_form() -> Form:
    """`popcount` where the processor counts bits in vectors, else `tables` where it shuffles bytes, else `popcount`."""
    if "avx512vpopcntdq" in features() or "avx2" not in features():
        return all_forms()["popcount"]
    return all_forms()["tables"]


def form_named(name: str) -> Form:
    """`BnasError` where the processor lacks what it needs."""
    if name == "tables" and "avx2" not in features():
        raise BnasError("the table kernels need a processor with AVX2")
    return all_forms()[name]
