"""The binary convolution by table look-ups, whose vectors hold filters: for images of few pixels.

A task's operands are *places*: for each pixel that it reads, row by row, and 4 of its channels, where the table of these bits
and of those of its neighbour lies, the one that the next output pixel sees at the same tap.
"""

import numpy as np
from numba import carray

from bnas.kernels.cpu.compiled import fill, finish, task_of
from bnas.kernels.cpu.jit import Tasks, compiled
from bnas.kernels.cpu.job import JOB
from bnas.kernels.cpu.micro import BYTES, FOUR, NO_BITS, ONE, STEPS_AT_ONCE, TWO, emit_filter_tables, look_ups
from bnas.kernels.cpu.operands import (
    MOST_COUNTED,
    PIXELS_FINISHED,
    Array,
    Form,
    Operands,
    columns_read,
    fill_time,
    is_pointwise,
    lane_of_channel,
    look_up_time,
    nibbles,
    nibbles_of_weights,
    out_pixels,
    pixels_read,
    rows_of_pixels,
    rows_of_task,
    rows_read,
    steps_of_look_ups,
    tiled,
    vector_tiles,
    words_together,
)
from bnas.kernels.cpu.turned import put_places, widen_counts
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import Words

# Bytes of the places of a word: 8 times 4 channels, int16.
WORD_PLACES = 16

_four, _two, _one = (look_ups(tile, emit_filter_tables) for tile in (FOUR, TWO, ONE))


class FilterTables(Form):
    """Look-ups of 4 bits; 32 filters are a vector, two pixels a table."""

    def cost(self, g: Geometry, features: frozenset[str]) -> float:
        if g.length > MOST_COUNTED:
            return np.inf
        lines, length = _lines(g, g.out_size[0])
        counted = look_up_time(g, lines * -(-length // 2) * g.groups, _vectors(g))
        # Measured: words spread, counts widened.
        spread = 1.2 * pixels_read(g) * g.groups * g.words
        return counted + fill_time(g) + spread + 0.03 * out_pixels(g) * g.filters

    def lay_out(self, weight_words: Words, g: Geometry, few_pixels: bool) -> Array:
        """For every 128, then 64 and 32 filters of a group, step after step, a byte of each filter."""
        of_filters = nibbles_of_weights(weight_words, g)
        padded = np.full((g.groups, BYTES * _vectors(g), steps_of_look_ups(g)), NO_BITS, dtype=np.uint8)
        padded[:, : g.group_filters, : of_filters.shape[2]] = of_filters
        return tiled(padded, [BYTES * size for size in vector_tiles(_vectors(g))])

    def operands(self, g: Geometry, weights: Array, *, threads: int, source: Array, is_real: bool) -> Operands:
        lanes, places_bytes = g.groups * _vectors(g) * BYTES, WORD_PLACES * g.words
        rows = rows_of_task(g, max(2 * lanes * g.out_size[1], g.groups * places_bytes * columns_read(g)), threads)
        words = words_together(g, rows)
        lines, length = _lines(g, rows)
        line_bytes = places_bytes * columns_read(g)
        group_bytes = rows_read(g, rows) * line_bytes
        fields: dict[str, int | Array] = {
            **words,
            "rows": rows,
            "is_pointwise": int(is_pointwise(g)),
            "places_group_bytes": group_bytes,
            "places_line_bytes": g.stride[0] * line_bytes,
            "places_bytes": places_bytes,
            "steps": steps_of_look_ups(g),
            "step_at": _step_at(g, line_bytes, places_bytes),
            "weights": weights,
            "weight_group_bytes": weights.nbytes // g.groups,
            "vectors": _vectors(g),
            "lanes": lanes,
            "source": lane_of_channel(g, source, _vectors(g) * BYTES),
        }
        scratch = {
            # The last pixels have no neighbours, and the last pairs neither: any words are read as theirs.
            "words_at": g.groups * int(words["group_bytes"]) + 3 * g.stride[1] * 4 * g.words,
            "acts_at": g.groups * group_bytes + 2 * g.stride[1] * places_bytes,
            "sums_at": 2 * lanes * lines * 2 * _pairs(length),
            "counts_at": 4 * lanes * PIXELS_FINISHED,
        }
        return Operands(fields, {**scratch, **rows_of_pixels(g, g.groups * g.words)})


def _lines(g: Geometry, rows: int) -> tuple[int, int]:
    """So many output rows as lines of pixels with neighbours, and the length of a line."""
    return (1, rows * g.out_size[1]) if is_pointwise(g) else (rows, g.out_size[1])


def _pairs(length: int) -> int:
    """Pairs of pixels of a line, an even number of them."""
    return -(-length // 4) * 2


def _vectors(g: Geometry) -> int:
    """Vectors of filters of a group."""
    return -(-g.group_filters // BYTES)


def _step_at(g: Geometry, line_bytes: int, places_bytes: int) -> Array:
    """Where the place of each step lies from an output's first pixel on: int64 [steps]."""
    ky, kx, nibble = np.ogrid[: g.kernel[0], : g.kernel[1], : nibbles(g)]
    at = ky * g.dilation[0] * line_bytes + kx * g.dilation[1] * places_bytes + 2 * nibble
    return np.resize(at, steps_of_look_ups(g))


@compiled()
def _spread(j, words, pixels, places):  # type: ignore[no-untyped-def]
    """Places of so many pixels, and of the two outputs behind them, from their words."""
    for g in range(j.groups):
        at, to = words + g * j.group_bytes, places + g * j.places_group_bytes
        for w in range((pixels + 2 * j.stride_x) * j.words):
            put_places(at + 4 * w, at + 4 * w + j.stride_x * j.pixel_bytes, to + WORD_PLACES * w)


@compiled()
def _count(j, places, sums, lines, length, pairs):  # type: ignore[no-untyped-def]
    """Counts of `length` pixels in each line, with room for `pairs` pairs: int16 [lines, pairs, 2, lanes]."""
    pitch, pair_bytes = 2 * j.lanes, 2 * j.stride_x * j.places_bytes
    for g in range(j.groups):
        group = places + g * j.places_group_bytes
        for step in range(0, j.steps, STEPS_AT_ONCE):
            many, offsets = min(STEPS_AT_ONCE, j.steps - step), j.step_at + 8 * step
            weights, block, left = j.weights + g * j.weight_group_bytes, sums + g * 2 * BYTES * j.vectors, j.vectors
            while left > 0:
                vectors = min(4, left) if left != 3 else 2
                at = weights + BYTES * vectors * step
                for line in range(lines):
                    acts, to = group + line * j.places_line_bytes, block + line * pairs * 2 * pitch
                    if vectors == 4:
                        for pair in range((length + 1) // 2):
                            _four(acts + pair * pair_bytes, offsets, many, at, 0, to + pair * 2 * pitch, pitch, step)
                    for pair in range(0, pairs if vectors < 4 else 0, 2):
                        here, out = acts + pair * pair_bytes, to + pair * 2 * pitch
                        if vectors == 2:
                            _two(here, offsets, many, at, pair_bytes, out, pitch, step)
                        else:
                            _one(here, offsets, many, at, pair_bytes, out, pitch, step)
                weights, block = weights + BYTES * vectors * j.steps, block + 2 * BYTES * vectors
                left -= vectors


def _run(job, task, thread):  # type: ignore[no-untyped-def]
    j = carray(job, 1)[0]
    n, y0, rows, scratch = task_of(j, task, thread)
    words, acts, sums = scratch + j.words_at, scratch + j.acts_at, scratch + j.sums_at
    counts, row, flat = scratch + j.counts_at, scratch + j.row_at, scratch + j.flat_at
    fill(j, n, y0, rows, words, flat)
    _spread(j, words, ((rows - 1) * j.stride_y + j.span_y) * j.in_width, acts)
    lines, length = rows, j.out_width
    if j.is_pointwise:
        lines, length = 1, rows * j.out_width
    pairs = (length + 3) // 4 * 2
    _count(j, acts, sums, lines, length, pairs)
    for line in range(lines):
        for x in range(0, length, PIXELS_FINISHED):
            here = min(PIXELS_FINISHED, length - x)
            widen_counts(sums + 2 * j.lanes * (line * 2 * pairs + x), counts, here * j.lanes)
            finish(j, n, (y0 + line) * j.out_width + x, here, counts, row, flat)


FILTER_TABLES = FilterTables("filter_tables", Tasks(_run, JOB))
