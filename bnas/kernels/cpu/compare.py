"""Comparisons planned like a layer: real values, in one map or side by side in several, to bits.

A concatenation that is only compared is never written: each map is compared by itself, up to 32 channels of a run of pixels
at a time, and what comes of it is put together bit by bit.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numba import carray
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import Tasks
from bnas.kernels.cpu.layer import Threshold, pixel_bytes
from bnas.kernels.cpu.plan import VALUES_A_MICROSECOND, Plan, record
from bnas.kernels.cpu.turned import compare_line
from bnas.kernels.cpu.vectors import number_at, put_word, word_at
from bnas.kernels.packing import WORD_BITS, Words

PIXELS_AT_ONCE = 64

_FIELDS = (
    "runs", "run_count", "pixels", "thresholds", "signs", "comparisons", "threshold_bytes", "pieces", "piece_count", "words",
    "out", "scratch", "scratch_bytes",
)  # fmt: skip

COMPARE = np.dtype([(name, np.int64) for name in _FIELDS])


def compare(maps: Sequence[NDArray[np.float32]], threshold: Threshold, out: Words) -> Plan:
    """Real maps [N, H, W, C_i], their channels one after the other, to bits [N, H, W, groups, words]."""
    channels, pixels = sum(x.shape[3] for x in maps), out.shape[0] * out.shape[1] * out.shape[2]
    # Thresholds are read 32 at a time from any channel on.
    values, signs = (np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, WORD_BITS)]) for rows in threshold.rows())
    runs = np.array(list(_runs(maps)), np.int64)
    pieces = np.array(list(_pieces(runs[:, 2].tolist(), channels, out.shape[3])), np.int64)
    scratch_bytes = 4 * PIXELS_AT_ONCE * len(runs)
    given = (
        runs.ctypes.data, len(runs), pixels, values.ctypes.data, signs.ctypes.data, len(values), values.strides[0],
        pieces.ctypes.data, len(pieces), out.shape[3] * out.shape[4], out.ctypes.data, 0, scratch_bytes,
    )  # fmt: skip
    job, kept = record(COMPARE, zip(_FIELDS, given, strict=True)), (maps, out, values, signs, runs, pieces)
    microseconds = pixels * channels / VALUES_A_MICROSECOND
    return Plan(SOME_PIXELS, job, -(-pixels // PIXELS_AT_ONCE), microseconds, scratch_bytes, kept)


def _runs(maps: Sequence[NDArray[np.float32]]) -> Iterator[tuple[int, int, int]]:
    """Up to 32 channels of one map: where they lie, bytes from one pixel to the next, how many."""
    for x in maps:
        step = pixel_bytes(x)
        assert step is not None
        for c in range(0, x.shape[3], WORD_BITS):
            yield x.ctypes.data + 4 * c, step, min(WORD_BITS, x.shape[3] - c)


def _pieces(sizes: Sequence[int], channels: int, groups: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """What words of the output take of runs: word, whether it is begun, run, its first bit, mask, their place in the word."""
    starts, group_channels = np.cumsum(sizes) - sizes, channels // groups
    firsts = [g * group_channels + c for g in range(groups) for c in range(0, group_channels, WORD_BITS)]
    ends = [min(first + WORD_BITS, (first // group_channels + 1) * group_channels) for first in firsts]
    for word, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        begun = 0
        for run, (start, size) in enumerate(zip(starts.tolist(), sizes, strict=True)):
            low, high = max(first, start), min(end, start + size)
            if low < high:
                yield word, begun, run, low - start, (1 << high - low) - 1, low - first
                begun = 1


def _some(job, task, thread):  # type: ignore[no-untyped-def]
    j = carray(job, 1)[0]
    first = task * PIXELS_AT_ONCE
    pixels, channel = min(PIXELS_AT_ONCE, j.pixels - first), 0
    bits = to = j.scratch + thread * j.scratch_bytes
    for run in range(j.runs, j.runs + 24 * j.run_count, 24):
        step, count = number_at(run + 8), number_at(run + 16)
        for k in range(j.comparisons):
            compare_line(
                number_at(run) + first * step, step, pixels, j.thresholds + k * j.threshold_bytes + 4 * channel,
                j.signs + 4 * channel, count, -1 if k else 0, to, 4,
            )  # fmt: skip
        to += 4 * PIXELS_AT_ONCE
        channel += count
    for piece in range(j.pieces, j.pieces + 48 * j.piece_count, 48):
        out = j.out + 4 * (first * j.words + number_at(piece))
        begun, of = number_at(piece + 8), bits + 4 * PIXELS_AT_ONCE * number_at(piece + 16)
        right, mask, left = number_at(piece + 24), number_at(piece + 32), number_at(piece + 40)
        for p in range(pixels):
            found = ((word_at(of + 4 * p) >> right) & mask) << left
            at = out + 4 * p * j.words
            put_word(at, found | word_at(at) if begun else found)


SOME_PIXELS = Tasks(_some, COMPARE)
