"""XNOR-popcount convolution in Triton: integer arithmetic only, on any device and in the interpreter."""

import triton
import triton.language as tl

from bnas.kernels.triton_bits import corners, counted_taps, patch_words, popcount, store


@triton.jit
def popc_kernel(
    bits, weight, out, scale, value, flip, M, Ho, Wo, H, W, group_filters,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WORDS: tl.constexpr, TAPS: tl.constexpr, KW: tl.constexpr,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    DIL_Y: tl.constexpr, DIL_X: tl.constexpr, PAD: tl.constexpr,
    EPILOGUE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Sums [BM, BN] of C counted - 2 popcount(a xor w), BW words at a time.

    With one word (BW 1) a step is an outer product whose sums stay with their thread: for arithmetic-bound shapes. With more,
    the words of a row lie side by side in memory and a step ends in a reduction: for few rows, bound by reading weights.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    o = tl.program_id(1) * BN + tl.arange(0, BN)
    group = tl.program_id(2)
    image, top, left = corners(m, M, Ho, Wo, STRIDE_Y, STRIDE_X, TOP, LEFT)
    rows = weight + (group * group_filters + o) * (TAPS * WORDS)
    differing = tl.zeros([BM, BN], tl.int32)
    for start in range(0, TAPS * WORDS, BW):
        k = start + tl.arange(0, BW)
        a, counts = patch_words(
            bits, image, top, left, k, group, H, W, GROUPS, CHANNELS, WORDS, TAPS, KW, DIL_Y, DIL_X, PAD
        )
        there = (o < group_filters)[:, None] & (k < TAPS * WORDS)[None, :]
        w = tl.load(rows[:, None] + k[None, :], mask=there, other=0).to(tl.uint32, bitcast=True)
        mask = tl.where(counts, -1, 0).to(tl.uint32, bitcast=True)
        if BW == 1:
            differing += popcount((a ^ tl.trans(w)) & mask)
        else:
            differing += tl.sum(popcount((a[:, None, :] ^ w[None, :, :]) & mask[:, None, :]), axis=2)
    counted = counted_taps(top, left, H, W, TAPS, KW, DIL_Y, DIL_X, PAD)
    sums = CHANNELS * counted[:, None] - 2 * differing
    store(sums, out, scale, value, flip, m, o, M, group, group_filters, GROUPS, EPILOGUE, BM, BN)
