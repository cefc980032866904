"""Packing: the layout bit by bit, and that unpacking gives back what was packed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnas.errors import BnasError
from bnas.kernels import packing

SIZES = (1, 7, 8, 31, 32, 33, 63, 64, 65)


def signs(*shape, seed=0):
    return np.where(np.random.default_rng(seed).random(shape) < 0.5, np.float32(-1), np.float32(1))


def test_element_b_is_bit_b_and_a_set_bit_is_plus_one():
    row = -np.ones((1, 40), np.float32)
    row[0, [0, 5, 31, 33]] = 1
    assert packing.pack_matrix(row).tolist() == [[1 | 1 << 5 | 1 << 31, 1 << 1]]
    assert packing.pack_matrix(row).dtype == np.uint32


def test_words_run_along_the_channels_and_each_group_starts_a_word():
    x = -np.ones((1, 6, 2, 2), np.float32)
    x[0, 4, 1, 0] = 1
    words = packing.pack_activations(x, groups=2)
    assert words.shape == (1, 2, 2, 2, 1)
    # Channel 4 is element 1 of the second group of three.
    assert words[0, 1, 0, 1, 0] == 2
    assert words.sum() == 2


def test_weights_lie_as_filter_row_column_words():
    w = -np.ones((2, 33, 3, 5), np.float32)
    w[1, 32, 2, 4] = 1
    words = packing.pack_weights(w)
    assert words.shape == (2, 3, 5, 2)
    assert words[1, 2, 4, 1] == 1
    assert words.sum() == 1


@pytest.mark.parametrize("channels", SIZES)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_activations_round_trip(channels, groups):
    x = signs(2, channels * groups, 3, 4)
    words = packing.pack_activations(x, groups)
    assert words.shape == (2, 3, 4, groups, -(-channels // 32))
    assert np.array_equal(packing.unpack_activations(words, channels * groups), x)


@pytest.mark.parametrize("channels", SIZES)
def test_weights_and_matrices_round_trip(channels):
    w, m = signs(4, channels, 3, 2), signs(5, channels)
    assert np.array_equal(packing.unpack_weights(packing.pack_weights(w), channels), w)
    assert np.array_equal(packing.unpack_matrix(packing.pack_matrix(m), channels), m)


@pytest.mark.parametrize("length", SIZES)
def test_tail_bits_are_zero(length):
    words = packing.pack_matrix(np.ones((1, length)))
    assert np.bitwise_count(words).sum() == length
    assert np.array_equal(words[0], packing.full_words(length))


def test_memory_order_does_not_matter():
    x = signs(2, 40, 5, 6)
    words = packing.pack_activations(x, 2)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    strided = np.repeat(x, 2, axis=3)[:, :, :, ::2]
    assert not channels_last.flags.c_contiguous
    assert np.array_equal(packing.pack_activations(channels_last, 2), words)
    assert np.array_equal(packing.pack_activations(strided, 2), words)
    assert np.array_equal(packing.unpack_activations(np.asfortranarray(words), 40), x)


@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    per_group=st.integers(1, 70),
    groups=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_any_shape_round_trips(shape, per_group, groups, seed):
    n, h, w = shape
    x = signs(n, per_group * groups, h, w, seed=seed)
    assert np.array_equal(packing.unpack_activations(packing.pack_activations(x, groups), per_group * groups), x)


def test_no_images_pack_to_no_words():
    assert packing.pack_activations(np.ones((0, 3, 2, 2))).shape == (0, 2, 2, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: packing.pack_activations(np.ones((1, 6, 1, 1)), 4), "6 channels do not divide into 4 groups"),
        (lambda: packing.pack_activations(np.ones((1, 6, 1, 1)), 0), "6 channels do not divide into 0 groups"),
        (lambda: packing.pack_activations(np.ones((6, 1, 1))), r"activations to pack need 4 dimensions.*\(6, 1, 1\)"),
        (lambda: packing.pack_weights(np.zeros((1, 1, 1, 1))), "weights to pack hold only -1 and \\+1; found 0.0"),
        (lambda: packing.pack_matrix(np.array([[1.0, np.nan]])), "matrix to pack hold only -1 and \\+1; found nan"),
        (lambda: packing.unpack_matrix(np.zeros((2, 2), np.uint32), 32), "32 elements take 1 words of 32 bits, not 2"),
    ],
)
def test_errors(call, message):
    with pytest.raises(BnasError, match=message):
        call()
