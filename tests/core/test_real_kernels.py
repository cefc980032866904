"""The CPU's real-valued sums, pools and joins against torch: exact where every sum is, else to the stated rounding."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from bnas.deploy.ir import Op
from bnas.deploy.real_layers import real_layer, run_real_layer
from bnas.deploy.real_ops import REAL_OPS
from bnas.deploy.shapes import Value, pooled
from bnas.kernels import reference
from bnas.kernels.cpu.compare import compare
from bnas.kernels.cpu.jit import run_in_turn
from bnas.kernels.cpu.layer import Epilogue, Threshold
from bnas.kernels.cpu.plan import InTurn
from bnas.kernels.cpu.real_conv import RealConv
from bnas.kernels.cpu.real_join import join
from bnas.kernels.cpu.real_pool import RealPool


@st.composite
def convolutions(draw):
    """(shape of x, shape of the weights, options)."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, filters = (groups * draw(st.integers(1, most)) for most in (20, 40))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    options = {
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": draw(st.tuples(*[st.integers(-1, 3)] * 4)),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "groups": groups,
        "pad_value": draw(st.sampled_from([0, 0, 1, -1])),
    }
    size = draw(st.tuples(st.integers(8, 11), st.integers(9, 12)))
    return (draw(st.integers(1, 3)), channels, *size), (filters, channels // groups, *kernel), options


def conv_op(options, **tensors):
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return Op("conv2d", "conv", ("x",), "y", lists, {name: name for name in tensors})


def run(layer, x, shape):
    """[N, *shape], from memory that held NaN."""
    C, H, W = shape
    out = np.full((len(x), H, W, C), np.nan, dtype=np.float32)
    layer.plan(x.permute(0, 2, 3, 1).contiguous().numpy(), out)()
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@settings(deadline=None, max_examples=60)
@given(convolutions(), st.booleans(), st.integers(0, 999))
def test_convolutions_of_whole_numbers_are_exact(conv, biased, seed):
    shape, weight_shape, options = conv
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randint(-9, 10, size, generator=generator).float() for size in (shape, weight_shape))
    bias = torch.randint(-99, 100, weight_shape[:1], generator=generator).float() if biased else None
    tensors = {"weight": w} | ({} if bias is None else {"bias": bias})
    expected = REAL_OPS["conv2d"](conv_op(options, **tensors), tensors, x)
    layer = RealConv(w.numpy(), None if bias is None else bias.numpy(), **options)
    assert torch.equal(run(layer, x, expected.shape[1:]), expected)


@pytest.mark.parametrize("filters", [1, 16, 37])
def test_sums_of_real_numbers_round_once_for_each_product(filters):
    generator = torch.Generator().manual_seed(filters)
    x, w = (torch.randn(size, generator=generator) for size in ((2, 5, 7, 6), (filters, 5, 3, 3)))
    exact = F.conv2d(x.double(), w.double(), padding=1)
    found = run(RealConv(w.numpy(), padding=(1, 1, 1, 1)), x, exact.shape[1:])
    terms = F.conv2d(x.double().abs(), w.double().abs(), padding=1)
    # One rounding for each of 45 products, or two where the processor does not multiply and add in one.
    assert ((found.double() - exact).abs() <= 90 * 2**-24 * terms).all()


def test_what_follows_rounds_as_operations_one_by_one():
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(size, generator=generator) for size in ((2, 5, 7, 6), (20, 5, 3, 3)))
    factor, shift, slope = (torch.randn(20, generator=generator) for _ in range(3))
    epilogue = Epilogue(factor=factor.numpy(), shift=shift.numpy(), slope=slope.numpy(), low=-2.0, high=1.5)
    after_conv = run(RealConv(w.numpy(), epilogue=epilogue), x, (20, 5, 4))
    after_pool = run(RealPool(kernel=(3, 3), epilogue=epilogue), after_conv, (20, 3, 2))
    for found, before in [
        (after_conv, run(RealConv(w.numpy()), x, (20, 5, 4))),
        (after_pool, F.max_pool2d(after_conv, 3, 1)),
    ]:
        normed = before * factor[:, None, None] + shift[:, None, None]
        assert torch.equal(found, F.prelu(normed, slope).clamp(-2, 1.5))


@st.composite
def pools(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return {
        "kernel_size": list(kernel),
        "stride": [draw(st.integers(1, 3)), draw(st.integers(1, 3))],
        "padding": [draw(st.integers(0, k // 2)) for k in kernel],
        "dilation": [draw(st.integers(1, 2)), draw(st.integers(1, 2))],
        "ceil_mode": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=60)
@given(pools(), st.sampled_from([1, 8, 16, 37]), st.sampled_from([None, False, True]), st.integers(0, 999))
def test_pools_equal_those_of_torch(attributes, channels, average, seed):
    x = torch.randn((2, channels, 7, 9), generator=torch.Generator().manual_seed(seed))
    x = x.contiguous(memory_format=torch.channels_last)
    if average is not None:
        attributes = {**attributes, "dilation": [1, 1], "count_include_pad": average}
        del attributes["dilation"]
    op = Op("max_pool2d" if average is None else "avg_pool2d", "pool", ("x",), "y", attributes)
    expected = REAL_OPS[op.kind](op, {}, x)
    assert pooled(op, (Value(tuple(x.shape[1:])),), {}).shape == expected.shape[1:]
    assert torch.equal(run(real_layer(op, {}), x, expected.shape[1:]), expected)


def test_a_nan_is_the_maximum_of_its_windows_as_in_torch():
    x = torch.randn((1, 20, 6, 6), generator=torch.Generator().manual_seed(0))
    x[0, 3, 2, 2] = x[0, 19, 5, 5] = torch.nan
    found, expected = run(RealPool(kernel=(3, 3)), x, (20, 4, 4)), F.max_pool2d(x, 3, 1)
    assert found.isnan().sum() == expected.isnan().sum() == 9 + 1
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))


def test_the_average_of_a_whole_map():
    x = torch.randn((3, 40, 5, 7), generator=torch.Generator().manual_seed(0))
    op = Op("global_avg_pool", "pool", ("x",), "y")
    found = run(real_layer(op, {}), x, (40, 1, 1))
    exact, terms = x.double().mean((2, 3), keepdim=True), x.double().abs().mean((2, 3), keepdim=True)
    assert ((found.double() - exact).abs() <= 36 * 2**-24 * terms).all()
    assert torch.equal(run(real_layer(op, {}), x[1:2], (40, 1, 1)), found[1:2])


@pytest.mark.parametrize("sizes", [(5,), (20, 3, 33), (16, 16)])
def test_joined_maps_round_as_operations_one_by_one(sizes):
    generator = torch.Generator().manual_seed(0)
    maps, channels = [torch.randn(3, 5, 9, size, generator=generator) for size in sizes], sum(sizes)
    added = [torch.randn(3, 5, 9, channels, generator=generator) for _ in range(2)]
    factor, shift, slope = (torch.randn(channels, generator=generator) for _ in range(3))
    epilogue = Epilogue(factor=factor.numpy(), shift=shift.numpy(), slope=slope.numpy())
    before = torch.cat(maps, -1)
    normed = before * factor + shift
    acted = torch.where(normed > 0, normed, normed * slope)
    for others, follows, expected in [
        ([], Epilogue(), before),
        ([], epilogue, acted),
        (added, epilogue, acted + added[0] + added[1]),
    ]:
        out = np.full(expected.shape, np.nan, np.float32)
        join([x.numpy() for x in maps], [x.numpy() for x in others], follows, out)()
        assert torch.equal(torch.from_numpy(out), expected)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=3),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 99),
)
def test_comparisons_of_maps_side_by_side_equal_the_reference(sizes, comparisons, groups, seed):
    sizes[-1] += -sum(sizes) % groups
    generator, channels = np.random.default_rng(seed), sum(sizes)
    # Few different values, so that many are equal to what they are compared with.
    maps = [generator.integers(-3, 4, (2, 7, 5, size)).astype(np.float32) for size in sizes]
    value, flip = (
        generator.integers(-3, 4, (comparisons, channels)).astype(np.float32),
        generator.random(channels) < 0.5,
    )
    whole = np.concatenate(maps, axis=3).transpose(0, 3, 1, 2)
    expected = np.bitwise_xor.reduce([reference.threshold_pack(whole, row, flip, groups) for row in value])
    out = np.full(expected.shape, 0xFFFFFFFF, np.uint32)
    compare(maps, Threshold(value, flip), out)()
    assert np.array_equal(out, expected)


@pytest.mark.parametrize(("most", "wanted"), [(0, [1, min(2, config.NUMBA_NUM_THREADS), 1]), (30, [1, 1, 1])])
def test_plans_in_turn_are_those_one_by_one_on_whatever_number_of_threads(monkeypatch, most, wanted):
    monkeypatch.setattr("bnas.kernels.cpu.plan.MICROSECONDS_FOR_THREADS", most)
    used = []
    monkeypatch.setattr(
        "bnas.kernels.cpu.plan.run_in_turn", lambda *given: used.append(given[3]) or run_in_turn(*given)
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 9, 8, 5), generator=generator).numpy()
    w = torch.randn((7, 5, 3, 3), generator=generator).numpy()
    sums, largest, doubled = outs = [np.empty((2, 9, 8, 7), np.float32) for _ in range(3)]
    plans = [
        RealConv(w, padding=(1, 1, 1, 1)).plan(x, sums),
        RealPool(kernel=(3, 3), padding=(1, 1)).plan(sums, largest),
        join([largest], [largest], Epilogue(), doubled),
    ]
    for plan in plans:
        plan()
    expected, in_turn = [out.copy() for out in outs], InTurn(plans)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            for out in outs:
                out[...] = np.nan
            in_turn()
            assert all(np.array_equal(out, there) for out, there in zip(outs, expected, strict=True))
    finally:
        torch.set_num_threads(before)
    assert used == wanted
    for out in outs:
        out[...] = np.nan
    for place in range(3):
        in_turn(place, place + 1)
        assert [np.isnan(out).any() for out in outs] == [later > place for later in range(3)]


def test_no_images_are_none():
    op = Op("linear", "linear", ("x",), "y", {}, {"weight": "weight"})
    layer = real_layer(op, {"weight": np.ones((7, 5), np.float32)})
    assert run_real_layer(layer, torch.empty(0, 5), (7,)).shape == (0, 7)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_has_the_same_values_in_every_batch_and_on_any_number_of_threads(monkeypatch, threads):
    monkeypatch.setattr("bnas.kernels.cpu.plan.MICROSECONDS_FOR_THREADS", 0)
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(size, generator=generator) for size in ((7, 5, 9, 8), (20, 5, 3, 3)))
    pointwise, matrix = (torch.randn(20, 5, 1, 1, generator=generator) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for layer, of, shape in [
            (RealConv(w.numpy(), padding=(1, 1, 1, 1), stride=(2, 1)), x, (20, 5, 8)),
            (RealConv(pointwise.numpy()), x, (20, 9, 8)),
            (RealConv(matrix.numpy()), x[:, :, :1, :1], (20, 1, 1)),
            (RealPool(kernel=(3, 3), stride=(2, 2), average=False), x, (5, 4, 3)),
        ]:
            whole = run(layer, of, shape)
            assert torch.equal(torch.cat([run(layer, part, shape) for part in of.split(2)]), whole)
            torch.set_num_threads(1)
            assert torch.equal(run(layer, of, shape), whole)
            torch.set_num_threads(threads)
    finally:
        torch.set_num_threads(before)
