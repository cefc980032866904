"""Every back end against torch on -1/+1 tensors in float64: equal integers, whatever the shape."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.errors import BnasError
from bnas.kernels import BACKENDS, Backend, cpu, get_backend, reference
from bnas.kernels.cpu.forms import forms_here
from bnas.kernels.packing import pack_activations, pack_matrix, pack_weights, unpack_activations

SIZES = (1, 7, 8, 31, 32, 33, 63, 64, 65)


def signs(*shape, seed=0):
    return np.where(np.random.default_rng(seed).random(shape) < 0.5, -1.0, 1.0)


def by_torch(x, w, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, pad_value=0):
    top, left, bottom, right = padding
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom), value=float(pad_value))
    sums = F.conv2d(padded, torch.from_numpy(w), None, stride, 0, dilation, groups)
    return sums.round().to(torch.int32).permute(0, 2, 3, 1).numpy()


DEFAULTS = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, "pad_value": 0}


def here(name):
    """The back end, or the reason why this machine has none."""
    try:
        return pytest.param(get_backend(name), id=name)
    except BnasError as error:
        return pytest.param(None, id=name, marks=pytest.mark.skip(reason=str(error)))


def inner_loops_of_the_cpu():
    """The CPU back end has several inner loops; those that this processor runs."""
    for form in forms_here():
        kernels = (partial(cpu.conv2d, form), partial(cpu.matmul, form), cpu.threshold_pack)
        yield pytest.param(Backend(f"cpu {form.name}", *kernels), id=f"cpu {form.name}")


every_backend = pytest.mark.parametrize("backend", [*map(here, BACKENDS), *inner_loops_of_the_cpu()])


@pytest.fixture(scope="module", autouse=True)
def _one_form_on_gpus():
    """These hundreds of shapes are not worth measuring which form is the quickest: the plain one runs."""
    with pytest.MonkeyPatch.context() as patch:
        if torch.cuda.is_available():
            from bnas.kernels import triton_backend

            patch.setattr(triton_backend, "choose", lambda *_: triton_backend.INTERPRETED)
        yield


def by_bits(backend, x, w, **options):
    options = {**DEFAULTS, **options}
    words = pack_activations(x, options["groups"])
    return backend.conv2d(words, pack_weights(w), channels=x.shape[1], **options)


@every_backend
@pytest.mark.parametrize("channels", SIZES)
@pytest.mark.parametrize("pad_value", [0, 1, -1])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_over_channels_paddings_and_groups(backend, channels, pad_value, groups):
    x, w = signs(2, channels * groups, 5, 6), signs(4, channels, 3, 3, seed=1)
    options = {"padding": (1, 1, 1, 1), "pad_value": pad_value, "groups": groups}
    assert np.array_equal(by_bits(backend, x, w, **options), by_torch(x, w, **options))


@every_backend
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 2, 2, 2), (0, 3, 1, 2), (-1, -1, 1, 1), (-1, 0, 0, -2)])
@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_convolution_over_strides_dilations_and_sides(backend, stride, dilation, padding, pad_value):
    x, w = signs(2, 12, 9, 10), signs(6, 4, 3, 2, seed=1)
    options = {"stride": stride, "dilation": dilation, "padding": padding, "pad_value": pad_value, "groups": 3}
    assert np.array_equal(by_bits(backend, x, w, **options), by_torch(x, w, **options))


@st.composite
def convolutions(draw):
    groups, kernel = draw(st.integers(1, 3)), (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    options = {
        "stride": draw(pairs),
        "dilation": draw(pairs),
        "padding": draw(st.tuples(*[st.integers(-2, 3)] * 4)),
        "pad_value": draw(st.sampled_from([0, 1, -1])),
        "groups": groups,
    }
    spans = [d * (k - 1) + 1 for d, k in zip(options["dilation"], kernel, strict=True)]
    # Two crops of 2 leave at least one pixel, and the kernel fits after them.
    size = [span + 4 + draw(st.integers(0, 4)) for span in spans]
    seed = draw(st.integers(0, 999))
    x = signs(draw(st.integers(1, 3)), groups * draw(st.integers(1, 70)), *size, seed=seed)
    w = signs(groups * draw(st.integers(1, 3)), x.shape[1] // groups, *kernel, seed=seed + 1)
    return x, w, options


@every_backend
@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_any_convolution(backend, convolution):
    x, w, options = convolution
    assert np.array_equal(by_bits(backend, x, w, **options), by_torch(x, w, **options))


@pytest.mark.parametrize("at_once", [1, 7, 40])
def test_chunks_do_not_change_the_sums(monkeypatch, at_once):
    x, w = signs(5, 33, 8, 7), signs(4, 33, 3, 3, seed=1)
    options = {"padding": (1, 1, 1, 1), "stride": (2, 1)}
    expected = by_torch(x, w, **options)
    monkeypatch.setattr(reference, "PIXELS_AT_ONCE", at_once)
    assert np.array_equal(by_bits(get_backend("reference"), x, w, **options), expected)
    a, b = signs(50, 65), signs(3, 65, seed=1)
    assert np.array_equal(reference.matmul(pack_matrix(a), pack_matrix(b), 65), a @ b.T)


@every_backend
def test_sums_reach_their_extremes(backend):
    """No bit equal, and all: partial sums in narrow integers must not overflow, which random bits would not show."""
    x, w = np.ones((1, 300, 3, 3)), -np.ones((34, 300, 3, 3))
    assert (by_bits(backend, x, w) == -2700).all()
    assert (by_bits(backend, x, -w) == 2700).all()
    assert (backend.matmul(pack_matrix(np.ones((9, 2000))), pack_matrix(-np.ones((50, 2000))), 2000) == -2000).all()


@every_backend
def test_inputs_need_not_be_contiguous(backend):
    x, w = signs(2, 40, 6, 6), signs(4, 40, 3, 3, seed=1)
    words, weights = pack_activations(x), pack_weights(w)
    expected = by_torch(x, w)
    spread = np.repeat(words, 2, axis=1)[:, ::2]
    assert not spread.flags.c_contiguous
    got = backend.conv2d(spread, np.asfortranarray(weights), channels=40, **DEFAULTS)
    assert np.array_equal(got, expected)


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory is full of rubbish, integers too: what a kernel forgets to write shows."""
    # Compiled first: the compiler does not know the function below.
    cpu.threshold_pack(np.zeros((1, 2, 1, 2), np.float32), np.zeros(2, np.float32), np.zeros(2, bool))
    empty = np.empty

    def rubbish(*arguments, **options):
        array = empty(*arguments, **options)
        array.view(np.uint8).fill(0xA5) if array.size and array.ndim else None
        return array

    monkeypatch.setattr(np, "empty", rubbish)
    assert np.empty(1, np.int32)[0] == -1515870811


@every_backend
@pytest.mark.parametrize("channels", [8, 33, 65])
def test_fresh_memory_is_written_whole(poisoned, backend, channels):
    x, w = signs(2, 3 * channels, 7, 5), signs(51, channels, 3, 3, seed=1)
    options = {"padding": (1, 1, 1, 1), "stride": (2, 1), "groups": 3}
    assert np.array_equal(by_bits(backend, x, w, **options), by_torch(x, w, **options))
    a, b = signs(5, channels), signs(18, channels, seed=1)
    assert np.array_equal(backend.matmul(pack_matrix(a), pack_matrix(b), channels), a @ b.T)
    real = x.astype(np.float32)
    by_pixel = np.ascontiguousarray(real.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for features in (real, by_pixel):
        words = backend.threshold_pack(features, np.zeros(3 * channels, np.float32), np.zeros(3 * channels, bool), 3)
        assert np.array_equal(words, pack_activations(x, 3))


@st.composite
def features_and_thresholds(draw):
    groups = draw(st.integers(1, 4))
    shape = (
        draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 70)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 9)),
    )
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    # Few values, so that ties are many.
    values = generator.choice(np.array([-1, -0.5, -0.0, 0.0, 0.5, np.inf, -np.inf, np.nan], np.float32), shape)
    order = draw(st.permutations(range(4)))
    inverse = [order.index(axis) for axis in range(4)]
    x = np.ascontiguousarray(values.transpose(order)).transpose(inverse)
    if draw(st.booleans()):
        x = np.repeat(x, 2, axis=draw(st.integers(0, 3)))
        x = x[tuple(slice(None, None, 2) if x.shape[a] != shape[a] else slice(None) for a in range(4))]
    value = generator.choice(np.array([-0.5, 0.0, 0.5, np.inf, -np.inf], np.float32), shape[1])
    return x, value, generator.random(shape[1]) < 0.5, groups


@every_backend
@settings(deadline=None, max_examples=80)
@given(features_and_thresholds())
def test_threshold_of_features_in_any_memory_order(backend, given_):
    x, value, flip, groups = given_
    words = backend.threshold_pack(x, value, flip, groups)
    assert np.array_equal(words, reference.threshold_pack(x, value, flip, groups))


@every_backend
def test_no_images_give_no_sums(backend):
    assert by_bits(backend, np.ones((0, 8, 4, 4)), signs(3, 8, 3, 3)).shape == (0, 2, 2, 3)
    assert backend.matmul(np.zeros((0, 2), np.uint32), pack_matrix(signs(5, 40)), 40).shape == (0, 5)


@every_backend
@pytest.mark.parametrize("length", SIZES)
def test_matmul(backend, length):
    a, w = signs(9, length), signs(5, length, seed=1)
    sums = backend.matmul(pack_matrix(a), pack_matrix(w), length)
    assert sums.dtype == np.int32
    assert np.array_equal(sums, a @ w.T)


@every_backend
def test_threshold_ties_are_plus_one_in_both_directions(backend):
    x = np.array([-1.0, 0.5, 2.0], np.float32).reshape(1, 1, 1, 3).repeat(2, axis=1)
    value = np.full(2, 0.5, np.float32)
    words = backend.threshold_pack(x, value, np.array([False, True]), 1)
    assert unpack_activations(words, 2)[0, :, 0].tolist() == [[-1, 1, 1], [1, 1, -1]]


@every_backend
def test_threshold_of_infinity_is_a_constant_and_nan_is_minus_one(backend):
    x = np.array([-3.0, 0.0, np.nan], np.float32).reshape(1, 1, 1, 3).repeat(2, axis=1)
    value = np.array([-np.inf, np.inf], np.float32)
    words = backend.threshold_pack(x, value, np.zeros(2, bool), 2)
    assert unpack_activations(words, 2)[0, :, 0].tolist() == [[1, 1, -1], [-1, -1, -1]]


def conv2d(x_shape=(1, 8, 4, 4), w_shape=(2, 8, 3, 3), packed_groups=1, **options):
    words = pack_activations(np.ones(x_shape), packed_groups)
    return reference.conv2d(words, pack_weights(np.ones(w_shape)), channels=x_shape[1], **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv2d(w_shape=(2, 8, 5, 3)), "spans 5 x 3 does not fit into 4 x 4"),
        (lambda: conv2d(padding=(-4, 0, 0, 0)), "does not fit into 0 x 4"),
        (lambda: conv2d(stride=(0, 1)), r"stride \(0, 1\).* must be at least 1"),
        (lambda: conv2d(pad_value=2), "pad_value 2: allowed are -1, 0 and 1"),
        (lambda: conv2d(groups=3), "8 channels and 2 filters do not divide into 3 groups"),
        (lambda: conv2d(groups=2), r"need 2 x 1 words a pixel and 1 a filter tap; found 1 x 1 and 1"),
        (lambda: conv2d(w_shape=(2, 33, 3, 3)), "found 1 x 1 and 2"),
        (
            lambda: reference.matmul(np.zeros((1, 2), np.uint32), np.zeros((1, 1), np.uint32), 33),
            "over 33 elements needs rows of 2 words; the inputs have 2, the weights 1",
        ),
        (lambda: get_backend("numba2"), "no backend named 'numba2'; there are: cpu, reference, triton"),
    ],
)
def test_errors(call, message):
    with pytest.raises(BnasError, match=message):
        call()


WORDS, FEATURES = np.zeros((1, 5, 5, 1, 1), np.uint32), np.zeros((1, 6, 2, 2), np.float32)
OPTIONS = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1, "pad_value": 0}


def convolve(backend, bits, weight):
    return backend.conv2d(bits, weight, channels=20, **OPTIONS)


def compare(backend, x, channels):
    return backend.threshold_pack(x, np.zeros(channels, np.float32), np.zeros(channels, bool), 1)


@every_backend
@pytest.mark.parametrize(
    ("call", "operands", "message"),
    [
        (convolve, (WORDS.astype(np.int64), np.zeros((2, 3, 3, 1), np.uint32)), "inputs are uint32 .N, H, W.*int64"),
        (convolve, (WORDS, np.zeros((2, 3, 1), np.uint32)), r"weights are uint32 .O, kh, kw.*found uint32 \[2, 3, 1\]"),
        (
            lambda backend, a, w: backend.matmul(a, w, 40),
            (np.zeros((1, 2)), np.zeros((1, 2), np.uint32)),
            r"inputs are uint32 .M, words.; found float64",
        ),
        (compare, (FEATURES.astype(np.float64), 6), r"float32 \[N, C, H, W\]; found float64 \[1, 6, 2, 2\]"),
        (compare, (FEATURES[0], 6), r"found float32 \[6, 2, 2\]"),
        (compare, (FEATURES, 5), r"6 channels need as many thresholds.*found float32 \[5\] and bool \[5\]"),
    ],
)
def test_what_a_kernel_does_not_take(backend, call, operands, message):
    with pytest.raises(BnasError, match=message):
        call(backend, *operands)


def test_the_reference_backend_is_the_reference():
    backend = get_backend("reference")
    assert (backend.name, backend.conv2d, backend.matmul) == ("reference", reference.conv2d, reference.matmul)
