"""The binary convolution by table look-ups, whose vectors hold pixels.

A task's operands are *planes*: a byte for each of its output pixels, row by row, holding 4 channels' bits of what one column
of the kernel sees; in it, the taps of that column are rows apart. So every tap of 32 pixels is 32 bytes that lie together.
"""

import numpy as np
from numba import carray

from bnas.kernels.cpu.compiled import finish, task_of
from bnas.kernels.cpu.jit import Tasks, compiled
from bnas.kernels.cpu.job import JOB
from bnas.kernels.cpu.micro import (
    BYTES,
    FOUR,
    LANES,
    NO_TABLE,
    ONE,
    STEPS_AT_ONCE,
    TABLE_BYTES,
    TWO,
    emit_tables,
    look_ups,
)
from bnas.kernels.cpu.operands import (
    MOST_COUNTED,
    PIXELS_FINISHED,
    Array,
    Form,
    Operands,
    aligned,
    columns_read,
    is_pointwise,
    look_up_time,
    nibbles,
    nibbles_of_weights,
    out_pixels,
    pad_words,
    rows_of_pixels,
    rows_of_task,
    rows_read,
    steps_of_look_ups,
)
from bnas.kernels.cpu.turned import compare_line, copy_bytes, put_16_nibbles, put_32_nibbles, turn_counts
from bnas.kernels.cpu.vectors import number_at, put_word, word_at
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import WORD_BITS, Words, words_for

PIXELS = FOUR.vectors * BYTES

_four, _two, _one = (look_ups(tile, emit_tables) for tile in (FOUR, TWO, ONE))


class Tables(Form):
    """Look-ups of 4 bits; 32 pixels are a vector, two filters a table."""

    def cost(self, g: Geometry, features: frozenset[str]) -> float:
        if g.length > MOST_COUNTED:
            return np.inf
        counted = look_up_time(g, g.groups * _pairs(g), -(-out_pixels(g) // BYTES))
        lines, length = (1, out_pixels(g)) if is_pointwise(g) else (rows_read(g, g.out_size[0]), g.out_size[1])
        line_step, phases = _seen(g)
        planes = lines / line_step * -(-length // BYTES) * g.groups * nibbles(g) * g.kernel[1] * (1 + phases) / 2
        values = g.height / line_step * g.width / g.stride[1] * phases * g.channels
        # Measured: vectors of planes, values compared, counts turned.
        return counted + 3.3 * planes + 0.1 * values + 0.1 * out_pixels(g) * g.filters

    def lay_out(self, weight_words: Words, g: Geometry, few_pixels: bool) -> Array:
        """For every two filters the places of their tables, int16 [groups, pairs, steps]."""
        of_filters = nibbles_of_weights(weight_words, g).astype(np.int16)
        pairs = np.zeros((g.groups, 2 * _pairs(g), of_filters.shape[2]), dtype=np.int16)
        pairs[:, : g.group_filters] = of_filters
        places = np.full((g.groups, _pairs(g), steps_of_look_ups(g)), NO_TABLE, dtype=np.int16)
        places[..., : pairs.shape[2]] = TABLE_BYTES * (pairs[:, 0::2] + 16 * pairs[:, 1::2])
        return aligned(places)

    def operands(self, g: Geometry, weights: Array, *, threads: int, source: Array, is_real: bool) -> Operands:
        lanes, width, pointwise = -(-g.filters // LANES) * LANES, g.out_size[1], is_pointwise(g)
        planes = g.groups * nibbles(g) * g.kernel[1]
        rows = rows_of_task(g, planes * width, threads)
        line_step, phases = _seen(g)
        # Rows of an image lie by their remainder, so that taps of consecutive outputs do in spite of strides.
        class_bytes = -(-rows_read(g, rows) // g.stride[0]) * width + BYTES
        # An odd number of cache lines: what one pixel's taps read does not compete for the same places in the cache.
        plane_bytes = -(-g.stride[0] * class_bytes // 128) * 128 + 64
        group, place = np.divmod(source, g.group_filters)
        order = np.zeros(lanes, dtype=np.int64)
        order[: g.filters] = 2 * PIXELS * (2 * group * _pairs(g) + place)
        # Real values are compared without a look at groups.
        bit_groups = 1 if is_real else g.groups
        pixel_words = bit_groups * words_for(g.channels // bit_groups)
        pixels = rows * width if pointwise else columns_read(g)
        # Whole vectors of them are written, and from any byte on are read.
        bits_bytes = -(-pixels // g.stride[1]) + 2 * BYTES
        phase_bytes = 4 * bits_bytes
        place, phase = np.divmod(np.arange(g.kernel[1]) * g.dilation[1], g.stride[1])
        group_sums_bytes = 2 * _pairs(g) * 2 * PIXELS
        fields: dict[str, int | Array] = {
            "rows": rows,
            "pad_words": pad_words(g, bit_groups),
            "is_pointwise": int(pointwise),
            "pixel_words": pixel_words,
            "phase_bytes": phase_bytes,
            "word_bytes": phase_bytes * g.stride[1],
            "nibbles": g.groups * nibbles(g),
            "bits_bytes": bits_bytes,
            "nibble_at": _nibble_at(g, bit_groups, phase_bytes * g.stride[1]),
            "line_step": line_step,
            "phases": phases,
            "kernel_width": g.kernel[1],
            "column_at": phase * bits_bytes + place,
            "class_bytes": class_bytes,
            "plane_bytes": plane_bytes,
            "group_bytes": nibbles(g) * g.kernel[1] * plane_bytes,
            "steps": steps_of_look_ups(g),
            "step_at": _step_at(g, plane_bytes, class_bytes, width),
            "weights": weights,
            "weight_group_bytes": weights.nbytes // g.groups,
            "pairs": _pairs(g),
            "group_sums_bytes": group_sums_bytes,
            "order": order,
            "lanes": lanes,
        }
        scratch = {
            "acts_at": planes * plane_bytes + PIXELS,
            "sums_at": g.groups * group_sums_bytes,
            "counts_at": 4 * lanes * PIXELS_FINISHED,
            "words_at": pixel_words * phase_bytes * g.stride[1],
            "bits_at": g.groups * nibbles(g) * g.stride[1] * bits_bytes if g.kernel[1] > 1 else 0,
        }
        return Operands(fields, {**scratch, **rows_of_pixels(g, 0)})


def _pairs(g: Geometry) -> int:
    """Pairs of filters of a group, an even number of them."""
    return -(-g.group_filters // 4) * 2


def _seen(g: Geometry) -> tuple[int, int]:
    """Each how many-th line is seen, and how many of `stride` pixels in it: a kernel of one row or column sees no others."""
    return g.stride[0] if g.kernel[0] == 1 else 1, g.stride[1] if g.kernel[1] > 1 else 1


def _nibble_at(g: Geometry, bit_groups: int, word_bytes: int) -> Array:
    """Where 4 channels lie in the words of a line, int64 [groups x nibbles, 4].

    Bytes of the word; bit; which of 4 bits are channels of the group; by how much those of the next word move, or 0.
    """
    group, place = np.divmod(np.arange(g.groups * nibbles(g)), nibbles(g))
    bit = 4 * place + group * (g.group_channels if bit_groups == 1 else WORD_BITS * g.words)
    word, shift = np.divmod(bit, WORD_BITS)
    length = np.minimum(4, g.group_channels - 4 * place)
    back = np.where(shift + length > WORD_BITS, WORD_BITS - shift, 0)
    return np.stack([word * word_bytes, shift, (1 << length) - 1, back], axis=1)


def _step_at(g: Geometry, plane_bytes: int, class_bytes: int, row_bytes: int) -> Array:
    """Where the bytes of each step lie in the planes of a group: int64 [steps]."""
    ky, kx, nibble = np.ogrid[: g.kernel[0], : g.kernel[1], : nibbles(g)]
    row, remainder = np.divmod(ky * g.dilation[0], g.stride[0])
    at = (nibble * g.kernel[1] + kx) * plane_bytes + remainder * class_bytes + row * row_bytes
    return np.resize(at, steps_of_look_ups(g))


@compiled()
def _copy(j, pixel, step, count, to):  # type: ignore[no-untyped-def]
    """Words of `count` pixels, from `pixel` on `step` bytes apart, to lines of words."""
    for w in range(j.pixel_words):
        for i in range(count):
            put_word(to + w * j.word_bytes + 4 * i, word_at(pixel + i * step + 4 * w))


@compiled()
def _compare(j, pixel, step, count, to):  # type: ignore[no-untyped-def]
    """The same of real pixels."""
    for w in range(j.pixel_words):
        for k in range(j.comparisons):
            compare_line(
                pixel + 128 * w, step, count, j.thresholds + k * j.threshold_bytes + 128 * w, j.signs + 128 * w,
                j.channels - 32 * w, -1 if k else 0, to + w * j.word_bytes, 4,
            )  # fmt: skip


@compiled()
def _line_of_words(j, at, inside, pixels, words):  # type: ignore[no-untyped-def]
    """Bits of `pixels` pixels in a line, the image's first at `at`, word by word: at `words`, [words][stride_x][pixels].

    What is left of the image, right of it, or all of it where the line is not `inside`, is filled in.
    """
    first, end = 0, 0
    if inside and j.is_pointwise:
        end = pixels
    elif inside:
        first, end = min(pixels, max(0, j.left)), max(0, min(pixels, j.left + j.width))
    step = j.stride_x * j.x_pixel
    for phase in range(j.phases):
        # Of the pixels phase, phase + stride_x, ...: how many lie before `first`, before `end`, and in all.
        left, right, all_of_them = (
            max(0, (first - phase + j.stride_x - 1) // j.stride_x),
            max(0, (end - phase + j.stride_x - 1) // j.stride_x),
            (pixels - phase + j.stride_x - 1) // j.stride_x,
        )
        right = max(left, right)
        to, pixel = words + phase * j.phase_bytes, at + (left * j.stride_x + phase - j.left) * j.x_pixel
        _copy(j, j.pad_words, 0, left, to)
        if j.x_is_real:
            _compare(j, pixel, step, right - left, to + 4 * left)
        else:
            _copy(j, pixel, step, right - left, to + 4 * left)
        _copy(j, j.pad_words, 0, all_of_them - right, to + 4 * right)


@compiled()
def _fill(j, n, y0, rows, acts, words, bits):  # type: ignore[no-untyped-def]
    """The planes of output rows y0 .. y0 + rows at `acts`, a plane for each 4 channels and column of the kernel.

    Words of a line, then 4 bits of each pixel as its bytes [nibbles][stride_x][pixels], are on their way; where a kernel has
    one column, these are the planes.
    """
    lines, length, pixels = (rows - 1) * j.stride_y + j.span_y, j.out_width, j.in_width
    if j.is_pointwise:
        # Rows lie together, and are one.
        lines, length, pixels = 1, rows * j.out_width, rows * j.out_width
    for line in range(0, lines, j.line_step):
        y = y0 * j.stride_y + line - j.top
        _line_of_words(j, j.x + (n * j.height + y) * j.width * j.x_pixel, 0 <= y < j.height, pixels, words)
        row = acts + line % j.stride_y * j.class_bytes + line // j.stride_y * j.out_width
        for nibble in range(j.nibbles):
            about = j.nibble_at + 32 * nibble
            shift, mask, back = number_at(about + 8), number_at(about + 16), number_at(about + 24)
            of, to = words + number_at(about), bits + nibble * j.stride_x * j.bits_bytes
            if j.kernel_width == 1:
                to = row + nibble * j.plane_bytes
            for _ in range(j.phases):
                if pixels <= 16:
                    put_16_nibbles(of, shift, mask, of + j.word_bytes, back, to)
                else:
                    for x in range(0, (pixels + j.stride_x - 1) // j.stride_x, BYTES):
                        put_32_nibbles(of + 4 * x, shift, mask, of + j.word_bytes + 4 * x, back, to + x)
                of, to = of + j.phase_bytes, to + j.bits_bytes
        for kx in range(j.kernel_width if j.kernel_width > 1 else 0):
            of, to = bits + number_at(j.column_at + 8 * kx), row + kx * j.plane_bytes
            for _ in range(j.nibbles):
                # The bytes copied at a time may reach into the next row, which is written later.
                for x in range(0, length, BYTES):
                    copy_bytes(of + x, to + x)
                of, to = of + j.stride_x * j.bits_bytes, to + j.kernel_width * j.plane_bytes


@compiled()
def _count(j, planes, sums, vectors):  # type: ignore[no-untyped-def]
    """Counts of so many vectors of pixels, int16 [groups, two filters of each pair, 128]."""
    pitch = 2 * PIXELS
    for g in range(j.groups):
        acts, group_weights = planes + g * j.group_bytes, j.weights + g * j.weight_group_bytes
        for step in range(0, j.steps, STEPS_AT_ONCE):
            many = min(STEPS_AT_ONCE, j.steps - step)
            to, weights, offsets = sums + g * j.group_sums_bytes, group_weights + 2 * step, j.step_at + 8 * step
            for _ in range(0, j.pairs, 2):
                at = 0
                if vectors == 4:
                    _four(acts, offsets, many, weights, 0, to, pitch, step)
                    _four(acts, offsets, many, weights + 2 * j.steps, 0, to + 2 * pitch, pitch, step)
                if vectors & 2:
                    _two(acts, offsets, many, weights, 2 * j.steps, to, pitch, step)
                    at = 2 * BYTES
                if vectors & 1:
                    _one(acts + at, offsets, many, weights, 2 * j.steps, to + 2 * at, pitch, step)
                to, weights = to + 4 * pitch, weights + 4 * j.steps


def _run(job, task, thread):  # type: ignore[no-untyped-def]
    j = carray(job, 1)[0]
    n, y0, rows, scratch = task_of(j, task, thread)
    acts, sums, counts = scratch + j.acts_at, scratch + j.sums_at, scratch + j.counts_at
    row, flat = scratch + j.row_at, scratch + j.flat_at
    _fill(j, n, y0, rows, acts, scratch + j.words_at, scratch + j.bits_at)
    pixels = rows * j.out_width
    for first in range(0, pixels, PIXELS):
        here = min(PIXELS, pixels - first)
        _count(j, acts + first, sums, (here + BYTES - 1) // BYTES)
        for p in range(0, here, PIXELS_FINISHED):
            for o in range(0, j.lanes, 8):
                turn_counts(sums + 2 * p, j.order + 8 * o, counts + 4 * o, 4 * j.lanes)
            finish(j, n, y0 * j.out_width + first + p, min(PIXELS_FINISHED, here - p), counts, row, flat)


TABLES = Tables("tables", Tasks(_run, JOB))
