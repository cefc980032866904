"""Comparisons of integer sums in place of what follows them: the same bits for every sum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnas.binary.schemes import make_scheme
from bnas.deploy.file import Packed
from bnas.deploy.rewrite import Rewritten, rewrite
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.shapes import infer
from bnas.deploy.sums import compare_sums
from bnas.layers import BinaryConv2d, NormBinarize
from tests.core.packed_networks import CLASSES, images, packed, trained


def compared(made, takes=lambda conv, threshold: True):
    """The file with comparisons of sums; it runs like any other."""
    values = infer(made.program, {name: tensor.shape for name, tensor in made.tensors.items()})
    changed, tensors = compare_sums(Rewritten(made.program, values, {}), made.tensors, takes)
    used = {name for op in changed.program.ops for name in op.tensors.values()}
    return Packed(changed.program, {name: tensors[name] for name in used})


def network(scheme_name, *between, channels=6, groups=1):
    scheme = make_scheme(scheme_name)
    model = nn.Sequential(
        NormBinarize(3, scheme), BinaryConv2d(3, channels, 3, scheme, padding=1), *between,
        NormBinarize(channels, scheme), BinaryConv2d(channels, 6, 3, scheme, groups=groups), nn.BatchNorm2d(6),
        NormBinarize(6, scheme), BinaryConv2d(6, 4, 7, scheme), nn.Flatten(), nn.Linear(4, len(CLASSES)),
    )  # fmt: skip
    return packed(trained(model))


BETWEEN = {
    "nothing": list,
    "norm": lambda: [nn.BatchNorm2d(6)],
    "norm, relu": lambda: [nn.BatchNorm2d(6), nn.ReLU()],
    "hardtanh, norm": lambda: [nn.Hardtanh(-3, 3), nn.BatchNorm2d(6)],
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("scheme", ["bireal", "xnor"])
def test_sums_are_compared_in_place_of_what_is_made_of_them(scheme, between):
    made = network(scheme, *BETWEEN[between]())
    changed = compared(made)
    assert [op.kind for op in changed.program.ops][:5] == ["threshold", "binary_conv2d"] * 2 + ["threshold"]
    assert all("scale" not in op.tensors for op in changed.program.ops[:4])
    x = images(4)
    assert torch.equal(PackedNetwork(changed)(x), PackedNetwork(made, "reference")(x))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([1, 2]))
def test_any_parameters_give_the_bits_of_the_operations(seed, groups):
    generator = np.random.default_rng(seed)
    made = MADE[groups]
    odd = [0.0, -0.0, 1e-30, -1e30, 0.1, -1.0, np.inf, -np.inf]
    tensors = dict(made.tensors)
    for name, tensor in made.tensors.items():
        if tensor.dtype == np.float32 and name.split(".")[-1] in ("value", "scale", "shift"):
            finite = [v for v in odd if name.endswith("value") or np.isfinite(v)]
            some = generator.choice(np.float32(finite), tensor.shape)
            tensors[name] = np.where(generator.random(tensor.shape) < 0.4, some, tensor)
        elif tensor.dtype == np.uint8:
            tensors[name] = generator.integers(0, 2, tensor.shape, np.uint8)
    given_ = Packed(made.program, tensors)
    x = images(2)
    with np.errstate(all="ignore"):
        assert torch.equal(PackedNetwork(compared(given_), fuse=False)(x), PackedNetwork(given_, fuse=False)(x))


MADE = {groups: network("xnor", nn.BatchNorm2d(6), nn.ReLU(), groups=groups) for groups in (1, 2)}


def test_a_bit_that_changes_twice_is_left_as_it_is():
    made = network("bireal", nn.PReLU(6))
    # `trained` gives slopes of both signs, so that some channel falls and rises again.
    assert (made.tensors["2.slope"] < 0).any()
    assert "prelu" in [op.kind for op in compared(made).program.ops]


def test_what_a_back_end_does_not_take_is_left_as_it_is():
    made = network("bireal", nn.BatchNorm2d(6))
    assert compared(made, lambda conv, threshold: False).program == made.program


def test_behind_a_pool_of_bits_the_comparison_is_one_of_sums():
    made = network("xnor", nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(6))
    changed, _ = compare_sums(rewrite(made.program, made.tensors), made.tensors, lambda conv, threshold: True)
    assert [op.kind for op in changed.program.ops][:4] == ["threshold", "binary_conv2d", "threshold", "max_pool2d"]


def test_filters_are_tried_some_at_a_time(monkeypatch):
    made = network("xnor", nn.BatchNorm2d(6))
    at_once = compared(made)
    monkeypatch.setattr("bnas.deploy.sums.FILTERS_AT_ONCE", 4)
    in_parts = compared(made)
    assert all(np.array_equal(at_once.tensors[name], tensor) for name, tensor in in_parts.tensors.items())
