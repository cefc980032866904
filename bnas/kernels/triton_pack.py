"""Threshold + pack, and unpack, in Triton: real features to words and back, in one pass over memory."""

import triton
import triton.language as tl


@triton.jit
def pack_kernel(
    x, value, flip, out, M, HW, W, stride_n, stride_c, stride_h, stride_w,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WORDS: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """One word of BM pixels: the bits x >= value, where flip is set x <= value; a NaN is -1. Any strides of x."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    group = tl.program_id(1) // WORDS
    word = tl.program_id(1) % WORDS
    lane = tl.arange(0, 32)
    c = word * 32 + lane
    channel = group * CHANNELS + c
    place = m // HW * stride_n + m % HW // W * stride_h + m % W * stride_w
    real = (m < M)[:, None] & (c < CHANNELS)[None, :]
    v = tl.load(x + place[:, None] + (channel * stride_c)[None, :], mask=real, other=0.0).to(tl.float32)
    t = tl.load(value + channel, mask=c < CHANNELS, other=0.0)[None, :]
    flipped = (tl.load(flip + channel, mask=c < CHANNELS, other=0) != 0)[None, :]
    positive = ((flipped & (v <= t)) | (~flipped & (v >= t))) & real
    packed = tl.sum(positive.to(tl.int32) << lane[None, :], axis=1)
    tl.store(out + m * (GROUPS * WORDS) + tl.program_id(1), packed, mask=m < M)


@triton.jit
def unpack_kernel(words, out, M, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WORDS: tl.constexpr, BM: tl.constexpr):
    """+-1, channels last and in the type of `out`, of one word of BM rows."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    group = tl.program_id(1) // WORDS
    word = tl.program_id(1) % WORDS
    c = word * 32 + tl.arange(0, 32)
    packed = tl.load(words + m * (GROUPS * WORDS) + tl.program_id(1), mask=m < M, other=0)
    bit = (packed[:, None] >> tl.arange(0, 32)[None, :]) & 1
    place = m[:, None] * (GROUPS * CHANNELS) + group * CHANNELS + c[None, :]
    real = (m < M)[:, None] & (c < CHANNELS)[None, :]
    tl.store(out + place, (2 * bit - 1).to(out.dtype.element_ty), mask=real)
