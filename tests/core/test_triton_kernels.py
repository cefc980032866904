"""Every form of the Triton kernels against the reference: on a GPU where there is one, else in Triton's interpreter.

Triton decides when it is imported whether it compiles or interprets, so that without a GPU this file runs once more in a
process of its own, with TRITON_INTERPRET=1. Gluon (b1) is not interpreted: test_triton_b1.py.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnas.kernels import gpu, ops, reference
from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import pack_activations, pack_matrix, pack_weights

pytest.importorskip("triton")
can_run = torch.cuda.is_available() or gpu.interpreting()
runs = pytest.mark.skipif(not can_run, reason="runs in the process that test_in_the_interpreter starts")

FORMS = ["popc", "int8", *(["b1", "dense"] if torch.cuda.is_available() else [])]
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.mark.skipif(can_run, reason="this is that process, or there is a GPU")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.fixture(autouse=True)
def _poisoned_output(monkeypatch):
    """Memory that a kernel is given to write holds what no kernel writes."""
    new_output = Epilogue.new_output
    monkeypatch.setattr(Epilogue, "new_output", lambda *args: new_output(*args).fill_(-(10**6) - 7))


def signs(*shape, seed=0):
    return np.where(np.random.default_rng(seed).random(shape) < 0.5, -1.0, 1.0)


def words(array):
    return torch.from_numpy(array.view(np.int32)).to(gpu.device())


def real(tensor):
    return tensor.to(gpu.device())


def case(channels, filters=6, size=(4, 5), images=1, groups=1, **options):
    """A geometry, and random words for it."""
    geometry = Geometry(images, *size, channels * groups, filters, groups=groups, **{"kernel": (3, 3), **options})
    bits = words(pack_activations(signs(images, channels * groups, *size), groups))
    return geometry, bits, words(pack_weights(signs(filters, channels, *geometry.kernel, seed=1)))


def run(form, geometry, bits, weight, epilogue=None, tile=0):
    from bnas.kernels.triton_backend import run_form
    from bnas.kernels.triton_forms import FORMS, choice_of

    epilogue = epilogue or Epilogue()
    return run_form(choice_of(form, FORMS[form].tiles[tile]), geometry, bits, weight, epilogue)


def expected(geometry, bits, weight, epilogue=None):
    parts = epilogue or Epilogue()
    on_cpu = [t if t is None else t.cpu() for t in (parts.scale, parts.value, parts.flip)]
    return ops.by_reference(geometry, bits.cpu(), weight.cpu(), Epilogue(*on_cpu, parts.groups))


def check(form, geometry, bits, weight, epilogue=None, tile=0):
    got = run(form, geometry, bits, weight, epilogue, tile).cpu()
    right = expected(geometry, bits, weight, epilogue)
    assert got.dtype == right.dtype
    assert torch.equal(got, right)


@runs
@every_form
@pytest.mark.parametrize("channels", [1, 7, 8, 31, 32, 33, 63, 64, 65])
def test_channels(form, channels):
    check(form, *case(channels, padding=(1, 1, 1, 1)))


@runs
@every_form
@pytest.mark.parametrize("pad_value", [0, 1, -1])
@pytest.mark.parametrize("groups", [1, 2])
def test_paddings_and_groups(form, pad_value, groups):
    check(form, *case(33, padding=(1, 0, 2, 1), pad_value=pad_value, groups=groups, images=2))


@runs
@every_form
@pytest.mark.parametrize(
    ("stride", "dilation", "padding"),
    [
        ((2, 2), (1, 1), (1, 1, 1, 1)),
        ((1, 3), (2, 1), (2, 0, 2, 1)),
        ((1, 1), (1, 2), (-1, 1, 1, -1)),
        ((2, 1), (2, 2), (2,) * 4),
    ],
)
def test_strides_dilations_and_crops(form, stride, dilation, padding):
    check(form, *case(12, size=(7, 6), kernel=(3, 2), stride=stride, dilation=dilation, padding=padding))


@st.composite
def convolutions(draw):
    groups, kernel = draw(st.integers(1, 2)), (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 2))
    dilation = draw(pairs)
    # Two crops of 1 leave room for the kernel.
    size = tuple(d * (k - 1) + 3 + draw(st.integers(0, 2)) for d, k in zip(dilation, kernel, strict=True))
    return case(
        draw(st.integers(1, 66)),
        groups * draw(st.integers(1, 5)),
        size,
        draw(st.integers(1, 2)),
        groups,
        kernel=kernel,
        stride=draw(pairs),
        dilation=dilation,
        padding=draw(st.tuples(*[st.integers(-1, 2)] * 4)),
        pad_value=draw(st.sampled_from([0, 1, -1])),
    )


@runs
@every_form
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(convolutions())
def test_any_convolution(form, convolution):
    check(form, *convolution)


@runs
@every_form
def test_every_tile(form):
    from bnas.kernels.triton_forms import FORMS

    for tile in range(len(FORMS[form].tiles)):
        check(form, *case(40, filters=35, padding=(1, 1, 1, 1)), tile=tile)


def epilogue_of(filters, groups=1):
    generator = torch.Generator().manual_seed(3)
    value, scale = (torch.randn(filters, generator=generator) for _ in range(2))
    # One channel whose sums tie with the threshold.
    scale[0], value[0] = 1, 2
    return Epilogue(real(scale), real(value), real(torch.arange(filters) % 3 == 0), groups)


@runs
@every_form
@pytest.mark.parametrize(
    ("filters", "groups", "out_groups"), [(6, 1, 1), (35, 1, 1), (64, 2, 1), (64, 1, 2), (64, 2, 2)]
)
def test_scale_and_threshold_to_bits(form, filters, groups, out_groups):
    from dataclasses import replace

    geometry, bits, weight = case(18, filters, size=(3, 4), groups=groups, padding=(1, 1, 1, 1))
    epilogue = epilogue_of(filters, out_groups)
    check(form, geometry, bits, weight, Epilogue(epilogue.scale))
    flips = replace(epilogue, flip=epilogue.flip.view(torch.uint8))
    got = run(form, geometry, bits, weight, flips).cpu()
    assert torch.equal(got, expected(geometry, bits, weight, epilogue))


@runs
@every_form
@pytest.mark.parametrize("length", [1, 32, 65, 130])
def test_matmul(form, length):
    a, w = signs(5, length), signs(3, length, seed=1)
    bits, weight = words(pack_matrix(a))[:, None, None, None], words(pack_matrix(w))
    got = run(form, Geometry.of_matmul(5, length, 3), bits, weight)
    assert np.array_equal(got.cpu().numpy().reshape(5, 3), a @ w.T)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 1), (64, 2), (66, 2)])
@pytest.mark.parametrize("order", ["contiguous", "channels_last", "strided"])
def test_pack(dtype, channels, groups, order):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (2, channels, 3, 5), generator=generator).to(dtype)
    x[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    value = torch.randint(-3, 4, (channels,), generator=generator).float()
    flip = torch.arange(channels) % 2 == 0
    right = reference.threshold_pack(x.float().numpy(), value.numpy(), flip.numpy(), groups)
    if order == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif order == "strided":
        x = x.repeat_interleave(2, dim=3)[:, :, :, ::2]
    got = ops.pack(real(x), real(value), real(flip), groups)
    assert np.array_equal(got.cpu().numpy().view(np.uint32), right)


@runs
@pytest.mark.parametrize(("channels", "groups"), [(7, 1), (66, 2)])
def test_unpack(channels, groups):
    from bnas.kernels.triton_launch import unpack

    x = signs(2, channels, 3, 5)
    got = unpack(words(pack_activations(x, groups)), channels, torch.float16)
    assert np.array_equal(got.permute(0, 3, 1, 2).cpu().numpy(), x)


@runs
def test_no_images_give_no_sums():
    geometry, bits, weight = case(8, images=0)
    for form in FORMS:
        assert run(form, geometry, bits, weight).shape == (0, 2, 3, 6)
    assert ops.pack(real(torch.ones(0, 8, 2, 2)), real(torch.ones(8)), real(torch.ones(8) > 0), 1).shape == (
        0,
        2,
        2,
        1,
        1,
    )


@runs
def test_operators_run_the_kernels(monkeypatch):
    """On GPU tensors, and on CPU tensors in the interpreter, it is not the reference that answers."""
    from bnas.kernels import triton_backend

    geometry, bits, weight = case(33, padding=(1, 1, 1, 1))
    arguments = (bits, weight, 33, [1, 1], [1, 1, 1, 1], [1, 1], 1, 0)
    right = expected(geometry, bits, weight)
    monkeypatch.setattr(ops, "by_reference", None)
    monkeypatch.setattr(triton_backend, "choose", lambda *_: triton_backend.INTERPRETED)
    assert torch.equal(ops.xnor_conv2d(*arguments).cpu(), right)
    # Bits whose pixels do not lie together, and rows with gaps.
    spread = bits.repeat_interleave(2, dim=2)[:, :, ::2]
    assert torch.equal(ops.xnor_conv2d(spread, weight, *arguments[2:]).cpu(), right)
