"""The meaning of every kernel, in plain NumPy: XOR, popcount, add. Other back ends give the same integers.

A product of two -1/+1 vectors of length K packed in words is K - 2 popcount(a xor w): tail bits are 0 on both sides and
never differ.
"""

import numpy as np
from numpy.typing import NDArray

from bnas.errors import BnasError
from bnas.kernels.packing import Words, full_words, pack_channels, words_for

# Pixels whose products with all filters are formed at once: the temporaries then stay in the processor's cache.
PIXELS_AT_ONCE = 4096


def matmul(a_words: Words, w_words: Words, length: int) -> NDArray[np.int32]:
    """Packed [M, W] times packed [O, W] over K = `length` elements: int32 accumulators [M, O]."""
    check_matmul(a_words, w_words, length)
    rows, filters = len(a_words), len(w_words)
    weights = _as_long_words(w_words.T).reshape(-1, 1, filters)
    accumulators = np.empty((rows, filters), dtype=np.int32)
    for start in range(0, rows, PIXELS_AT_ONCE):
        some = _as_long_words(a_words[start : start + PIXELS_AT_ONCE].T)
        accumulators[start : start + PIXELS_AT_ONCE] = length - 2 * _differing(some[:, None, :], weights)[0].T
    return accumulators


def conv2d(
    bits: Words,
    weight_words: Words,
    *,
    channels: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> NDArray[np.int32]:
    """Convolve packed [N, H, W, groups, words] with packed [O, kh, kw, words]: int32 accumulators [N, Ho, Wo, O].

    `padding` is (top, left, bottom, right), a negative one crops. A padded tap counts as `pad_value` in every channel:
    0 adds nothing, +1 and -1 are values like any other. `BnasError` for shapes that do not fit each other.
    """
    check_conv2d(bits, weight_words, channels, groups, pad_value)
    filters, kh, kw, _ = weight_words.shape
    N, H, W = bits.shape[:3]
    Ho, Wo = conv2d_size((H, W), (kh, kw), stride, padding, dilation)
    taps = [(dy * dilation[0], dx * dilation[1]) for dy in range(kh) for dx in range(kw)]

    padded = _pad(bits, padding, full_words(channels // groups) if pad_value == 1 else np.uint32(0))
    by_group = weight_words.reshape(groups, filters // groups, kh * kw, -1).transpose(2, 3, 0, 1)
    weights = _as_long_words(by_group.reshape(-1, groups, filters // groups))

    accumulators = np.empty((N, Ho, Wo, filters), dtype=np.int32)
    length = kh * kw * channels // groups
    images_at_once = max(1, PIXELS_AT_ONCE // (Ho * Wo))
    rows_at_once = max(1, PIXELS_AT_ONCE // Wo)
    for n in range(0, N, images_at_once):
        images = padded[n : n + images_at_once]
        for y in range(0, Ho, rows_at_once):
            rows = min(rows_at_once, Ho - y)
            patches = _patches(images, y, rows, Wo, stride, taps)
            differing = _differing(_as_long_words(patches.reshape(len(patches), groups, -1)), weights)
            sums = (length - 2 * differing).reshape(filters, len(images), rows, Wo).transpose(1, 2, 3, 0)
            accumulators[n : n + images_at_once, y : y + rows] = sums
    if pad_value == 0 and max(padding) > 0:
        # A padded tap was counted as -1, as the clear bits that it is: take back what that added.
        accumulators -= _excess_of_padding(weight_words, channels // groups, (H, W), (Ho, Wo), stride, padding, taps)
    return accumulators


def threshold_pack(
    x: NDArray[np.float32], value: NDArray[np.float32], flip: NDArray[np.bool_], groups: int = 1
) -> Words:
    """Compare real x [N, C, H, W] with one threshold a channel, pack to words [N, H, W, groups, words].

    The bit is x >= value, where `flip` is set x <= value; so a tie is always +1, and a NaN -1.
    """
    check_threshold(x, value, flip, groups)
    t, flipped = value[:, None, None], flip[:, None, None]
    return pack_channels(np.where(flipped, x <= t, x >= t), groups)


def conv2d_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """(Ho, Wo) of a convolution; `BnasError` where the kernel does not fit into the padded input."""
    top, left, bottom, right = padding
    padded = (size[0] + top + bottom, size[1] + left + right)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if min(*stride, *dilation, *kernel) < 1:
        raise BnasError(f"kernel {kernel}, stride {stride} and dilation {dilation} must be at least 1")
    if padded[0] < spans[0] or padded[1] < spans[1]:
        raise BnasError(
            f"a kernel that spans {spans[0]} x {spans[1]} does not fit into {padded[0]} x {padded[1]} pixels"
        )
    return (padded[0] - spans[0]) // stride[0] + 1, (padded[1] - spans[1]) // stride[1] + 1


def check_matmul(a_words: Words, w_words: Words, length: int) -> None:
    """`BnasError` for operands that `matmul` does not take."""
    _check_words(a_words, "[M, words]", w_words, "[O, words]")
    if a_words.shape[1] != w_words.shape[1] or a_words.shape[1] != words_for(length):
        raise BnasError(
            f"a product over {length} elements needs rows of {words_for(length)} words; "
            f"the inputs have {a_words.shape[1]}, the weights {w_words.shape[1]}"
        )


def check_threshold(x: NDArray[np.float32], value: NDArray[np.float32], flip: NDArray[np.bool_], groups: int) -> None:
    """`BnasError` for operands that `threshold_pack` does not take."""
    if x.ndim != 4 or x.dtype != np.float32:
        raise BnasError(f"activations to pack are float32 [N, C, H, W]; found {x.dtype} {list(x.shape)}")
    channels = x.shape[1]
    as_many = value.shape == flip.shape == (channels,)
    if not as_many or value.dtype != np.float32 or flip.dtype != np.bool_:
        raise BnasError(
            f"{channels} channels need as many thresholds, float32, and flips, bool; "
            f"found {value.dtype} {list(value.shape)} and {flip.dtype} {list(flip.shape)}"
        )
    if groups < 1 or channels % groups:
        raise BnasError(f"{channels} channels do not divide into {groups} groups")


def _check_words(a: Words, a_shape: str, w: Words, w_shape: str) -> None:
    """`BnasError` unless both are words of as many dimensions as those shapes have."""
    for what, words, shape in (("inputs", a, a_shape), ("weights", w, w_shape)):
        if words.dtype != np.uint32 or words.ndim != shape.count(",") + 1:
            raise BnasError(f"packed {what} are uint32 {shape}; found {words.dtype} {list(words.shape)}")


def check_conv2d(bits: Words, weight_words: Words, channels: int, groups: int, pad_value: int) -> None:
    """`BnasError` for operands that `conv2d` does not take."""
    _check_words(bits, "[N, H, W, groups, words]", weight_words, "[O, kh, kw, words]")
    if groups < 1 or channels % groups or weight_words.shape[0] % groups:
        raise BnasError(f"{channels} channels and {weight_words.shape[0]} filters do not divide into {groups} groups")
    words = words_for(channels // groups)
    if bits.shape[3:] != (groups, words) or weight_words.shape[3] != words:
        raise BnasError(
            f"{channels} channels in {groups} groups need {groups} x {words} words a pixel and {words} a filter tap; "
            f"found {bits.shape[3]} x {bits.shape[4]} and {weight_words.shape[3]}"
        )
    if pad_value not in (-1, 0, 1):
        raise BnasError(f"pad_value {pad_value}: allowed are -1, 0 and 1")


def _pad(bits: Words, padding: tuple[int, int, int, int], fill: Words | np.uint32) -> Words:
    """[N, H, W, groups, words] with `fill` around every image; negative sides are cropped."""
    top, left, bottom, right = padding
    N, H, W = bits.shape[:3]
    padded = np.empty((N, H + top + bottom, W + left + right, *bits.shape[3:]), dtype=np.uint32)
    padded[...] = fill
    y, x = max(top, 0), max(left, 0)
    inner = bits[:, max(-top, 0) : H - max(-bottom, 0), max(-left, 0) : W - max(-right, 0)]
    padded[:, y : y + inner.shape[1], x : x + inner.shape[2]] = inner
    return padded


def _patches(
    images: Words, y: int, rows: int, columns: int, stride: tuple[int, int], taps: list[tuple[int, int]]
) -> Words:
    """What every tap sees in output rows [y, y + rows): words [taps * words, groups, N, rows, columns]."""
    down, right = stride
    seen = []
    for dy, dx in taps:
        top = y * down + dy
        tap = images[:, top : top + (rows - 1) * down + 1 : down, dx : dx + (columns - 1) * right + 1 : right]
        seen.append(tap.transpose(4, 3, 0, 1, 2))
    return np.concatenate(seen)


def _excess_of_padding(
    weight_words: Words,
    channels_per_group: int,
    size: tuple[int, int],
    out: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    taps: list[tuple[int, int]],
) -> NDArray[np.int32]:
    """What padded taps added to the accumulators when counted as -1, the negated sum of their weights: [Ho, Wo, O]."""
    filters, kh, kw, _ = weight_words.shape
    set_bits = np.bitwise_count(weight_words).sum(axis=3, dtype=np.int32).reshape(filters, kh * kw)
    # The sum of a tap's weights over the channels of its group.
    tap_sums = 2 * set_bits - channels_per_group
    outside = np.empty((len(taps), *out), dtype=np.bool_)
    for tap, (dy, dx) in enumerate(taps):
        y = np.arange(out[0]) * stride[0] + dy - padding[0]
        x = np.arange(out[1]) * stride[1] + dx - padding[1]
        outside[tap] = ((y < 0) | (y >= size[0]))[:, None] | ((x < 0) | (x >= size[1]))[None, :]
    # In float64, where BLAS is quick and these small integers are exact.
    excess = -np.tensordot(outside.astype(np.float64), tap_sums.astype(np.float64), axes=(0, 1))
    return excess.astype(np.int32)


def _as_long_words(words: Words) -> NDArray[np.uint64]:
    """[K, ...] of 32-bit words as [ceil(K / 2), ...] of 64 bits: half the work. Which two share one does not matter."""
    low: NDArray[np.uint64] = words[0::2].astype(np.uint64)
    high: NDArray[np.uint64] = words[1::2].astype(np.uint64)
    low[: len(high)] |= high << np.uint64(32)
    return low


def _differing(a: NDArray[np.uint64], w: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Differing bits of [K, groups, P] and [K, groups, O]: int32 [groups, O, P]."""
    total = np.zeros((a.shape[1], w.shape[2], a.shape[2]), dtype=np.int32)
    difference = np.empty(total.shape, dtype=np.uint64)
    count = np.empty(total.shape, dtype=np.uint8)
    for a_word, w_word in zip(a, w, strict=True):
        np.bitwise_xor(a_word[:, None, :], w_word[:, :, None], out=difference)
        np.bitwise_count(difference, out=count)
        total += count
    return total
