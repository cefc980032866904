"""The kernels as torch operators: what torch checks of an operator, what compilers and counters see, what they refuse."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bnas.errors import BnasError
from bnas.kernels import get_backend, gpu, ops, reference
from bnas.kernels.packing import pack_activations, pack_matrix, pack_weights, unpack_activations


@pytest.fixture(autouse=True)
def _one_form_on_gpus(monkeypatch):
    if torch.cuda.is_available():
        from bnas.kernels import triton_backend

        monkeypatch.setattr(triton_backend, "choose", lambda *_: triton_backend.INTERPRETED)


device = "cuda" if torch.cuda.is_available() else "cpu"


def signs(*shape, seed=0):
    return np.where(np.random.default_rng(seed).random(shape) < 0.5, -1.0, 1.0)


def words(array):
    return torch.from_numpy(array.view(np.int32)).to(device)


BITS, WEIGHT = words(pack_activations(signs(2, 40, 5, 6))), words(pack_weights(signs(6, 40, 3, 3, seed=1)))
ROWS, MATRIX = words(pack_matrix(signs(5, 70))), words(pack_matrix(signs(3, 70, seed=1)))
GEOMETRY = (40, [2, 1], [1, 1, 0, 1], [1, 1], 1, 0)
SCALE, VALUE, FLIP = (
    t.to(device) for t in (torch.linspace(-1, 1, 6), torch.linspace(-3, 3, 6), torch.arange(6) % 2 == 0)
)
X = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0)).to(device)

CALLS = [
    (ops.pack, (X, VALUE, FLIP, 2)),
    (ops.xnor_matmul, (ROWS, MATRIX, 70)),
    (ops.xnor_matmul, (ROWS, MATRIX, 70, SCALE[:3].clone())),
    (ops.xnor_conv2d, (BITS, WEIGHT, *GEOMETRY)),
    (ops.xnor_conv2d, (BITS, WEIGHT, *GEOMETRY, SCALE)),
    (ops.xnor_conv2d_bits, (BITS, WEIGHT, *GEOMETRY, SCALE, VALUE, FLIP, 1)),
]


@pytest.mark.parametrize(("operator", "arguments"), CALLS)
def test_torch_finds_the_operator_sound(operator, arguments):
    torch.library.opcheck(operator, arguments)


def test_they_compute_what_the_reference_does():
    sums = reference.conv2d(
        pack_activations(signs(2, 40, 5, 6)),
        pack_weights(signs(6, 40, 3, 3, seed=1)),
        channels=40,
        stride=(2, 1),
        padding=(1, 1, 0, 1),
    )
    assert np.array_equal(ops.xnor_conv2d(BITS, WEIGHT, *GEOMETRY).cpu().numpy(), sums)
    scaled = torch.from_numpy(sums).float() * SCALE.cpu()
    assert torch.equal(ops.xnor_conv2d(BITS, WEIGHT, *GEOMETRY, SCALE).cpu(), scaled)
    packed = ops.xnor_conv2d_bits(BITS, WEIGHT, *GEOMETRY, SCALE, VALUE, FLIP, 1).cpu().numpy().view(np.uint32)
    value, flip = VALUE.cpu().view(-1, 1, 1), FLIP.cpu().view(-1, 1, 1)
    y = scaled.permute(0, 3, 1, 2)
    assert np.array_equal(unpack_activations(packed, 6), np.where(torch.where(flip, y <= value, y >= value), 1, -1))
    products = signs(5, 70) @ signs(3, 70, seed=1).T
    assert np.array_equal(ops.xnor_matmul(ROWS, MATRIX, 70).cpu().numpy(), products)


def test_compiling_and_running_are_the_same():
    def network(x):
        bits = ops.pack(x, VALUE, FLIP, 1)
        weight = WEIGHT[:, :, :, :1].contiguous() & 63
        return ops.xnor_conv2d(bits, weight, 6, [1, 1], [1, 1, 1, 1], [1, 1], 1, 0, SCALE) * 2

    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(X), network(X))


def test_flops_are_two_a_product():
    with FlopCounterMode(display=False) as counter:
        ops.xnor_conv2d(BITS, WEIGHT, *GEOMETRY)
        ops.xnor_conv2d_bits(BITS, WEIGHT, *GEOMETRY, SCALE, VALUE, FLIP, 1)
        ops.xnor_matmul(ROWS, MATRIX, 70)
    assert counter.get_total_flops() == 2 * (2 * 2 * 6 * 6) * 9 * 40 * 2 + 2 * 5 * 3 * 70


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.pack(X, VALUE, FLIP, 4), "6 channels do not divide into 4 groups"),
        (lambda: ops.pack(X[0], VALUE, FLIP, 1), "need 4 dimensions"),
        (lambda: ops.pack(X, VALUE[:5], FLIP, 1), "as many thresholds and flips; found 5 and 6"),
        (lambda: ops.pack(X, VALUE.double(), FLIP, 1), "found torch.float64 and torch.bool"),
        (lambda: ops.xnor_matmul(ROWS, MATRIX, 99), "over 99 elements needs rows of 4 words"),
        (lambda: ops.xnor_matmul(ROWS, MATRIX, 70, SCALE), r"scale has the shape \(6,\); 3 filters need as many"),
        (
            lambda: ops.xnor_conv2d(BITS, WEIGHT, 99, *GEOMETRY[1:]),
            r"99 channels in 1 groups need words \(2, 5, 6, 1, 4\)",
        ),
        (lambda: ops.xnor_conv2d(BITS[0], WEIGHT, *GEOMETRY), r"takes words \[N, H, W, groups, words\]"),
        (lambda: ops.xnor_conv2d(BITS.float(), WEIGHT, *GEOMETRY), "words are int32 tensors; found torch.float32"),
        (lambda: ops.xnor_conv2d(BITS, WEIGHT, *GEOMETRY[:-1], 3), "pad_value 3: allowed are -1, 0 and 1"),
        (
            lambda: ops.xnor_conv2d_bits(BITS, WEIGHT, *GEOMETRY, SCALE, VALUE, FLIP, 2),
            "6 filters in 1 groups cannot be packed in 2 groups",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(BnasError, match=message):
        call()


def test_what_the_back_end_lacks_is_said(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(BnasError, match="needs an NVIDIA GPU and its driver"):
        get_backend("triton")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BnasError, match=r"needs a torch with CUDA; torch .* here has none: install a CUDA build"):
        get_backend("triton")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BnasError, match=r"pip install 'bnas\[triton\]'"):
        get_backend("triton")
