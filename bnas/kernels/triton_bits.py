"""Device functions that the Triton kernels share: popcount, what a filter's taps see, and the store of finished sums."""

import triton
import triton.language as tl

# What happens to the integer sums when they are stored.
SUMS = tl.constexpr(0)  # int32
SCALED = tl.constexpr(1)  # float32, times one scale a filter
BITS = tl.constexpr(2)  # packed words: scaled, then compared with one threshold a filter


@triton.jit
def popcount(v):
    """Set bits of uint32: the parallel sum. LLVM knows the pattern and emits popc.b32; the interpreter runs it as it is."""
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F
    return ((v * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def corners(m, M, Ho, Wo, STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr):
    """Image, first row and first column that output pixels m see; a pixel beyond M sees rows far outside of any image."""
    image = m // (Ho * Wo)
    y = (m // Wo) % Ho * STRIDE_Y - TOP
    x = m % Wo * STRIDE_X - LEFT
    return image, tl.where(m < M, y, -(2**30)), x


@triton.jit
def is_inside(y, x, H, W):
    return (y >= 0) & (y < H) & (x >= 0) & (x < W)


@triton.jit
def patch_words(
    bits, image, top, left, k, group, H, W,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WORDS: tl.constexpr, TAPS: tl.constexpr, KW: tl.constexpr,
    DIL_Y: tl.constexpr, DIL_X: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """Words number k (tap major) of the patches at (image, top, left), and which of them count: [pixels, len(k)] both.

    A tap outside of the image does not count where PAD is 0; else it counts, and holds PAD in every channel.
    """
    tap = k // WORDS
    word = k % WORDS
    y = top[:, None] + (tap // KW * DIL_Y)[None, :]
    x = left[:, None] + (tap % KW * DIL_X)[None, :]
    exists = (k < TAPS * WORDS)[None, :]
    inside = is_inside(y, x, H, W) & exists
    place = ((image[:, None] * H + y) * W + x) * (GROUPS * WORDS) + group * WORDS + word[None, :]
    words = tl.load(bits + place, mask=inside, other=0)
    if PAD == 0:
        return words.to(tl.uint32, bitcast=True), inside
    if PAD == 1:
        # Tail bits stay clear, whatever the padding.
        full = tl.where(word == WORDS - 1, -1 if CHANNELS % 32 == 0 else (1 << CHANNELS % 32) - 1, -1)
        words = tl.where(inside | ~exists, words, full[None, :])
    return words.to(tl.uint32, bitcast=True), exists & (top > -(2**29))[:, None]


@triton.jit
def counted_taps(
    top, left, H, W, TAPS: tl.constexpr, KW: tl.constexpr, DIL_Y: tl.constexpr, DIL_X: tl.constexpr, PAD: tl.constexpr
):
    """How many taps of each patch count."""
    counted = tl.zeros_like(top)
    if PAD == 0:
        for tap in range(TAPS):
            counted += is_inside(top + tap // KW * DIL_Y, left + tap % KW * DIL_X, H, W).to(tl.int32)
    else:
        counted += TAPS
    return counted


@triton.jit
def store(
    sums, out, scale, value, flip, m, o, M, group, group_filters,
    GROUPS: tl.constexpr, EPILOGUE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write sums [BM, BN] of pixels m and filters o of one group as EPILOGUE says; rows of `out` hold all filters."""
    real = (m < M)[:, None] & (o < group_filters)[None, :]
    filters = group * group_filters + o
    row = m[:, None] * (GROUPS * group_filters)
    if EPILOGUE == SUMS:
        tl.store(out + row + filters[None, :], sums, mask=real)
    else:
        scaled = sums.to(tl.float32) * tl.load(scale + filters, mask=o < group_filters, other=0.0)[None, :]
        if EPILOGUE == SCALED:
            tl.store(out + row + filters[None, :], scaled, mask=real)
        else:
            t = tl.load(value + filters, mask=o < group_filters, other=0.0)[None, :]
            flipped = (tl.load(flip + filters, mask=o < group_filters, other=0) != 0)[None, :]
            positive = ((flipped & (scaled <= t)) | (~flipped & (scaled >= t))) & real
            split = tl.reshape(positive.to(tl.int32), [BM, BN // 32, 32])
            packed = tl.sum(split << tl.arange(0, 32)[None, None, :], axis=2)
            # A group's filters fill whole words, or there is one group: the dispatcher sees to it.
            words = (GROUPS * group_filters + 31) // 32
            column = tl.min(filters, axis=0) // 32 + tl.arange(0, BN // 32)
            tl.store(
                out + m[:, None] * words + column[None, :], packed, mask=(m < M)[:, None] & (column < words)[None, :]
            )
