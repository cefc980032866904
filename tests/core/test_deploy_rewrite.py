"""What a program becomes before it is fused: linear layers on maps, maxima of bits; equal to the operations as written."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnas.binary.schemes import make_scheme
from bnas.deploy.fusion import fuse
from bnas.deploy.rewrite import joins_for_comparisons, rewrite
from bnas.deploy.runtime import PackedNetwork
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from tests.core.packed_networks import CLASSES, images, packed, trained

SCHEME = make_scheme("bireal")


def kinds(made):
    """The kinds of operations of each step, as the back end runs them."""
    rewritten = joins_for_comparisons(rewrite(made.program, made.tensors))
    return [[op.kind for op in step.ops] for step in fuse(rewritten.program)]


def check_equal(made, x):
    """Fused equals unfused equals the reference, bit by bit."""
    logits = PackedNetwork(made)(x)
    assert torch.equal(logits, PackedNetwork(made, fuse=False)(x))
    assert torch.equal(logits, PackedNetwork(made, "reference")(x))


def with_ties(count, shape):
    """Images of few different values."""
    return (2 * images(count, shape)).round() / 2


class Flat(nn.Module):
    """A binary layer on a whole map; another that adds the first one's input again."""

    def __init__(self, scheme_name, size, channels=5):
        super().__init__()
        scheme = make_scheme(scheme_name)
        self.norm = NormBinarize(channels, scheme)
        self.wide, self.other = (BinaryLinear(channels * size[0] * size[1], 20, scheme) for _ in range(2))
        self.after, self.act = nn.BatchNorm1d(20), nn.PReLU(20)
        self.head = nn.Linear(20, len(CLASSES))

    def forward(self, x):
        flat = torch.flatten(self.norm(x), 1)
        return self.head(self.act(self.after(self.wide(flat))) + self.other(flat))


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
@pytest.mark.parametrize("name", ["bireal", "xnor", "abcnet", "rebnet"])
def test_a_linear_layer_is_a_convolution_that_covers_the_map(name, size):
    shape = (5, *size)
    made = packed(trained(Flat(name, size), shape), shape)
    assert ["flatten"] not in kinds(made)
    for count in (1, 3, 9):
        check_equal(made, with_ties(count, shape))


def test_a_linear_layer_is_one_step_with_what_surrounds_it():
    model = nn.Sequential(
        NormBinarize(3, SCHEME), nn.Flatten(), BinaryLinear(12, 7, SCHEME), nn.BatchNorm1d(7), nn.Hardtanh(),
        nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5),
    )  # fmt: skip
    made = packed(trained(model, (3, 2, 2)), (3, 2, 2))
    assert kinds(made) == [["threshold", "binary_linear", "batch_norm", "hardtanh"], ["linear", "relu"], ["linear"]]
    check_equal(made, images(4, (3, 2, 2)))


def test_flat_bits_in_groups_are_flattened():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv = NormBinarize(4, SCHEME), BinaryConv2d(4, 5, 2, SCHEME, groups=1)
            self.apart = BinaryConv2d(4, 4, 2, SCHEME, groups=2)
            self.hidden, self.head = BinaryLinear(16, 5, SCHEME), nn.Linear(4, 5)

        def forward(self, x):
            bits = self.norm(x)
            return self.head(torch.flatten(self.apart(bits), 1)) + self.hidden(torch.flatten(bits, 1))

    made = packed(trained(Both(), (4, 2, 2)), (4, 2, 2))
    assert ["flatten"] in kinds(made)
    check_equal(made, images(3, (4, 2, 2)))


def pooled(pool, *between, shape, channels=6, groups=1):
    """A network that compares pooled values, with operations in between, and the file of it."""
    compared = nn.Sequential(pool, *between)
    size = compared(torch.zeros(1, channels, *shape[1:])).shape[2:]
    model = nn.Sequential(
        NormBinarize(shape[0], SCHEME),
        BinaryConv2d(shape[0], channels, 3, SCHEME, padding=1),
        *compared,
        NormBinarize(channels, SCHEME),
        BinaryConv2d(channels, 4, 1, SCHEME, groups=groups),
        nn.Flatten(),
        nn.Linear(4 * size[0] * size[1], len(CLASSES)),
    )
    return packed(trained(model, shape), shape)


@pytest.mark.parametrize("between", [[], [nn.BatchNorm2d(6)], [nn.Hardtanh(-3, 3)], [nn.BatchNorm2d(6), nn.ReLU()]])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_maximum_that_is_only_compared_is_one_of_bits(between, groups):
    made = pooled(nn.MaxPool2d(2), *between, shape=(3, 9, 9), groups=groups)
    first, pool, *_ = kinds(made)
    assert (first[0], first[-1], pool) == ("threshold", "threshold", ["max_pool2d"])
    for count in (1, 4):
        check_equal(made, with_ties(count, (3, 9, 9)))


SIDE = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=40)
@given(SIDE, SIDE, SIDE, st.tuples(st.integers(0, 1), st.integers(0, 1)), st.booleans(), st.integers(1, 7))
def test_windows_of_any_form(kernel, stride, dilation, padding, ceil_mode, width):
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    shape = (2, 7, max(width, dilation[1] * (kernel[1] - 1) + 1 - 2 * padding[1]))
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    model = nn.Sequential(pool, nn.BatchNorm2d(2), NormBinarize(2, SCHEME), BinaryConv2d(2, 3, 1, SCHEME))
    size = pool(torch.zeros(1, *shape)).shape[2:]
    whole = nn.Sequential(*model, nn.Flatten(), nn.Linear(3 * size[0] * size[1], len(CLASSES)))
    check_equal(packed(trained(whole, shape), shape), with_ties(3, shape))


def test_pools_behind_each_other_are_all_of_bits():
    made = pooled(nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.MaxPool2d(3, 1, 1)), shape=(3, 9, 9))
    assert kinds(made)[1:3] == [["max_pool2d"], ["max_pool2d"]]
    check_equal(made, with_ties(3, (3, 9, 9)))


class Joined(nn.Module):
    """Maps of several widths side by side, some written by torch, compared twice, in groups too."""

    def __init__(self, scheme_name="bireal"):
        super().__init__()
        scheme = make_scheme(scheme_name)
        self.norm, self.pool = NormBinarize(3, scheme), nn.AvgPool2d(3, 1, 1)
        self.wide, self.slim = BinaryConv2d(3, 41, 3, scheme, padding=1), BinaryConv2d(3, 16, 3, scheme, padding=1)
        self.first, self.second = NormBinarize(60, scheme), NormBinarize(60, scheme)
        self.all, self.apart = BinaryConv2d(60, 4, 1, scheme), BinaryConv2d(60, 4, 1, scheme, groups=4)
        self.head = nn.Linear(4, len(CLASSES))

    def forward(self, x):
        bits = self.norm(x)
        joined = torch.cat([self.wide(bits), self.pool(x), self.slim(bits)], 1)
        y = self.all(self.first(joined)) + self.apart(self.second(joined))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1))


@pytest.mark.parametrize("name", ["bireal", "rebnet"])
def test_a_concatenation_that_is_only_compared_is_never_written(name):
    made = packed(trained(Joined(name)))
    found = kinds(made)
    assert ["concat", "threshold"] in found
    assert (["concat", "parity_threshold"] in found) == (name == "rebnet")
    assert ["concat"] not in found
    for count in (1, 5):
        check_equal(made, images(count))


def test_a_concatenation_that_others_read_is_written():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv = NormBinarize(6, SCHEME), BinaryConv2d(6, 6, 1, SCHEME)
            self.head = nn.Linear(6 * 81, len(CLASSES))

        def forward(self, x):
            joined = torch.cat([x, torch.relu(x)], 1)
            return self.head(torch.flatten(self.conv(self.norm(joined)) + joined, 1))

    made = packed(trained(Both()))
    assert kinds(made)[1:3] == [["concat"], ["threshold", "binary_conv2d", "add"]]
    check_equal(made, images(3))


def test_names_of_a_file_do_not_collide_with_new_ones():
    made = pooled(nn.MaxPool2d(2), shape=(3, 9, 9))
    first, conv, pool, second, *rest = made.program.ops
    taken = f"{second.output}.whole"
    ops = (replace(first, output=taken), replace(conv, inputs=(taken,)), pool, second, *rest)
    made = type(made)(replace(made.program, ops=ops), made.tensors)
    assert kinds(made)[1] == ["max_pool2d"]
    check_equal(made, images(3))


@pytest.mark.parametrize(
    "model", [lambda: pooled(nn.MaxPool2d(3, 2, 1), shape=(3, 9, 9)), lambda: packed(trained(Joined()))]
)
def test_threads_do_not_change_the_bits(monkeypatch, model):
    made, x = model(), images(5)
    expected = PackedNetwork(made)(x)
    monkeypatch.setattr("bnas.kernels.cpu.plan.MICROSECONDS_FOR_THREADS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(PackedNetwork(made)(x), expected)
    finally:
        torch.set_num_threads(before)


def test_what_is_not_monotone_is_pooled_as_it_is():
    falling = nn.PReLU(6)
    made = pooled(nn.MaxPool2d(2), falling, shape=(3, 9, 9))
    # `trained` gives slopes of both signs.
    assert (made.tensors["3.slope"] < 0).any()
    assert kinds(made)[1] == ["max_pool2d", "prelu"]
    check_equal(made, with_ties(3, (3, 9, 9)))
    rising = {**made.tensors, "3.slope": np.abs(made.tensors["3.slope"])}
    assert kinds(type(made)(made.program, rising))[1] == ["max_pool2d"]
    check_equal(type(made)(made.program, rising), with_ties(3, (3, 9, 9)))


def test_what_one_store_cannot_do_is_pooled_as_it_is():
    made = pooled(nn.MaxPool2d(2), nn.ReLU(), nn.BatchNorm2d(6), shape=(3, 9, 9))
    assert kinds(made)[:2] == [["threshold", "binary_conv2d"], ["max_pool2d", "relu"]]
    check_equal(made, with_ties(3, (3, 9, 9)))


def test_a_maximum_that_others_read_stays_real():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.norm = nn.MaxPool2d(3), NormBinarize(3, SCHEME)
            self.conv = BinaryConv2d(3, 3, 1, SCHEME)
            self.head = nn.Linear(27, len(CLASSES))

        def forward(self, x):
            x = self.pool(x)
            return self.head(torch.flatten(self.conv(self.norm(x)) + x, 1))

    made = packed(trained(Twice()))
    assert kinds(made)[:2] == [["max_pool2d"], ["threshold", "binary_conv2d", "add"]]
    check_equal(made, images(3))


def test_a_window_that_lies_in_the_padding_alone_stays_real():
    # A dilated kernel reads pixels -1 and 2 of an image of two pixels.
    pool = nn.MaxPool2d(2, 1, 1, dilation=3)
    model = nn.Sequential(pool, NormBinarize(2, SCHEME), BinaryConv2d(2, 5, 1, SCHEME), nn.Flatten())
    made = packed(trained(model, (2, 2, 2)), (2, 2, 2))
    assert kinds(made)[0] == ["max_pool2d"]
    check_equal(made, images(3, (2, 2, 2)))


def test_only_bits_lie_between_layers_that_are_only_compared():
    model = nn.Sequential(
        NormBinarize(3, SCHEME), BinaryConv2d(3, 40, 3, SCHEME, padding=1), nn.BatchNorm2d(40),
        NormBinarize(40, SCHEME), BinaryConv2d(40, 40, 3, SCHEME, padding=1), nn.MaxPool2d(3),
        NormBinarize(40, SCHEME), nn.Flatten(), BinaryLinear(360, 5, SCHEME),
    )  # fmt: skip
    network = PackedNetwork(packed(trained(model)))
    binding = network.fused.binding(2)
    assert [binding.places[step.output].dtype for step in network.fused.steps] == [np.uint32] * 3 + [np.float32]
    # The images, two maps of 40 bits in 2 words, and what fits into one of them.
    assert binding.memory.nbytes <= 4 * 2 * 81 * 3 + 2 * (2 * 81 * 2 * 4)


def test_a_maximum_behind_whose_norm_channels_join_stays_real():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.after = nn.MaxPool2d(2), nn.BatchNorm2d(3)
            self.norm, self.conv = NormBinarize(6, SCHEME), BinaryConv2d(6, 5, 2, SCHEME)

        def forward(self, x):
            pooled = self.after(self.pool(x))
            return self.conv(self.norm(torch.cat([pooled, self.pool(x)], 1))).flatten(1)

    made = packed(trained(Joined(), (3, 4, 4)), (3, 4, 4))
    check_equal(made, with_ties(4, (3, 4, 4)))
