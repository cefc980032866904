"""The packed network on the device of the Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import bnas
from bnas.binary.schemes import make_scheme
from bnas.deploy import file
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.kernels import gpu
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from tests.core.packed_networks import images, packed, trained

pytest.importorskip("triton")
can_run = torch.cuda.is_available() or gpu.interpreting()
runs = pytest.mark.skipif(not can_run, reason="runs in the process that test_in_the_interpreter starts")

SHAPE = (2, 4, 4)


@pytest.mark.skipif(can_run, reason="this is that process, or there is a GPU")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


class Small(nn.Module):
    """A convolution that only a threshold reads, one that others read too, one in groups; a pool; flattened bits."""

    def __init__(self) -> None:
        super().__init__()
        scheme = make_scheme("bats")
        self.first, self.second = NormBinarize(2, scheme), NormBinarize(6, scheme)
        self.widen = BinaryConv2d(2, 6, 3, scheme, padding=1)
        self.within = BinaryConv2d(6, 6, 1, scheme)
        self.apart = BinaryConv2d(6, 6, 3, scheme, padding=1, groups=2)
        self.third, self.fourth, self.pool = NormBinarize(6, scheme), NormBinarize(6, scheme), nn.AvgPool2d(2)
        self.hidden = BinaryLinear(24, 4, scheme)
        self.classifier = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.widen(self.first(x)))
        x = self.within(x)
        x = x + self.apart(self.fourth(x))
        x = self.pool(torch.relu(x) + x)
        return self.classifier(self.hidden(torch.flatten(self.third(x), 1)))


@pytest.fixture(scope="module")
def model():
    return trained(Small(), SHAPE)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    target = tmp_path_factory.mktemp("packed") / "model.bnas"
    file.save(packed(model, SHAPE), target)
    return target


@runs
def test_its_logits_are_those_of_the_reference(path):
    network, x = bnas.load(path, backend="triton"), images(2, SHAPE)
    assert network.backend == "triton"
    assert [step.op.name for step in network._steps if step.threshold] == ["widen"]
    assert "flatten" not in [step.op.kind for step in network._steps][:-1]
    logits = network(x)
    assert torch.allclose(logits, bnas.load(path)(x), rtol=1e-5, atol=1e-5)
    assert logits.device == x.device
    assert torch.allclose(torch.from_numpy(network(x.numpy())), logits)
    on_device = network(x.to(network.device))
    assert on_device.device.type == network.device.type


class Chain(nn.Module):
    """Norms, an activation and pools between products that are only compared; then a layer on a whole map."""

    def __init__(self) -> None:
        super().__init__()
        scheme = make_scheme("xnor")
        self.body = nn.Sequential(
            NormBinarize(2, scheme), BinaryConv2d(2, 6, 3, scheme, padding=1), nn.BatchNorm2d(6), nn.Hardtanh(-2, 2),
            NormBinarize(6, scheme), BinaryConv2d(6, 6, 1, scheme), nn.MaxPool2d(2, 1), nn.BatchNorm2d(6),
            NormBinarize(6, scheme), BinaryConv2d(6, 6, 3, scheme, padding=1), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            NormBinarize(6, scheme), nn.Flatten(), BinaryLinear(24, 5, scheme),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Signs(nn.Module):
    """Products of several signs, one of them a parity, and a layer on a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        scheme = make_scheme("rebnet")
        self.first, self.second = NormBinarize(2, scheme), NormBinarize(6, scheme)
        self.conv, self.hidden = BinaryConv2d(2, 6, 3, scheme, padding=1), BinaryLinear(96, 5, scheme)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden(torch.flatten(self.second(self.conv(self.first(x))), 1))


def device_network(model, tmp_path):
    file.save(packed(model, SHAPE), tmp_path / "model.bnas")
    return bnas.load(tmp_path / "model.bnas", backend="triton")


@runs
def test_only_bits_lie_between_products_that_are_only_compared(tmp_path):
    model = trained(Chain(), SHAPE)
    network, x = device_network(model, tmp_path), images(2, SHAPE).round()
    assert [(step.op.kind, step.threshold is not None) for step in network._steps] == [
        ("threshold", False), ("binary_conv2d", True), ("binary_conv2d", True), ("max_pool2d", False),
        ("binary_conv2d", True), ("max_pool2d", False), ("binary_linear", False),
    ]  # fmt: skip
    logits = network(x)
    assert torch.equal(logits, bnas.load(tmp_path / "model.bnas", backend="reference")(x))
    assert torch.equal(logits, network.run(x, lambda op, value: None).cpu())


@runs
def test_products_of_several_signs(tmp_path):
    model = trained(Signs(), SHAPE)
    network, x = device_network(model, tmp_path), images(2, SHAPE)
    assert "parity_threshold" in {step.op.kind for step in network._steps}
    assert torch.allclose(network(x), bnas.load(tmp_path / "model.bnas")(x), rtol=1e-5, atol=1e-5)
    report = verify(model, network, images(1, SHAPE))
    assert report.ok, report.first_difference


@runs
def test_pixels_and_no_images(path):
    network = bnas.load(path, backend="triton")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), dtype=np.uint8)
    assert np.allclose(network.predict(pixels), bnas.load(path).predict(pixels), rtol=1e-5, atol=1e-5)
    assert network(images(0, SHAPE)).shape == (0, 5)


@runs
def test_every_layer_is_the_trained_one(path, model):
    report = verify(model, bnas.load(path, backend="triton"), images(1, SHAPE))
    assert report.ok, report.first_difference
    assert (report.backend, report.argmax_equal, report.sign_flips) == ("triton", 1.0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_captured_run_equals_an_eager_one(path):
    network = bnas.load(path, backend="triton")
    replay = network.capture(batch=1)
    for seed in range(3):
        x = images(1, SHAPE, seed).cuda()
        assert torch.equal(replay(x), network(x))
    with pytest.raises(BnasError, match="captured for 1 images; found 2"):
        replay(images(2, SHAPE).cuda())


@pytest.mark.skipif(torch.cuda.is_available() or not gpu.interpreting(), reason="the interpreter's refusal")
def test_there_is_no_graph_without_a_gpu(path):
    with pytest.raises(BnasError, match="a CUDA graph needs a GPU"):
        bnas.load(path, backend="triton").capture()


@pytest.mark.skipif(can_run, reason="there is a device")
def test_without_a_device_it_is_not_loaded(path):
    with pytest.raises(BnasError, match="the triton back end needs"):
        bnas.load(path, backend="triton")
    assert isinstance(bnas.load(path), PackedNetwork)
