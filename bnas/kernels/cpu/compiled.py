"""The compiled binary convolution: operands of some rows, their counts, what follows. Told by a `JOB`.

A task makes `rows` output rows of one image. A matrix product is a convolution of M x 1 images by 1 x 1 kernels.
"""

import numpy as np
from numba import get_thread_id, prange

from bnas.kernels.cpu.jit import compiled
from bnas.kernels.cpu.micro import Tile, emit_popcount, emit_tables, inner_loop
from bnas.kernels.cpu.vectors import compare_word, number_at, put_long, put_word, store_real, store_sums, word_at

# Tiles whose sums, weights and tables fit the 16 (tables) or 32 (popcount) vector registers.
SEVEN_BY_ONE, ONE_BY_FOUR = Tile(7, 1), Tile(1, 4)
FIVE_BY_FOUR, SIX_BY_THREE, EIGHT_BY_TWO, EIGHT_BY_ONE = Tile(5, 4, True), Tile(6, 3), Tile(8, 2), Tile(8, 1)
SINGLE = Tile(1, 4, True)
MOST_PIXELS = 8

_words_7x1, _words_1x4 = inner_loop(SEVEN_BY_ONE, emit_popcount), inner_loop(ONE_BY_FOUR, emit_popcount)
_tables_5x4, _tables_1x4 = inner_loop(FIVE_BY_FOUR, emit_tables), inner_loop(SINGLE, emit_tables)
_tables_6x3 = inner_loop(SIX_BY_THREE, emit_tables)
_tables_8x2, _tables_8x1 = inner_loop(EIGHT_BY_TWO, emit_tables), inner_loop(EIGHT_BY_ONE, emit_tables)


@compiled()
def compare_several(x, thresholds, signs, count, comparisons, threshold_bytes):  # type: ignore[no-untyped-def]
    """`compare_word`, or the parity of such words for `comparisons` rows of thresholds, that many bytes apart."""
    word = compare_word(x, thresholds, signs, count)
    for k in range(1, comparisons):
        word ^= compare_word(x, thresholds + k * threshold_bytes, signs, count)
    return word


@compiled()
def compare_pixel(  # type: ignore[no-untyped-def]
    x, channels, thresholds, signs, comparisons, threshold_bytes, flat, groups, group_channels, words, out
):
    """Bits of one pixel, `channels` float32 at x, as words [groups, words] at `out`; `flat` is room for them ungrouped."""
    together = (channels + 31) // 32
    to = out if groups == 1 else flat
    for w in range(together):
        word = compare_several(
            x + 128 * w, thresholds + 128 * w, signs + 128 * w, channels - 32 * w, comparisons, threshold_bytes
        )
        put_word(to + 4 * w, word)
    if groups == 1:
        return
    put_word(flat + 4 * together, 0)
    for g in range(groups):
        for w in range(words):
            start = g * group_channels + 32 * w
            length = min(32, group_channels - 32 * w)
            at = flat + 4 * (start >> 5)
            both = word_at(at) | (word_at(at + 4) << 32)
            put_word(out + 4 * (g * words + w), (both >> (start & 31)) & ((1 << length) - 1))


@compiled()
def put_operand(word, to, expand):  # type: ignore[no-untyped-def]
    """A word as the inner loop reads it. `expand`: each 4 bits as a byte that holds the offset of their table."""
    if expand:
        # Byte i holds bits 4 i .. 4 i + 3, times 16. What lies beyond the channels is overwritten by the next pixel.
        spread = np.int64(word)
        spread = (spread | (spread << 16)) & 0x0000FFFF0000FFFF
        spread = (spread | (spread << 8)) & 0x00FF00FF00FF00FF
        spread = (spread | (spread << 4)) & 0x0F0F0F0F0F0F0F0F
        put_long(to, spread << 4)
    else:
        put_word(to, word)


@compiled()
def fill(j, n, y0, rows, acts, flat, expand):  # type: ignore[no-untyped-def]
    """The operands of output rows y0 .. y0 + rows at `acts`, a plane for each group, what is outside filled in."""
    here = flat + 4 * (j.channels // 32 + 2)
    to, step = acts, 8 if expand else 4
    in_place = j.x_is_real and j.groups == 1
    for row in range((rows - 1) * j.stride_y + j.span_y):
        y = y0 * j.stride_y + row - j.top
        for column in range(j.in_width):
            x = column - j.left
            inside = 0 <= y < j.height and 0 <= x < j.width
            at = j.x + ((n * j.height + y) * j.width + x) * j.x_pixel
            if inside and in_place:
                for w in range(j.words):
                    word = compare_several(
                        at + 128 * w, j.thresholds + 128 * w, j.signs + 128 * w, j.channels - 32 * w,
                        j.comparisons, j.threshold_bytes,
                    )  # fmt: skip
                    put_operand(word, to + step * w, expand)
            else:
                words = at
                if not inside:
                    words = j.pad_words
                elif j.x_is_real:
                    words = here
                    compare_pixel(
                        at, j.channels, j.thresholds, j.signs, j.comparisons, j.threshold_bytes, flat, j.groups,
                        j.group_channels, j.words, here,
                    )  # fmt: skip
                for g in range(j.groups):
                    for w in range(j.words):
                        put_operand(word_at(words + 4 * (g * j.words + w)), to + g * j.group_bytes + step * w, expand)
            to += j.pixel_bytes


@compiled()
def count_words(j, acts, counts, pixels):  # type: ignore[no-untyped-def]
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
                    _words_1x4(operands, where, j.segments, j.segment_count, weights, to, j.lanes, 0)
                else:
                    _words_7x1(operands, where, j.segments, j.segment_count, weights, to, j.lanes, 0)
            if some:
                many = 4
            block += many


@compiled()
def count_tables(j, acts, counts, pixels):  # type: ignore[no-untyped-def]
    for g in range(j.groups):
        operands, group_weights = acts + g * j.group_bytes, j.weights + g * j.weight_group_bytes
        out, block = counts + 64 * g * j.blocks, 0
        step_bytes = j.weight_group_bytes // j.blocks
        while block < j.blocks:
            weights = group_weights + block * step_bytes
            many = min(4, j.blocks - block)
            to, where = out + 64 * block, j.pixels
            if many == 4 and pixels < 4:
                for p in range(pixels):
                    _tables_1x4(
                        operands,
                        where + 8 * p,
                        j.segments,
                        j.segment_count,
                        weights,
                        to + 4 * p * j.lanes,
                        j.lanes,
                        j.tables,
                    )
            elif many == 4:
                for p in range(0, pixels, 5):
                    _tables_5x4(
                        operands,
                        where + 8 * p,
                        j.segments,
                        j.segment_count,
                        weights,
                        to + 4 * p * j.lanes,
                        j.lanes,
                        j.tables,
                    )
            elif many == 3:
                for p in range(0, pixels, 6):
                    _tables_6x3(
                        operands,
                        where + 8 * p,
                        j.segments,
                        j.segment_count,
                        weights,
                        to + 4 * p * j.lanes,
                        j.lanes,
                        j.tables,
                    )
            elif many == 2:
                for p in range(0, pixels, 8):
                    _tables_8x2(
                        operands,
                        where + 8 * p,
                        j.segments,
                        j.segment_count,
                        weights,
                        to + 4 * p * j.lanes,
                        j.lanes,
                        j.tables,
                    )
            else:
                for p in range(0, pixels, 8):
                    _tables_8x1(
                        operands,
                        where + 8 * p,
                        j.segments,
                        j.segment_count,
                        weights,
                        to + 4 * p * j.lanes,
                        j.lanes,
                        j.tables,
                    )
            block += many


@compiled()
def finish(j, n, y0, rows, counts, row, flat):  # type: ignore[no-untyped-def]
    """From counts to what is wanted: sums, or real values and bits."""
    real_row = row + 4 * (j.filters + 16)
    for y in range(y0, y0 + rows):
        row_class = number_at(j.row_class + 8 * y)
        for x in range(j.out_width):
            p = (n * j.out_height + y) * j.out_width + x
            base = j.base + (row_class * j.column_classes + number_at(j.column_class + 8 * x)) * j.base_bytes
            here = counts + 4 * j.lanes * ((y - y0) * j.out_width + x)
            if j.source:
                for o in range(j.filters):
                    put_word(row + 4 * o, word_at(here + 4 * number_at(j.source + 8 * o)))
                here = row
            out = j.out + p * j.out_pixel
            if j.wants_sums:
                for o in range(0, j.filters, 16):
                    store_sums(here + 4 * o, base + 4 * o, out + 4 * o, j.filters - o)
                continue
            if not j.out:
                out = real_row
            for o in range(0, j.filters, 16):
                store_real(
                    here + 4 * o, base + 4 * o, j.parameters + 4 * o, j.parameter_bytes, j.added, j.added_count, p,
                    4 * o, out + 4 * o, j.filters - o,
                )  # fmt: skip
            if j.bits:
                compare_pixel(
                    out, j.filters, j.bits_thresholds, j.bits_signs, j.bits_comparisons, j.bits_threshold_bytes, flat,
                    j.bits_groups, j.bits_group_channels, j.bits_words, j.bits + 4 * p * j.bits_groups * j.bits_words,
                )  # fmt: skip


@compiled()
def run_task(j, task, thread, tables):  # type: ignore[no-untyped-def]
    """Make rows `task` of all; `thread` owns a part of the scratch memory; `tables`: which inner loop."""
    chunks = (j.out_height + j.rows - 1) // j.rows
    n, y0 = task // chunks, task % chunks * j.rows
    rows = min(j.rows, j.out_height - y0)
    acts = j.scratch + thread * j.scratch_bytes
    counts, row, flat = acts + j.counts_at, acts + j.row_at, acts + j.flat_at
    fill(j, n, y0, rows, acts, flat, tables)
    return n, y0, rows, acts, counts, row, flat


@compiled()
def words_serial(job, tasks):  # type: ignore[no-untyped-def]
    j = job[0]
    for task in range(tasks):
        n, y0, rows, acts, counts, row, flat = run_task(j, task, 0, False)
        count_words(j, acts, counts, rows * j.out_width)
        finish(j, n, y0, rows, counts, row, flat)


@compiled()
def tables_serial(job, tasks):  # type: ignore[no-untyped-def]
    j = job[0]
    for task in range(tasks):
        n, y0, rows, acts, counts, row, flat = run_task(j, task, 0, True)
        count_tables(j, acts, counts, rows * j.out_width)
        finish(j, n, y0, rows, counts, row, flat)


@compiled(parallel=True)
def words_parallel(job, tasks):  # type: ignore[no-untyped-def]
    for task in prange(tasks):
        j = job[0]
        n, y0, rows, acts, counts, row, flat = run_task(j, task, get_thread_id(), False)
        count_words(j, acts, counts, rows * j.out_width)
        finish(j, n, y0, rows, counts, row, flat)


@compiled(parallel=True)
def tables_parallel(job, tasks):  # type: ignore[no-untyped-def]
    for task in prange(tasks):
        j = job[0]
        n, y0, rows, acts, counts, row, flat = run_task(j, task, get_thread_id(), True)
        count_tables(j, acts, counts, rows * j.out_width)
        finish(j, n, y0, rows, counts, row, flat)
