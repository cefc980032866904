"""Binary layers: what evaluation means, padding, folding of norm and sign, shuffle, drop-path."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bnas.binary import make_scheme, sign_pm1
from bnas.binary.terms import BitTerm
from bnas.binary.threshold import compare, fold
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, BinaryLinear, ChannelShuffle, DropPath, NormBinarize, channel_shuffle
from bnas.layers.ops import BinaryConvOp, FactorizedReduce, Identity, Pool, Zero

BATS = make_scheme("bats")


def pm1(*shape: int, seed: int = 0) -> torch.Tensor:
    return sign_pm1(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def unscaled(layer: BinaryConv2d | BinaryLinear) -> BitTerm:
    return layer.binarizer.terms(layer.weight)[0]._replace(scale=None)


@pytest.mark.parametrize("pad_value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("padding", [0, 1, (2, 0, 1, 3), (-1, -1, 1, 1)])
def test_evaluation_is_integer_accumulators_times_scale(pad_value: float, padding: int) -> None:
    layer = BinaryConv2d(4, 6, 3, BATS, padding=padding, stride=2, groups=2, pad_value=pad_value).eval()
    x = pm1(3, 4, 9, 8)
    top, left, bottom, right = layer.padding
    padded = F.pad(x.double(), (left, right, top, bottom), value=pad_value)
    expected = F.conv2d(padded, sign_pm1(layer.weight).double(), stride=2, groups=2)
    assert torch.equal(layer.exactly(x, unscaled(layer)).double(), expected)
    scale = layer.binarizer.terms(layer.weight)[0].scale.view(1, -1, 1, 1)
    assert torch.equal(layer(x), expected.float() * scale)
    torch.testing.assert_close(layer.train()(x), layer.eval()(x))


def test_evaluation_ignores_autocast() -> None:
    layer = BinaryConv2d(512, 2, 3, make_scheme("bnn")).eval()
    x = torch.ones(1, 512, 3, 3)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.weight[0, 0, 0, 0] = -1.0
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).flatten().tolist() == [4606.0, 4608.0]  # bfloat16 would round the first


def test_a_real_input_is_not_rounded() -> None:
    layer = BinaryConv2d(2, 2, 1, make_scheme("binary-activations")).eval()
    assert not torch.equal(layer(pm1(1, 2, 2, 2)), layer(pm1(1, 2, 2, 2)).round())


def test_linear_evaluation_is_integer_accumulators_times_scale() -> None:
    layer = BinaryLinear(33, 5, BATS).eval()
    x = pm1(7, 33)
    accumulated = x.double() @ sign_pm1(layer.weight).double().T
    assert torch.equal(layer.exactly(x, unscaled(layer)).double(), accumulated)
    torch.testing.assert_close(layer(x), layer.train()(x))


def random_norm(channels: int) -> NormBinarize:
    layer = NormBinarize(channels, BATS).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        layer.norm.weight.normal_(generator=generator)
        layer.norm.bias.normal_(generator=generator)
        layer.norm.running_mean.normal_(generator=generator)
        layer.norm.running_var.uniform_(0.5, 2, generator=generator)
    return layer


def test_norm_and_sign_are_one_comparison_and_ties_are_plus_one() -> None:
    layer = random_norm(6)
    with torch.no_grad():
        layer.norm.weight[0], layer.norm.bias[0] = 0.0, 0.1  # constant +1
        layer.norm.weight[1], layer.norm.bias[1] = 0.0, -0.1  # constant -1
        layer.norm.weight[2] = -1.0  # reversed
    x = torch.randn(64, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    value, flip = layer.threshold()
    assert flip.tolist()[:3] == [False, False, True]
    assert value[0] == -np.inf
    assert value[1] == np.inf
    unrounded = sign_pm1(layer.norm.double()(x.double()))
    layer.norm.float()
    assert (layer(x) != unrounded).float().mean() < 1e-4
    x[0, :, 0, 0] = value.clamp(-1e9, 1e9)
    assert layer(x)[0, [0, 2, 3, 4, 5], 0, 0].tolist() == [1.0] * 5


def test_a_shift_and_a_missing_norm_fold_too() -> None:
    shift = torch.tensor([0.5, -0.25])
    x = torch.tensor([[-0.5, 0.25], [-0.51, 0.24]])
    assert compare(x, fold(None, 2, shift)).tolist() == [[1, 1], [-1, -1]]


def test_training_mode_of_the_norm_decides() -> None:
    layer = random_norm(3)
    x = torch.randn(16, 3, 4, 4) * 5 + 20
    assert not torch.equal(layer(x), layer.train()(x))


def test_channel_shuffle_reads_by_columns_and_refuses_what_does_not_divide() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(ChannelShuffle(6, 2)(x), channel_shuffle(x, 2))
    with pytest.raises(BnasError, match="6 channels cannot be shuffled in 4 groups"):
        ChannelShuffle(6, 4)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    out = layer(torch.ones(4000, 2, 1, 1))
    assert {round(v, 4) for v in out.unique().tolist()} == {0.0, 1.3333}
    assert torch.equal(out[:, 0], out[:, 1])
    assert abs(out.mean() - 1) < 0.05
    assert torch.equal(layer.eval()(torch.ones(3)), torch.ones(3))


def test_bad_convolutions_are_refused() -> None:
    with pytest.raises(BnasError, match="from 6 to 8 channels cannot have 4 groups"):
        BinaryConv2d(6, 8, 3, BATS, groups=4)
    with pytest.raises(BnasError, match="pad_value of a binary convolution is 0, 1 or -1, got 2"):
        BinaryConv2d(4, 4, 3, BATS, pad_value=2)
    with pytest.raises(BnasError, match="needs an even number: 4 or 6 would do"):
        FactorizedReduce(4, 5, BATS, norm=None)


@pytest.mark.parametrize("side", [8, 7, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_all_operations_have_one_output_shape(side: int, stride: int) -> None:
    x = torch.randn(2, 4, side, side)
    ops = [
        BinaryConvOp(4, stride, BATS, kernel_size=3, norm=NormBinarize(4, BATS), groups=2, shuffle_groups=2),
        BinaryConvOp(4, stride, BATS, kernel_size=5, norm=NormBinarize(4, BATS), dilation=2),
        Pool("max", stride),
        Pool("avg", stride),
        Zero(stride),
        Identity() if stride == 1 else FactorizedReduce(4, 4, BATS, norm=NormBinarize(4, BATS)),
    ]
    out = -(-side // stride)
    assert {tuple(op(x).shape) for op in ops} == {(2, 4, out, out)}


def test_an_operation_without_a_norm_uses_the_shared_sign_and_says_when_it_is_missing() -> None:
    torch.manual_seed(0)
    shared = BinaryConvOp(4, 1, BATS, kernel_size=3, norm=None)
    own = BinaryConvOp(4, 1, BATS, kernel_size=3, norm=NormBinarize(4, BATS))
    own.load_state_dict(shared.state_dict(), strict=False)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(shared(x, own.norm(x)), own(x))
    with pytest.raises(ValueError, match="needs x_binary"):
        shared(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_sign_of_both_zeros_is_plus_one(dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, -1e-7, -0.0, 0.0, 1e-7, 3.0, -float("inf"), float("inf")], dtype=dtype)
    assert sign_pm1(x).tolist() == [-1, -1, 1, 1, 1, 1, -1, 1]
    assert sign_pm1(x).dtype == dtype


@pytest.mark.parametrize("side", [5, 8])
@pytest.mark.parametrize(("kernel_size", "stride", "groups"), [(3, 2, 1), (5, 2, 2), (3, 4, 4)])
def test_a_dilation_that_divides_the_stride_reads_the_same_pixels(
    side: int, kernel_size: int, stride: int, groups: int
) -> None:
    padding = 2 * (kernel_size // 2)
    conv = BinaryConv2d(
        4, 4, kernel_size, make_scheme("real"), stride=stride, padding=padding, dilation=2, groups=groups
    )
    x = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conv(x), torch.conv2d(x, conv.weight, None, stride, padding, 2, groups))
