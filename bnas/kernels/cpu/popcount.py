"""The binary convolution by popcounts of words, whose vectors hold filters."""

import numpy as np
from numba import carray

from bnas.kernels.cpu.compiled import fill, finish, task_of
from bnas.kernels.cpu.jit import Tasks, compiled
from bnas.kernels.cpu.job import JOB
from bnas.kernels.cpu.micro import LANES, Tile, popcounts
from bnas.kernels.cpu.operands import (
    PIXELS_FINISHED,
    Array,
    Form,
    Operands,
    columns_read,
    fill_time,
    lane_of_channel,
    out_pixels,
    rows_of_pixels,
    rows_of_task,
    streamed_time,
    tiled,
    words_together,
)
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import Words

# Tiles whose sums and weights fit 32 vector registers.
SEVEN_BY_ONE, ONE_BY_FOUR = Tile(7, 1), Tile(1, 4)
MOST_PIXELS = 7

_seven_by_one, _one_by_four = popcounts(SEVEN_BY_ONE), popcounts(ONE_BY_FOUR)


class Popcount(Form):
    """Words; 16 filters are a vector."""

    def cost(self, g: Geometry, features: frozenset[str]) -> float:
        # Of a word of 16 filters, measured with AVX512-VPOPCNTDQ and with AVX2.
        word_time = 0.45 if "avx512vpopcntdq" in features else 2.8
        steps = g.groups * _blocks(g) * g.taps * g.words
        return max(word_time * out_pixels(g) * steps, streamed_time(4 * LANES * steps)) + fill_time(g)

    def lay_out(self, weight_words: Words, g: Geometry, few_pixels: bool) -> Array:
        """For every one or four blocks of 16 filters, step after step, a word of each filter."""
        blocks = _blocks(g)
        padded = np.zeros((g.groups, blocks * LANES, g.taps * g.words), dtype=np.uint32)
        padded[:, : g.group_filters] = weight_words.reshape(g.groups, g.group_filters, -1)
        fours = blocks // 4 if few_pixels else 0
        return tiled(padded, [4 * LANES] * fours + [LANES] * (blocks - 4 * fours))

    def operands(self, g: Geometry, weights: Array, *, threads: int, source: Array, is_real: bool) -> Operands:
        width, blocks = g.out_size[1], _blocks(g)
        lanes = g.groups * blocks * LANES
        rows = rows_of_task(g, 4 * lanes * width, threads)
        words = words_together(g, rows)
        pixel_bytes, row_bytes = 4 * g.words, 4 * g.words * columns_read(g)
        y, x = np.divmod(np.arange(rows * width + MOST_PIXELS), width)
        y, x = np.minimum(y, rows - 1), np.where(y < rows, x, width - 1)
        segments = _segments(g, row_bytes, pixel_bytes)
        fields: dict[str, int | Array] = {
            **words,
            "rows": rows,
            "pixels": y * g.stride[0] * row_bytes + x * g.stride[1] * pixel_bytes,
            "segments": segments,
            "segment_count": len(segments),
            "weights": weights,
            "weight_group_bytes": weights.nbytes // g.groups,
            "blocks": blocks,
            "lanes": lanes,
            "source": lane_of_channel(g, source, blocks * LANES),
        }
        counts = 4 * lanes * (rows * width + MOST_PIXELS)
        first = {"acts_at": g.groups * int(words["group_bytes"]), "counts_at": counts}
        return Operands(fields, {**first, **rows_of_pixels(g, g.groups * g.words)})


def _blocks(g: Geometry) -> int:
    return -(-g.group_filters // LANES)


def _segments(g: Geometry, row_bytes: int, pixel_bytes: int) -> Array:
    """(offset, steps) of the taps; those of one row of the kernel are one run where they lie together."""
    (kh, kw), (down, right) = g.kernel, g.dilation
    taps = [(ky * down * row_bytes, kx * right * pixel_bytes) for ky in range(kh) for kx in range(kw)]
    if right > 1:
        return np.array([(y + x, g.words) for y, x in taps], dtype=np.int64)
    return np.array([(y, kw * g.words) for y, x in taps if x == 0], dtype=np.int64)


@compiled()
def _count(j, acts, counts, pixels):  # type: ignore[no-untyped-def]
    for g in range(j.groups):
        operands, group_weights = acts + g * j.group_bytes, j.weights + g * j.weight_group_bytes
        out, block = counts + 64 * g * j.blocks, 0
        step_bytes = j.weight_group_bytes // j.blocks
        while block < j.blocks:
            weights = group_weights + block * step_bytes
            some, many = pixels < 4 and j.blocks - block >= 4, 1
            for p in range(0, pixels, 1 if some else 7):
                to, where = out + 4 * (p * j.lanes + 16 * block), j.pixels + 8 * p
                if some:
                    _one_by_four(operands, where, j.segments, j.segment_count, weights, to, j.lanes)
                else:
                    _seven_by_one(operands, where, j.segments, j.segment_count, weights, to, j.lanes)
            if some:
                many = 4
            block += many


def _run(job, task, thread):  # type: ignore[no-untyped-def]
    j = carray(job, 1)[0]
    n, y0, rows, scratch = task_of(j, task, thread)
    acts, counts, row, flat = scratch + j.acts_at, scratch + j.counts_at, scratch + j.row_at, scratch + j.flat_at
    fill(j, n, y0, rows, acts, flat)
    pixels = rows * j.out_width
    _count(j, acts, counts, pixels)
    for p in range(0, pixels, PIXELS_FINISHED):
        here = min(PIXELS_FINISHED, pixels - p)
        finish(j, n, y0 * j.out_width + p, here, counts + 4 * j.lanes * p, row, flat)


POPCOUNT = Popcount("popcount", Tasks(_run, JOB))
