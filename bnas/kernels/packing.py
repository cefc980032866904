"""Packed bits: the one layout that files, runtimes and kernels share.

- A word is an unsigned 32-bit integer. Element b of a word is bit b, the least significant first.
- A set bit means +1, a clear bit -1.
- Words run along the channels: activations [N, C, H, W] become [N, H, W, groups, words], weights
  [O, C / groups, kh, kw] become [O, kh, kw, words], a matrix [M, K] becomes [M, words].
- Every group of channels starts on a fresh word: words = ceil(C / groups / 32), or ceil(K / 32).
- Tail bits, beyond the last channel of a group, are 0 in activations and weights alike, so that XOR leaves them 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.errors import BnasError

WORD_BITS = 32

Words = NDArray[np.uint32]


def words_for(length: int) -> int:
    """Words that hold `length` bits."""
    return -(-length // WORD_BITS)


def pack_bits(bits: NDArray[np.bool_]) -> Words:
    """bool [..., K] to words [..., ceil(K / 32)]."""
    length = bits.shape[-1]
    padded = np.zeros((*bits.shape[:-1], words_for(length) * WORD_BITS), dtype=np.bool_)
    padded[..., :length] = bits
    # The bytes are little-endian words whatever the machine is; astype makes them the machine's own.
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def unpack_bits(words: Words, length: int) -> NDArray[np.bool_]:
    """Words [..., W] to bool [..., length]; inverse of `pack_bits`."""
    if words_for(length) != words.shape[-1]:
        raise BnasError(f"{length} elements take {words_for(length)} words of {WORD_BITS} bits, not {words.shape[-1]}")
    in_bytes = np.ascontiguousarray(words, dtype="<u4").view(np.uint8)
    return np.unpackbits(in_bytes, axis=-1, count=length, bitorder="little").astype(np.bool_, copy=False)


def full_words(length: int) -> Words:
    """The words of `length` times +1: every bit set but those of the tail."""
    return pack_bits(np.ones(length, dtype=np.bool_))


def pack_channels(bits: NDArray[np.bool_], groups: int) -> Words:
    """bool [N, C, H, W] to words [N, H, W, groups, words]; `BnasError` where `groups` does not divide C."""
    N, C, H, W = bits.shape
    if groups < 1 or C % groups:
        raise BnasError(f"{C} channels do not divide into {groups} groups")
    return pack_bits(bits.transpose(0, 2, 3, 1).reshape(N, H, W, groups, C // groups))


def pack_activations(sign_pm1: NDArray[Any], groups: int = 1) -> Words:
    """-1/+1 [N, C, H, W] to words [N, H, W, groups, words]."""
    return pack_channels(_positive(sign_pm1, "activations", 4), groups)


def unpack_activations(words: Words, channels: int) -> NDArray[np.float32]:
    """Words [N, H, W, groups, words] to -1/+1 float32 [N, channels, H, W]."""
    N, H, W, groups, _ = words.shape
    bits = unpack_bits(words, channels // groups).reshape(N, H, W, channels)
    return _pm1(np.ascontiguousarray(bits.transpose(0, 3, 1, 2)))


def pack_weights(sign_pm1: NDArray[Any]) -> Words:
    """-1/+1 [O, C / groups, kh, kw] to words [O, kh, kw, words]."""
    return pack_bits(_positive(sign_pm1, "weights", 4).transpose(0, 2, 3, 1))


def unpack_weights(words: Words, channels_per_group: int) -> NDArray[np.float32]:
    """Words [O, kh, kw, words] to -1/+1 float32 [O, channels_per_group, kh, kw]."""
    return _pm1(np.ascontiguousarray(unpack_bits(words, channels_per_group).transpose(0, 3, 1, 2)))


def pack_matrix(sign_pm1: NDArray[Any]) -> Words:
    """-1/+1 [M, K] to words [M, words]."""
    return pack_bits(_positive(sign_pm1, "matrix", 2))


def unpack_matrix(words: Words, length: int) -> NDArray[np.float32]:
    """Words [M, words] to -1/+1 float32 [M, length]."""
    return _pm1(unpack_bits(words, length))


def _positive(sign_pm1: NDArray[Any], what: str, dimensions: int) -> NDArray[np.bool_]:
    if sign_pm1.ndim != dimensions:
        raise BnasError(f"{what} to pack need {dimensions} dimensions; the shape is {sign_pm1.shape}")
    positive: NDArray[np.bool_] = sign_pm1 == 1
    strange = ~positive & (sign_pm1 != -1)
    if strange.any():
        raise BnasError(f"{what} to pack hold only -1 and +1; found {sign_pm1[strange][0]}")
    return positive


def _pm1(bits: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(bits, np.float32(1), np.float32(-1))
