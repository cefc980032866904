"""The compiled binary convolution but for its inner loops: comparisons, operands, what follows. Told by a `JOB`.

A task makes `rows` output rows of one image: operands, their counts, what follows. A matrix product is a convolution of
M x 1 images by 1 x 1 kernels.
"""

from bnas.kernels.cpu.jit import compiled
from bnas.kernels.cpu.turned import compare_line
from bnas.kernels.cpu.vectors import compare_word, number_at, put_word, store_reals, store_sums, word_at


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
def _put_pixels(j, words, step, count, to):  # type: ignore[no-untyped-def]
    """Words of `count` pixels, from `words` on `step` bytes apart."""
    for i in range(count):
        for g in range(j.groups):
            for w in range(j.words):
                word = word_at(words + i * step + 4 * (g * j.words + w))
                put_word(to + i * j.pixel_bytes + g * j.group_bytes + 4 * w, word)


@compiled()
def _compare_pixels(j, pixel, count, to, flat):  # type: ignore[no-untyped-def]
    """The same of real pixels."""
    if j.groups > 1:
        here = flat + 4 * (j.channels // 32 + 2)
        for i in range(count):
            compare_pixel(
                pixel + i * j.x_pixel, j.channels, j.thresholds, j.signs, j.comparisons, j.threshold_bytes, flat,
                j.groups, j.group_channels, j.words, here,
            )  # fmt: skip
            _put_pixels(j, here, 0, 1, to + i * j.pixel_bytes)
        return
    for w in range(j.words):
        for k in range(j.comparisons):
            compare_line(
                pixel + 128 * w, j.x_pixel, count, j.thresholds + k * j.threshold_bytes + 128 * w, j.signs + 128 * w,
                j.channels - 32 * w, -1 if k else 0, to + 4 * w, j.pixel_bytes,
            )  # fmt: skip


@compiled()
def fill(j, n, y0, rows, acts, flat):  # type: ignore[no-untyped-def]
    """Words of the pixels that output rows y0 .. y0 + rows see, a plane for each group, what is outside filled in."""
    for row in range((rows - 1) * j.stride_y + j.span_y):
        y = y0 * j.stride_y + row - j.top
        # The pixels before `first`, and from `end` on, lie outside.
        first, end = 0, 0
        if 0 <= y < j.height:
            first = min(j.in_width, max(0, j.left))
            end = max(first, min(j.in_width, j.left + j.width))
        to = acts + row * j.in_width * j.pixel_bytes
        inside, pixel = to + first * j.pixel_bytes, j.x + ((n * j.height + y) * j.width + first - j.left) * j.x_pixel
        _put_pixels(j, j.pad_words, 0, first, to)
        if j.x_is_real:
            _compare_pixels(j, pixel, end - first, inside, flat)
        else:
            _put_pixels(j, pixel, j.x_pixel, end - first, inside)
        _put_pixels(j, j.pad_words, 0, j.in_width - end, to + end * j.pixel_bytes)


@compiled()
def finish(j, n, start, pixels, counts, rows, flat):  # type: ignore[no-untyped-def]
    """From counts to what is wanted of `pixels` outputs of an image, 16 at most, from `start` on: sums, or reals and bits."""
    p, count_step, row_step = n * j.out_height * j.out_width + start, 4 * j.lanes, 4 * (j.filters + 16)
    base_of, base_of_step = j.base_of + 8 * start * j.has_border, 8 * j.has_border
    if j.source:
        for i in range(pixels):
            for o in range(j.filters):
                put_word(
                    rows + i * row_step + 4 * o, word_at(counts + i * count_step + 4 * number_at(j.source + 8 * o))
                )
        counts, count_step, rows = rows, row_step, rows + pixels * row_step
    out, out_step = j.out + p * j.out_pixel, j.out_pixel
    if j.wants_sums:
        for i in range(pixels):
            base = j.base + number_at(base_of + i * base_of_step)
            for o in range(0, j.filters, 16):
                store_sums(counts + i * count_step + 4 * o, base + 4 * o, out + i * out_step + 4 * o, j.filters - o)
        return
    if not j.out:
        out, out_step = rows, row_step
    for o in range(0, j.filters, 16):
        store_reals(
            counts + 4 * o, count_step, j.base + 4 * o, base_of, base_of_step, j.parameters + 4 * o, j.parameter_bytes,
            j.follows, j.added, j.added_count, p, pixels, 4 * o, out + 4 * o, out_step, j.filters - o,
        )  # fmt: skip
    if j.bits:
        for i in range(pixels):
            compare_pixel(
                out + i * out_step, j.filters, j.bits_thresholds, j.bits_signs, j.bits_comparisons,
                j.bits_threshold_bytes, flat, j.bits_groups, j.bits_group_channels, j.bits_words,
                j.bits + 4 * (p + i) * j.bits_groups * j.bits_words,
            )  # fmt: skip


@compiled()
def task_of(j, task, thread):  # type: ignore[no-untyped-def]
    """Its image, first row and number of rows; the scratch memory of `thread`."""
    chunks = (j.out_height + j.rows - 1) // j.rows
    n, y0 = task // chunks, task % chunks * j.rows
    return n, y0, min(j.rows, j.out_height - y0), j.scratch + thread * j.scratch_bytes
