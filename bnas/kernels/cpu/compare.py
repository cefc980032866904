"""Comparisons planned like a layer: real values, in one map or side by side in several, to bits.

A concatenation that is only compared is never written: its parts meet in the cache, a pixel at a time.
"""

from collections.abc import Sequence

import numpy as np
from numba import carray
from numpy.typing import NDArray

from bnas.kernels.cpu.compiled import compare_pixel
from bnas.kernels.cpu.jit import Tasks
from bnas.kernels.cpu.layer import Threshold, pixel_bytes
from bnas.kernels.cpu.plan import VALUES_A_MICROSECOND, Plan, record
from bnas.kernels.cpu.vectors import copy_some, number_at
from bnas.kernels.packing import Words, words_for

PIXELS_AT_ONCE = 64

_FIELDS = (
    "parts", "part_count", "pixels", "channels", "thresholds", "signs", "comparisons", "threshold_bytes",
    "groups", "group_channels", "words", "out", "scratch", "scratch_bytes", "flat_at", "inner",
)  # fmt: skip

COMPARE = np.dtype([(name, np.int64) for name in _FIELDS])


def compare(maps: Sequence[NDArray[np.float32]], threshold: Threshold, out: Words) -> Plan:
    """Real maps [N, H, W, C_i], their channels one after the other, to bits [N, H, W, groups, words]."""
    channels, pixels = sum(x.shape[3] for x in maps), out.shape[0] * out.shape[1] * out.shape[2]
    values, signs = threshold.rows()
    # Where each map lies, bytes from one of its pixels to the next, its channels.
    parts = np.array([(x.ctypes.data, pixel_bytes(x), x.shape[3]) for x in maps], np.int64)
    # One pixel, copied 16 values at a time and read 32 at a time, and its bits before they are grouped.
    flat_at = 4 * (channels + 32)
    # Behind all pixels but the last few lie values enough to read whole vectors.
    inner = max(0, pixels - -(-32 // min(x.shape[3] for x in maps)))
    scratch_bytes = -(-(flat_at + 4 * (words_for(channels) + 1)) // 64) * 64
    groups, words = out.shape[3:]
    given = (
        parts.ctypes.data, len(maps), pixels, channels, values.ctypes.data, signs.ctypes.data, len(values),
        values.strides[0], groups, channels // groups, words, out.ctypes.data, 0, scratch_bytes, flat_at, inner,
    )  # fmt: skip
    job, kept = record(COMPARE, zip(_FIELDS, given, strict=True)), (maps, out, values, signs, parts)
    microseconds = pixels * channels / VALUES_A_MICROSECOND
    return Plan(SOME_PIXELS, job, -(-pixels // PIXELS_AT_ONCE), microseconds, scratch_bytes, kept)


def _some(job, task, thread):  # type: ignore[no-untyped-def]
    j = carray(job, 1)[0]
    row = j.scratch + thread * j.scratch_bytes
    for p in range(task * PIXELS_AT_ONCE, min(j.pixels, (task + 1) * PIXELS_AT_ONCE)):
        # What a vector holds beyond a map's channels is overwritten by the next map's, or meets thresholds of NaN.
        beyond = 32 if p < j.inner else 0
        x = number_at(j.parts) + p * number_at(j.parts + 8)
        if j.part_count > 1:
            x, to = row, row
            for part in range(j.parts, j.parts + 24 * j.part_count, 24):
                start, count = number_at(part) + p * number_at(part + 8), number_at(part + 16)
                for c in range(0, count, 16):
                    copy_some(start + 4 * c, to + 4 * c, count - c + beyond)
                to += 4 * count
            beyond = 32
        channels = (j.channels + 31) // 32 * 32 if beyond else j.channels
        compare_pixel(
            x, channels, j.thresholds, j.signs, j.comparisons, j.threshold_bytes, row + j.flat_at, j.groups,
            j.group_channels, j.words, j.out + 4 * p * j.groups * j.words,
        )  # fmt: skip


SOME_PIXELS = Tasks(_some, COMPARE)
