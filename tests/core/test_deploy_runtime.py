"""The packed network as a callable: what it takes, what it gives, what it says when it is given something else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnas.binary.schemes import make_scheme
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError
from bnas.kernels import BACKENDS, Backend, get_backend, reference
from bnas.layers import BinaryLinear, NormBinarize
from bnas.registry import Registry
from tests.core.packed_networks import SHAPE, Cell, images, packed, trained


@pytest.fixture(scope="module")
def network():
    return PackedNetwork(packed(trained(Cell("bats"))))


def test_numpy_in_numpy_out_and_torch_in_torch_out(network):
    x = images(5)
    logits = network(x)
    assert (type(logits), logits.dtype, tuple(logits.shape)) == (torch.Tensor, torch.float32, (5, 5))
    as_array = network(x.numpy())
    assert (type(as_array), as_array.dtype) == (np.ndarray, np.float32)
    assert np.array_equal(as_array, logits.numpy())


def test_memory_order_does_not_matter(network):
    x = images(4)
    expected = network(x)
    assert torch.equal(network(x.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(network(x.clone().requires_grad_()), expected)
    flipped = np.ascontiguousarray(x.numpy()[:, :, ::-1])[:, :, ::-1]
    flipped.flags.writeable = False
    assert np.array_equal(network(flipped), expected.numpy())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_of_any_size(network, count):
    x = images(8)
    assert network(x[:count]).shape == (count, 5)
    assert torch.allclose(network(x[:count]), network(x)[:count], atol=1e-5)


def test_predict_normalizes_with_the_mean_and_std_of_the_file(network):
    pixels = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    x = (pixels.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.25)
    assert np.array_equal(network.predict(pixels), network(x))
    assert torch.equal(network.predict(torch.from_numpy(pixels)), network(torch.from_numpy(x)))


def test_it_leaves_its_input_as_it_is(network):
    x, pixels = images(2), np.full((1, *SHAPE), 7, np.uint8)
    before = x.clone()
    network(x)
    network.predict(pixels)
    assert torch.equal(x, before)
    assert (pixels == 7).all()


def test_it_says_what_it_is_and_which_backend_runs(network):
    assert network.backend == "cpu"
    detail = get_backend("cpu").detail
    assert repr(network) == f"PackedNetwork(31 operations, images 3 x 9 x 9, 5 classes, backend cpu ({detail}))"
    plain = PackedNetwork(network.packed, "reference")
    assert repr(plain) == "PackedNetwork(31 operations, images 3 x 9 x 9, 5 classes, backend reference)"
    assert network.classes == ("cat", "dog", "fox", "owl", "yak")


@pytest.mark.parametrize(
    ("call", "given", "message"),
    [
        (
            "__call__",
            np.zeros((1, 3, 9, 8), np.float32),
            r"images must have the shape \[N, 3, 9, 9\]; found \[1, 3, 9, 8\]",
        ),
        ("__call__", np.zeros((1, 1, 9, 9), np.float32), r"the shape \[N, 3, 9, 9\]; found \[1, 1, 9, 9\]"),
        ("__call__", np.zeros((3, 9, 9), np.float32), r"the shape \[N, 3, 9, 9\]; found \[3, 9, 9\]"),
        ("__call__", np.zeros((1, 3, 9, 9)), "images must be normalized float32, or uint8 for predict; found float64"),
        ("__call__", torch.zeros(1, 3, 9, 9, dtype=torch.uint8), "or uint8 for predict; found uint8"),
        ("__call__", np.zeros((1, 3, 9, 9), ">f4"), "found >f4"),
        ("__call__", [[0.0]], "images must be a NumPy array or a torch tensor; found list"),
        ("predict", np.zeros((1, 3, 9, 9), np.float32), "images must be uint8; found float32"),
        ("predict", np.zeros((1, 3, 8, 9), np.uint8), r"found \[1, 3, 8, 9\]"),
    ],
)
def test_other_images_are_refused(network, call, given, message):
    with pytest.raises(BnasError, match=message):
        getattr(network, call)(given)


def test_watch_sees_every_operation_in_order(network):
    seen = []
    network.run(images(1), lambda op, value: seen.append(op))
    assert tuple(seen) == network.program.ops


def test_the_chosen_backend_runs(monkeypatch):
    calls = []

    def counted(kernel):
        def call(*arguments, **options):
            calls.append(kernel.__name__)
            return kernel(*arguments, **options)

        return call

    kernels = [counted(kernel) for kernel in (reference.conv2d, reference.matmul, reference.threshold_pack)]
    table = Registry("backend", {**BACKENDS, "counting": lambda: Backend("counting", *kernels)})
    monkeypatch.setattr("bnas.kernels.BACKENDS", table)
    made = packed(trained(Cell("bats")))
    network = PackedNetwork(made, backend="counting")
    assert network.backend == "counting"
    assert torch.equal(network(images()), PackedNetwork(made)(images()))
    assert (calls.count("conv2d"), calls.count("matmul"), calls.count("threshold_pack")) == (5, 1, 5)


POOLS = st.tuples(*[st.integers(1, 4)] * 2)


@settings(deadline=None, max_examples=60)
@given(POOLS, POOLS, st.tuples(*[st.integers(0, 2)] * 2), st.booleans(), st.booleans(), st.sampled_from(["max", "avg"]))
def test_pooling_has_the_shape_and_values_of_torch(kernel, stride, padding, ceil_mode, count_include_pad, kind):
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    pool = (
        nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
        if kind == "max"
        else nn.AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad)
    )
    x = images(2, (1, 7, 6))
    expected = pool(x).flatten(1)
    made = packed(nn.Sequential(pool, nn.Flatten()), (1, 7, 6), tuple(map(str, range(expected.shape[1]))))
    assert torch.equal(PackedNetwork(made)(x), expected)


@pytest.mark.parametrize("size", [(4, 1, 1), (3, 5, 7), (40, 2, 3)])
def test_flat_bits_keep_the_order_of_torch(size):
    scheme = make_scheme("bats")
    features = size[0] * size[1] * size[2]
    model = trained(nn.Sequential(NormBinarize(size[0], scheme), nn.Flatten(), BinaryLinear(features, 4, scheme)), size)
    x = images(6, size)
    with torch.no_grad():
        assert torch.equal(PackedNetwork(packed(model, size, tuple("abcd")))(x), model(x))
