"""The 1-bit tensor-core kernel, which no interpreter runs: its own source on NumPy (gluon_in_numpy), against the reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.kernels import ops
from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import pack_activations, pack_weights
from tests.core import gluon_in_numpy

pytest.importorskip("triton")

from bnas.kernels import triton_b1
from bnas.kernels.triton_border import border_table, set_bits
from bnas.kernels.triton_forms import B1_TILES, b1_constants, b1_grid


def signs(*shape, seed=0):
    return np.where(np.random.default_rng(seed).random(shape) < 0.5, -1.0, 1.0)


def words(array):
    return torch.from_numpy(array.view(np.int32))


def case(channels, filters=6, size=(4, 5), images=2, groups=1, **options):
    geometry = Geometry(images, *size, channels * groups, filters, groups=groups, **{"kernel": (3, 3), **options})
    bits = words(pack_activations(signs(images, channels * groups, *size), groups))
    return geometry, bits, words(pack_weights(signs(filters, channels, *geometry.kernel, seed=1)))


def check(geometry, bits, weight, epilogue=None, tile=B1_TILES[2]):
    epilogue = epilogue or Epilogue()
    right = ops.by_reference(geometry, bits, weight, epilogue)
    out = epilogue.new_output(geometry, bits.device).fill_(-12345)
    unused = np.zeros(1, np.float32)
    scale, value = (unused if t is None else t.numpy() for t in (epilogue.scale, epilogue.value))
    flip = unused if epilogue.flip is None else epilogue.flip.view(torch.uint8).numpy()
    sizes = (geometry.pixels, *geometry.out_size, geometry.height, geometry.width, geometry.group_filters)
    arrays = (t.numpy() for t in (bits, weight, *border_table(geometry, weight), out))
    constants = b1_constants(tile, geometry, epilogue)
    gluon_in_numpy.launch(
        triton_b1, "b1_kernel", b1_grid(tile, geometry), (*arrays, scale, value, flip, *sizes), constants
    )
    assert torch.equal(out, right)


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 65, 200])
@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_channels_and_paddings(channels, pad_value):
    check(*case(channels, padding=(1, 0, 2, 1), pad_value=pad_value))


@pytest.mark.parametrize(
    ("stride", "dilation", "padding"),
    [
        ((2, 2), (1, 1), (1, 1, 1, 1)),
        ((1, 3), (2, 1), (2, 0, 2, 1)),
        ((1, 1), (1, 2), (-1, 1, 1, -1)),
        ((2, 1), (2, 2), (2,) * 4),
    ],
)
def test_strides_dilations_and_crops(stride, dilation, padding):
    check(*case(12, size=(7, 6), kernel=(3, 2), stride=stride, dilation=dilation, padding=padding))


@pytest.mark.parametrize("tile", B1_TILES, ids=str)
def test_every_tile(tile):
    check(*case(70, filters=150, size=(9, 9), padding=(1, 1, 1, 1)), tile=tile)


@st.composite
def convolutions(draw):
    groups, kernel = draw(st.integers(1, 3)), (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    dilation = draw(pairs)
    # Two crops of 2 leave at least one pixel, and the kernel fits after them.
    size = tuple(d * (k - 1) + 5 + draw(st.integers(0, 4)) for d, k in zip(dilation, kernel, strict=True))
    return case(
        draw(st.integers(1, 70)),
        groups * draw(st.integers(1, 40)),
        size,
        draw(st.integers(1, 3)),
        groups,
        kernel=kernel,
        stride=draw(pairs),
        dilation=dilation,
        padding=draw(st.tuples(*[st.integers(-2, 3)] * 4)),
        pad_value=draw(st.sampled_from([0, 1, -1])),
    )


@settings(deadline=None, max_examples=40)
@given(convolutions(), st.sampled_from(B1_TILES))
def test_any_convolution(convolution, tile):
    check(*convolution, tile=tile)


def test_matmul():
    geometry = Geometry.of_matmul(5, 130, 3)
    bits = words(pack_activations(signs(5, 130, 1, 1)))
    check(geometry, bits, words(pack_weights(signs(3, 130, 1, 1, seed=1))))


@pytest.mark.parametrize(
    ("filters", "groups", "out_groups"), [(6, 1, 1), (100, 1, 1), (64, 2, 1), (64, 1, 2), (128, 2, 2)]
)
def test_groups_scale_and_threshold_to_bits(filters, groups, out_groups):
    geometry, bits, weight = case(18, filters, groups=groups, padding=(1, 1, 1, 1))
    generator = torch.Generator().manual_seed(3)
    value, scale = (torch.randn(filters, generator=generator) for _ in range(2))
    scale[0], value[0] = 1, 2
    check(geometry, bits, weight)
    check(geometry, bits, weight, Epilogue(scale))
    check(geometry, bits, weight, Epilogue(scale, value, torch.arange(filters) % 3 == 0, out_groups))


def test_the_table_has_a_row_for_each_way_over_the_border():
    for padding, rows in [((0, 0, 0, 0), 1), ((1, 1, 1, 1), 9), ((2, 2, 2, 2), 25), ((1, 0, 0, 0), 2)]:
        geometry, _, weight = case(8, size=(9, 9), kernel=(3, 3) if max(padding) < 2 else (5, 5), padding=padding)
        table, row_of = border_table(geometry, weight)
        assert table.shape == (rows, 6)
        assert row_of.shape == (geometry.pixels // geometry.images,)


def test_set_bits():
    numbers = np.array([0, 1, -1, -(2**31), 2**31 - 1, 0x0F0F0F0F], np.int32)
    assert set_bits(torch.from_numpy(numbers)).tolist() == [0, 1, 32, 1, 31, 16]
