"""Fused steps against the operations one by one: equal bits, equal integers, and equal floats."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnas.binary.schemes import make_scheme
from bnas.deploy.file import Packed
from bnas.deploy.fusion import fuse
from bnas.deploy.ir import Op
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError
from bnas.kernels import reference
from bnas.kernels.cpu.forms import POPCOUNT, forms_here
from bnas.kernels.cpu.layer import BinaryLayer, Epilogue, Outputs, Threshold
from bnas.kernels.packing import pack_activations, pack_weights
from bnas.layers import BinaryConv2d, ChannelShuffle, NormBinarize
from bnas.layers.residual import BinaryUnit, ResidualBlock
from tests.core.packed_networks import CLASSES, Cell, images, packed, trained

SCHEME = make_scheme("bireal")


class Blocks(nn.Module):
    """Residual blocks as in chain networks: from 3 channels to 8, half the size, to classes."""

    def __init__(self, block: str, downsample: str, activation: str) -> None:
        super().__init__()
        options = {"block": block, "activation": activation}
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            ResidualBlock(8, 8, 8, SCHEME, **options),
            ResidualBlock(8, 12, 12, SCHEME, downsample=downsample, **options),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, len(CLASSES)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def plain_chain() -> nn.Module:
    """Convolutions whose results are only compared again: bits from end to end, in groups that differ."""
    return nn.Sequential(
        NormBinarize(3, SCHEME),
        BinaryConv2d(3, 40, 3, SCHEME, padding=1),
        NormBinarize(40, SCHEME),
        BinaryConv2d(40, 36, 3, SCHEME, groups=2, stride=2),
        ChannelShuffle(36, 3),
        NormBinarize(36, SCHEME),
        BinaryConv2d(36, 34, 2, SCHEME, padding=(1, 0, 0, 1), pad_value=1),
        BinaryUnit(34, 6, SCHEME, pool=True, activation="hardtanh"),
        nn.Flatten(),
        nn.Linear(6 * 2 * 2, len(CLASSES)),
    )


class Sums(nn.Module):
    """More than two values added to a product, and a sum that is added in front of it; pools and joins with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), NormBinarize(4, SCHEME)
        self.one, self.two = (BinaryConv2d(4, 4, 3, SCHEME, padding=1) for _ in range(2))
        self.wide, self.pool, self.average = nn.BatchNorm2d(8), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)
        self.act, self.after, self.head = nn.PReLU(8), nn.BatchNorm2d(4), nn.Linear(8, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        bits = self.norm(x)
        y = self.one(bits) + x + self.pool(x) + self.average(x) + x
        z = (x + self.after(self.pool(x))) + self.two(bits)
        joined = self.act(self.wide(torch.cat([y, z], 1)))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(joined, 1), 1))


NETWORKS = {
    **{f"cell, {scheme}": (lambda scheme=scheme: Cell(scheme)) for scheme in ("bats", "bnn", "xnor", "rebnet")},
    "bireal, real": lambda: Blocks("bireal", "real", "none"),
    "bireal, prelu": lambda: Blocks("bireal", "binary", "prelu"),
    "basic, relu": lambda: Blocks("basic", "binary", "relu"),
    "basic, hardtanh": lambda: Blocks("basic", "real", "hardtanh"),
    "plain": plain_chain,
    "sums": Sums,
}


@pytest.fixture(scope="module", params=NETWORKS)
def made(request):
    return packed(trained(NETWORKS[request.param]()))


def test_every_operation_is_in_one_step_and_finds_what_it_reads(made):
    steps = fuse(made.program)
    ops = [op for step in steps for op in step.ops]
    assert sorted(op.output for op in ops) == sorted(op.output for op in made.program.ops)
    there = {made.program.input}
    for step in steps:
        assert there.issuperset(step.reads)
        assert step.output == step.ops[-1].output
        there.add(step.output)


def test_fused_equals_unfused_equals_reference_whatever_ran_before(made):
    fused, unfused = PackedNetwork(made), PackedNetwork(made, fuse=False)
    by_reference = PackedNetwork(made, "reference")
    for count, seed in [(3, 1), (1, 2), (3, 3), (8, 4), (1, 5)]:
        x = images(count, seed=seed)
        logits = fused(x)
        assert torch.equal(logits, unfused(x))
        assert torch.equal(logits, by_reference(x))
        assert torch.equal(logits[-1:], fused(x[-1:]))
        # What a run leaves behind, or finds, is never read.
        for block in fused.fused.binding(count).memory.blocks:
            block[...] = 0xFF


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_batch_runs_a_few_images_at_a_time_with_the_same_results(monkeypatch, at_once):
    made = packed(trained(Cell("bats")))
    whole = PackedNetwork(made)
    monkeypatch.setattr("bnas.deploy.fused.BYTES_AT_ONCE", at_once * whole.fused._prepared.bytes_of_image())
    split, sizes = PackedNetwork(made), []
    binding = split.fused.binding
    monkeypatch.setattr(split.fused, "binding", lambda N: sizes.append(N) or binding(N))
    x = images(8)
    assert whole.fused.images_at_once == split.fused.images_at_once == at_once
    monkeypatch.setattr(whole.fused, "images_at_once", 99)
    for count in range(1, 9):
        sizes.clear()
        assert torch.equal(split(x[:count]), whole(x[:count]))
        assert sum(sizes) == count
        assert max(sizes) <= at_once
        # As equal as can be, so that buffers are planned for few sizes.
        assert max(sizes) - min(sizes) <= 1
    ticks = itertools.count()
    taken = split.fused.profile(x, lambda: float(next(ticks)))
    assert [step for step, _ in taken] == list(split.fused.steps)
    assert {seconds for _, seconds in taken} == {float(-(-8 // at_once))}


def test_most_of_a_network_is_fused():
    steps = fuse(packed(trained(plain_chain())).program)
    kinds = [tuple(op.kind for op in step.ops) for step in steps]
    assert kinds[:3] == [
        ("threshold", "binary_conv2d", "threshold"),
        ("binary_conv2d", "channel_shuffle", "threshold"),
        ("binary_conv2d", "threshold"),
    ]
    assert ("conv2d", "batch_norm", "relu") in [
        tuple(op.kind for op in step.ops) for step in fuse(packed(trained(Cell("bats"))).program)
    ]
    blocks = fuse(packed(trained(Blocks("bireal", "real", "prelu"))).program)
    assert ("threshold", "binary_conv2d", "batch_norm", "prelu", "add") in [
        tuple(op.kind for op in step.ops) for step in blocks
    ]


def test_a_sign_that_is_several_comparisons_joins_its_product():
    steps = fuse(packed(trained(Cell("rebnet"))).program)
    assert any([op.kind for op in step.ops[:2]] == ["parity_threshold", "binary_conv2d"] for step in steps)


def test_any_number_of_values_is_added_where_a_product_is_stored():
    added = [step.added for step in fuse(packed(trained(Sums())).program) if step.conv]
    assert [len(names) for names in added] == [4, 1]
    kinds = [[op.kind for op in step.ops] for step in fuse(packed(trained(Sums())).program)]
    assert ["concat", "batch_norm", "prelu"] in kinds
    assert ["max_pool2d", "batch_norm"] in kinds


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sum_of_many_is_added_from_left_to_right(place):
    model = nn.Sequential(NormBinarize(3, SCHEME), BinaryConv2d(3, 3, 3, SCHEME, padding=1), nn.Flatten())
    made = packed(trained(model), classes=tuple(map(str, range(243))))
    threshold, conv, flatten = made.program.ops
    norm = Op("batch_norm", "norm", (made.program.input,), "normed", {}, {"scale": "scale", "shift": "shift"})
    inputs = [made.program.input, "normed"]
    inputs.insert(place, conv.output)
    total = Op("add", "sum", tuple(inputs), "total")
    program = replace(made.program, ops=(norm, threshold, conv, total, replace(flatten, inputs=("total",))))
    tensors = {**made.tensors, "scale": np.float32([0.1, 0.7, -3]), "shift": np.float32([1e-7, 0.3, 0])}
    assert [len(step.added) for step in fuse(program) if step.conv] == [2 if place < 2 else 0]
    of_many = Packed(program, tensors)
    assert torch.equal(PackedNetwork(of_many)(images(3)), PackedNetwork(of_many, fuse=False)(images(3)))


def test_memory_that_is_seen_through_a_view_is_not_used_again():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = NormBinarize(3, SCHEME)
            self.a, self.b = (BinaryConv2d(3, 8, 9, SCHEME) for _ in range(2))
            self.head = nn.Linear(8, len(CLASSES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bits = self.norm(x)
            a, b = torch.flatten(self.a(bits), 1), torch.flatten(self.b(bits), 1)
            return self.head(a) + self.head(b)

    made = packed(trained(Two()))
    assert torch.equal(PackedNetwork(made)(images(3)), PackedNetwork(made, fuse=False)(images(3)))


def test_a_value_that_others_read_is_not_swallowed():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = NormBinarize(3, SCHEME), BinaryConv2d(3, 5, 9, SCHEME)
            self.act = nn.PReLU(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(self.norm(x))
            return torch.flatten(self.act(y) + y, 1)

    made = packed(trained(Twice()))
    assert [len(step.ops) for step in fuse(made.program)] == [2, 1, 1, 1]
    x = images(3)
    assert torch.equal(PackedNetwork(made)(x), PackedNetwork(made, fuse=False)(x))


def test_threads_do_not_change_results(monkeypatch):
    monkeypatch.setattr("bnas.kernels.cpu.plan.MICROSECONDS_FOR_THREADS", 0)
    made, x = packed(trained(Cell("bats"))), images(6)
    expected = PackedNetwork(made)(x)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(PackedNetwork(made)(x), expected)
    finally:
        torch.set_num_threads(before)


def test_weights_are_laid_out_once_whatever_batches_come(monkeypatch):
    lay_out, made = BinaryLayer._lay_out, []

    def counted(layer, *form_and_pixels):
        made.append((layer, *form_and_pixels))
        return lay_out(layer, *form_and_pixels)

    monkeypatch.setattr(BinaryLayer, "_lay_out", counted)
    network = PackedNetwork(packed(trained(Cell("bats"))))
    for count in (1, 3, 1, 5, 3):
        network(images(count))
    assert made
    assert len(set(made)) == len(made)


def test_logits_stay_when_the_network_runs_again():
    network = PackedNetwork(packed(trained(nn.Sequential(
        NormBinarize(3, SCHEME), BinaryConv2d(3, 5, 9, SCHEME), nn.Flatten()
    ))))  # fmt: skip
    first = network(images(2, seed=1))
    before = first.clone()
    network(images(2, seed=2))
    assert torch.equal(first, before)


def test_several_python_threads_may_call_one_network():
    network = PackedNetwork(packed(trained(Cell("bats"))))
    batches = [images(4, seed=seed) for seed in range(8)]
    expected = [network(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network, batches))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@st.composite
def layers(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = groups * draw(st.integers(1, 40)), groups * draw(st.integers(1, 40))
    counts = draw(st.tuples(st.integers(0, 3), st.integers(1, 3)))
    return channels, filters, groups, draw(st.integers(0, 999)), draw(st.tuples(*[st.booleans()] * 6)), counts


def parity(x, threshold, groups):
    """Of each value, whether an odd number of its comparisons holds."""
    comparisons = [
        reference.threshold_pack(x.transpose(0, 3, 1, 2), value, threshold.flip, groups) for value in threshold.value
    ]
    return np.bitwise_xor.reduce(comparisons)


@pytest.mark.parametrize("form", forms_here(), ids=lambda form: form.name)
@settings(deadline=None, max_examples=60)
@given(layers())
def test_what_follows_a_convolution_rounds_as_operations_one_by_one(form, layer):
    channels, filters, groups, seed, (scaled, normed, sloped, limited, shuffled, to_bits), (adds, comparisons) = layer
    generator = np.random.default_rng(seed)

    def floats(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    x, w = floats(2, 4, 5, channels), np.where(floats(filters, channels // groups, 3, 3) < 0, -1.0, 1.0)
    before = Threshold(floats(comparisons, channels), generator.random(channels) < 0.5)
    after = Threshold(floats(comparisons, filters), generator.random(filters) < 0.5)
    source = generator.permutation(filters) if shuffled else None
    follows = Epilogue(
        scale=floats(filters) if scaled else None,
        factor=floats(filters) if normed else None,
        shift=floats(filters) if normed else None,
        slope=floats(filters) if sloped else None,
        low=-2.0 if limited else -np.inf,
        high=3.0 if limited else np.inf,
        source=source,
    )
    options = {"channels": channels, "groups": groups, "padding": (1, 1, 1, 1)}
    bits = parity(x, before, groups)
    sums = reference.conv2d(bits, pack_weights(w), **options)
    expected = sums.astype(np.float32) * (follows.scale if scaled else np.float32(1))
    expected = expected if source is None else expected[..., source]
    expected = expected * follows.factor + follows.shift if normed else expected
    expected = np.where(expected > 0, expected, expected * follows.slope) if sloped else expected
    expected = expected.clip(follows.low, follows.high)
    others = [floats(*expected.shape) for _ in range(adds)]
    for other in others:
        expected = expected + other
    words = parity(expected, after, 1)

    real = np.full(expected.shape, np.nan, np.float32)
    packed_bits = np.full(words.shape, 0xA5A5A5A5, np.uint32)
    # Bits alone, or bits and the real values that they were made from.
    outputs = Outputs(real=None if to_bits else real, bits=packed_bits, bits_threshold=after)
    made = BinaryLayer(form, pack_weights(w), **options, epilogue=follows)
    made.plan(x, outputs, threshold=before, added=others)()
    assert np.array_equal(packed_bits, words)
    if not to_bits:
        assert np.array_equal(real, expected)


def test_a_kernel_says_what_memory_it_does_not_take():
    layer = BinaryLayer(POPCOUNT, pack_weights(np.ones((2, 8, 1, 1))), channels=8)
    x = pack_activations(np.ones((1, 8, 4, 4)))
    with pytest.raises(BnasError, match="the input of a packed kernel must lie pixel by pixel; its strides are"):
        layer.plan(x.transpose(0, 2, 1, 3, 4), Outputs(sums=np.empty((1, 4, 4, 2), np.int32)))
