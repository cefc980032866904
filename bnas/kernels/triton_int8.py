"""Binary convolution on int8 tensor cores: bits are unpacked to +-1 in registers, then `tl.dot`."""

import triton
import triton.language as tl

from bnas.kernels.triton_bits import corners, counted_taps, patch_words, store


@triton.jit
def unpack(words, ROWS: tl.constexpr, BW: tl.constexpr):
    """uint32 [ROWS, BW] to +-1 int8 [ROWS, 32 BW]."""
    bits = (words[:, :, None] >> tl.arange(0, 32).to(tl.uint32)[None, None, :]) & 1
    return tl.reshape((bits.to(tl.int8) * 2 - 1).to(tl.int8), [ROWS, 32 * BW])


@triton.jit
def int8_kernel(
    bits, weight, out, scale, value, flip, M, Ho, Wo, H, W, group_filters,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WORDS: tl.constexpr, TAPS: tl.constexpr, KW: tl.constexpr,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    DIL_Y: tl.constexpr, DIL_X: tl.constexpr, PAD: tl.constexpr,
    EPILOGUE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Sums [BM, BN] over 32 BW channels at a time. Words that do not count become 0, so that they add nothing."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    o = tl.program_id(1) * BN + tl.arange(0, BN)
    group = tl.program_id(2)
    image, top, left = corners(m, M, Ho, Wo, STRIDE_Y, STRIDE_X, TOP, LEFT)
    rows = weight + (group * group_filters + o) * (TAPS * WORDS)
    sums = tl.zeros([BM, BN], tl.int32)
    for start in range(0, TAPS * WORDS, BW):
        k = start + tl.arange(0, BW)
        a, counts = patch_words(
            bits, image, top, left, k, group, H, W, GROUPS, CHANNELS, WORDS, TAPS, KW, DIL_Y, DIL_X, PAD
        )
        there = (o < group_filters)[:, None] & (k < TAPS * WORDS)[None, :]
        w = tl.load(rows[:, None] + k[None, :], mask=there, other=0).to(tl.uint32, bitcast=True)
        each = tl.broadcast_to(counts[:, :, None], [BM, BW, 32])
        a8 = unpack(a, BM, BW) * tl.reshape(each, [BM, 32 * BW]).to(tl.int8)
        sums = tl.dot(a8, tl.trans(unpack(w, BN, BW)), sums, out_dtype=tl.int32)
    # A tail is -1 on both sides and added +1 for each of its bits.
    counted = counted_taps(top, left, H, W, TAPS, KW, DIL_Y, DIL_X, PAD)
    sums -= (32 * WORDS - CHANNELS) * counted[:, None]
    store(sums, out, scale, value, flip, m, o, M, group, group_filters, GROUPS, EPILOGUE, BM, BN)
