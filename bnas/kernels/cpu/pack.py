"""Threshold and pack in one pass over real features, whichever way they lie in memory."""

import numpy as np
from numba import prange
from numpy.typing import NDArray

from bnas.kernels.cpu.compiled import compare_pixel
from bnas.kernels.cpu.jit import compiled, threads_for
from bnas.kernels.cpu.layer import Threshold, pixel_bytes
from bnas.kernels.cpu.operands import aligned
from bnas.kernels.packing import Words, words_for
from bnas.kernels.reference import check_threshold

# Values below which a second thread costs more than it brings.
VALUES_FOR_THREADS = 200_000


def threshold_pack(
    x: NDArray[np.float32], value: NDArray[np.float32], flip: NDArray[np.bool_], groups: int = 1
) -> Words:
    """`reference.threshold_pack`: real [N, C, H, W] in any strides to words [N, H, W, groups, words]."""
    check_threshold(x, value, flip, groups)
    N, C, H, W = x.shape
    words = np.empty((N, H, W, groups, words_for(C // groups)), dtype=np.uint32)
    if words.size == 0:
        return words
    many = threads_for(x.size, VALUES_FOR_THREADS) > 1
    values, signs = Threshold(value, flip).rows()
    by_pixel = x.transpose(0, 2, 3, 1)
    step = pixel_bytes(by_pixel)
    if step is None:
        pack = _planes_parallel if many else _planes
        pack(x, values[0], signs, groups, words)
        return words
    flat = aligned(np.zeros((N * H, words_for(C) + 1), dtype=np.uint32))
    pack = _pixels_parallel if many else _pixels
    pack(
        by_pixel.ctypes.data, step, N * H, W, C, values.ctypes.data, signs.ctypes.data, flat.ctypes.data,
        flat.strides[0], groups, C // groups, words.shape[4], words.ctypes.data,
    )  # fmt: skip
    return words


@compiled()
def _row(x, step, y, W, C, values, signs, flat, flat_bytes, groups, group_channels, words, out):  # type: ignore[no-untyped-def]
    for p in range(y * W, (y + 1) * W):
        compare_pixel(
            x + p * step, C, values, signs, 1, 0, flat + y * flat_bytes, groups, group_channels, words,
            out + 4 * p * groups * words,
        )  # fmt: skip


@compiled()
def _pixels(x, step, rows, W, C, values, signs, flat, flat_bytes, groups, group_channels, words, out):  # type: ignore[no-untyped-def]
    for y in range(rows):
        _row(x, step, y, W, C, values, signs, flat, flat_bytes, groups, group_channels, words, out)


@compiled(parallel=True)
def _pixels_parallel(  # type: ignore[no-untyped-def]
    x, step, rows, W, C, values, signs, flat, flat_bytes, groups, group_channels, words, out
):
    for y in prange(rows):
        _row(x, step, y, W, C, values, signs, flat, flat_bytes, groups, group_channels, words, out)


@compiled()
def _plane_row(x, values, signs, groups, words, n, y):  # type: ignore[no-untyped-def]
    """One row of one image from channel planes: a bit of every pixel at a time, so that pixels fill the vectors."""
    C, W = x.shape[1], x.shape[3]
    channels = C // groups
    row = np.zeros(W, dtype=np.uint32)
    for g in range(groups):
        for w in range(words.shape[4]):
            row[:] = 0
            for bit in range(min(32, channels - 32 * w)):
                c = g * channels + 32 * w + bit
                t, set_bit, turned = values[c], np.uint32(1) << np.uint32(bit), signs[c] != 0
                if turned:
                    for p in range(W):
                        row[p] |= set_bit if -x[n, c, y, p] >= t else np.uint32(0)
                else:
                    for p in range(W):
                        row[p] |= set_bit if x[n, c, y, p] >= t else np.uint32(0)
            for p in range(W):
                words[n, y, p, g, w] = row[p]


@compiled()
def _planes(x, values, signs, groups, words):  # type: ignore[no-untyped-def]
    for n in range(x.shape[0]):
        for y in range(x.shape[2]):
            _plane_row(x, values, signs, groups, words, n, y)


@compiled(parallel=True)
def _planes_parallel(x, values, signs, groups, words):  # type: ignore[no-untyped-def]
    for line in prange(x.shape[0] * x.shape[2]):
        _plane_row(x, values, signs, groups, words, line // x.shape[2], line % x.shape[2])
