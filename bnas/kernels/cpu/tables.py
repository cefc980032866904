"""The compiled binary convolution by table look-ups, whose vectors hold pixels. Told by a `JOB`.

A task's operands are *planes*: a byte for each of its output pixels, row by row, holding 4 channels' bits of what one column
of the kernel sees; in it, the taps of that column are rows apart. So every tap of 64 pixels is 64 bytes that lie together.
"""

from numba import get_thread_id, prange

from bnas.kernels.cpu.compiled import finish, task_of
from bnas.kernels.cpu.jit import compiled
from bnas.kernels.cpu.micro import BYTES, STEPS_AT_ONCE, Tile, emit_tables, inner_loop
from bnas.kernels.cpu.turned import compare_line, put_8_nibbles, put_16_nibbles, put_32_nibbles, turn_counts
from bnas.kernels.cpu.vectors import number_at, put_word, word_at

# Tiles whose sums and pixels fit 16 vector registers.
SIX, FOUR = Tile(2, 6), Tile(2, 4)
PIXELS = SIX.pixels * BYTES

_six, _four = inner_loop(SIX, emit_tables), inner_loop(FOUR, emit_tables)


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
                j.channels - 32 * w, -1 if k else 0, to + w * j.word_bytes,
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
    for phase in range(j.stride_x):
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
def _fill(j, n, y0, rows, acts, words):  # type: ignore[no-untyped-def]
    """The planes of output rows y0 .. y0 + rows at `acts`, a plane for each 4 channels and column of the kernel."""
    lines, length, pixels = (rows - 1) * j.stride_y + j.span_y, j.out_width, j.in_width
    if j.is_pointwise:
        # Rows lie together, and are one.
        lines, length, pixels = 1, rows * j.out_width, rows * j.out_width
    for line in range(lines):
        y = y0 * j.stride_y + line - j.top
        _line_of_words(j, j.x + (n * j.height + y) * j.width * j.x_pixel, 0 <= y < j.height, pixels, words)
        row = acts + line % j.stride_y * j.class_bytes + line // j.stride_y * j.out_width
        for nibble in range(j.nibbles):
            about = j.nibble_at + 32 * nibble
            shift, mask, back = number_at(about + 8), number_at(about + 16), number_at(about + 24)
            for kx in range(j.kernel_width):
                column = kx * j.dilation_x
                of = words + number_at(about) + column % j.stride_x * j.phase_bytes + 4 * (column // j.stride_x)
                to = row + (nibble * j.kernel_width + kx) * j.plane_bytes
                # The bytes written at a time may reach into the next row, which is written later.
                if length <= 8:
                    put_8_nibbles(of, shift, mask, of + j.word_bytes, back, to)
                elif length <= 16:
                    put_16_nibbles(of, shift, mask, of + j.word_bytes, back, to)
                else:
                    for x in range(0, length, BYTES):
                        put_32_nibbles(of + 4 * x, shift, mask, of + j.word_bytes + 4 * x, back, to + x)


@compiled()
def _count(j, planes, sums):  # type: ignore[no-untyped-def]
    """Counts of 64 pixels, int16 [groups, filters of a group and fillers, 64]."""
    for g in range(j.groups):
        acts, group_weights = planes + g * j.group_bytes, j.weights + g * j.weight_group_bytes
        for step in range(0, j.steps, STEPS_AT_ONCE):
            many = min(STEPS_AT_ONCE, j.steps - step)
            to, weights, offsets = sums + g * j.group_sums_bytes, group_weights, j.step_at + 8 * step
            for _ in range(j.sixes):
                _six(acts, offsets, many, weights + 6 * step, j.tables, to, step)
                to, weights = to + 6 * 2 * PIXELS, weights + 6 * j.steps
            for _ in range(j.fours):
                _four(acts, offsets, many, weights + 4 * step, j.tables, to, step)
                to, weights = to + 4 * 2 * PIXELS, weights + 4 * j.steps


@compiled()
def _run(j, task, thread):  # type: ignore[no-untyped-def]
    n, y0, rows, scratch = task_of(j, task, thread)
    acts, sums, counts = scratch + j.acts_at, scratch + j.sums_at, scratch + j.counts_at
    row, flat = scratch + j.row_at, scratch + j.flat_at
    _fill(j, n, y0, rows, acts, scratch + j.words_at)
    pixels = rows * j.out_width
    for first in range(0, pixels, PIXELS):
        _count(j, acts + first, sums)
        for o in range(0, j.lanes, 8):
            for p in range(0, PIXELS, 16):
                turn_counts(sums + 2 * p, j.order + 8 * o, counts + 4 * (p * j.lanes + o), 4 * j.lanes)
        finish(j, n, y0 * j.out_width + first, min(PIXELS, pixels - first), counts, row, flat)


@compiled()
def serial(job, tasks):  # type: ignore[no-untyped-def]
    for task in range(tasks):
        _run(job[0], task, 0)


@compiled(parallel=True)
def parallel(job, tasks):  # type: ignore[no-untyped-def]
    for task in prange(tasks):
        _run(job[0], task, get_thread_id())
