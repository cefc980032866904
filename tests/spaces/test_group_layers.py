"""Layers of the space `group_mobilenet`: slices and mixtures of one weight, shortcuts, the two halves of M3."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary import make_scheme
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d
from search_spaces.group_layers import (
    Layer,
    Place,
    PointwiseUnit,
    SharedBinaryConv2d,
    SharedConv2d,
    SpatialUnit,
    narrowed,
    widened,
)


@pytest.mark.parametrize(("groups", "into"), [(1, 1), (1, 2), (1, 4), (2, 4), (2, 12), (4, 4)])
def test_slices_are_the_blocks_on_the_diagonal(groups: int, into: int) -> None:
    """One input channel at a time, as a grouped convolution reads them."""
    out, entering = 24, 12
    weight = torch.randn(out, entering // groups, 3, 3).to(memory_format=torch.channels_last)
    slices = narrowed(weight, groups, into)
    assert slices.shape == (out, entering // into, 3, 3)
    for o in range(out):
        first_of_slice = o // (out // into) * (entering // into)
        first_of_weight = o // (out // groups) * (entering // groups)
        for i in range(entering // into):
            assert torch.equal(slices[o, i], weight[o, first_of_slice + i - first_of_weight])
    back = widened(slices, into, groups)
    assert torch.equal(narrowed(back, groups, into), slices)
    assert back.count_nonzero() == slices.numel()
    x = torch.randn(2, entering, 4, 4)
    torch.testing.assert_close(F.conv2d(x, back, groups=groups), F.conv2d(x, slices, groups=into))


def shared_conv(scheme: str, options: Mapping[str, Any], stride: int = 1) -> SharedBinaryConv2d:
    conv = SharedBinaryConv2d(8, make_scheme(scheme, options), (1, 2, 4), stride=stride)
    # Learned scales that have moved apart.
    with torch.no_grad():
        for parameter in conv.narrower.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    return conv


def alone(conv: SharedBinaryConv2d, scheme: str, options: Mapping[str, Any], groups: int) -> BinaryConv2d:
    """The convolution of that number of groups, by itself."""
    plain = BinaryConv2d(8, 8, 3, make_scheme(scheme, options), stride=conv.stride[0], padding=1, groups=groups)
    plain.load_state_dict(conv.state_of(groups))
    return plain.train(conv.training)


SCHEMES = [
    ("binary-activations", {}),
    ("bnn", {}),
    ("xnor", {"centre": True}),
    ("bireal", {}),
    ("bireal", {"weight_gradient": "bypass"}),
    ("bats", {}),
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
@pytest.mark.parametrize("numbers", [(1, 2, 4), (2, 4), (4, 1)], ids=str)
def test_a_mixture_is_the_weighted_sum_of_the_grouped_convolutions(
    numbers: tuple[int, ...], scheme: str, options: dict[str, Any], training: bool
) -> None:
    """Its scales are those of each slice, and so are the gradients of the latent weight."""
    conv = shared_conv(scheme, options, stride=2).train(training)
    x = torch.randn(3, 8, 6, 6).sign()
    gates = torch.rand(len(numbers), requires_grad=True)
    mixture = conv(x, list(zip(numbers, gates, strict=True)))
    singles = [alone(conv, scheme, options, g) for g in numbers]
    outputs = [single(x) for single in singles]
    expected = sum(gate * output for gate, output in zip(gates.detach(), outputs, strict=True))
    torch.testing.assert_close(mixture, expected, rtol=1e-4, atol=1e-4)
    seed = torch.randn_like(mixture)
    mixture.backward(seed)
    assert gates.grad is not None
    torch.testing.assert_close(
        gates.grad, torch.stack([(output * seed).sum() for output in outputs]).detach(), rtol=1e-4, atol=1e-3
    )
    if training:
        expected.backward(seed)
        parts = [
            widened(s.weight.grad, g, 1) for g, s in zip(numbers, singles, strict=True) if s.weight.grad is not None
        ]
        torch.testing.assert_close(conv.weight.grad, sum(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_number_is_the_grouped_convolution(
    groups: int, scheme: str, options: dict[str, Any], training: bool
) -> None:
    conv = shared_conv(scheme, options).train(training)
    x = torch.randn(3, 8, 6, 6).sign()
    out = conv(x, [(groups, None)])
    assert torch.equal(out, alone(conv, scheme, options, groups)(x))
    # A gate of a single number is the unit's to apply.
    assert torch.equal(out, conv(x, [(groups, torch.tensor(0.3))]))


def test_a_mixture_has_no_more_channels_a_group_than_its_fewest_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[tuple[int, ...], int]] = []
    plain = F.conv2d

    def watched(x: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        ran.append((tuple(weight.shape), named.get("groups", rest[-1] if rest else 1)))
        return plain(x, weight, *rest, **named)

    monkeypatch.setattr(F, "conv2d", watched)
    x = torch.randn(1, 8, 4, 4).sign()
    binary, real = shared_conv("bnn", {}), SharedConv2d(8, 16, (1, 2, 4))
    for numbers in ((1, 2, 4), (2, 4), (4,), None):
        chosen = None if numbers is None else [(g, None) for g in numbers]
        binary(x, chosen)
        real(x, chosen)
    assert ran[::2] == [((8, 8, 3, 3), 1), ((8, 4, 3, 3), 2), ((8, 2, 3, 3), 4), ((8, 8, 3, 3), 1)]
    assert ran[1::2] == [((16, 8, 1, 1), 1), ((16, 4, 1, 1), 2), ((16, 2, 1, 1), 4), ((16, 8, 1, 1), 1)]


@pytest.mark.parametrize("side", [6, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_shortcut_goes_around_each_convolution(stride: int, side: int) -> None:
    """With the norm behind a convolution at 0, a unit is its shortcut."""
    scheme = make_scheme("bireal")
    unit = SpatialUnit(BinaryConv2d(4, 4, 3, scheme, stride=stride, padding=1), scheme, "prelu")
    x = torch.randn(2, 4, side, side)
    assert unit(x).shape == unit.shortcut(x).shape
    nn.init.zeros_(unit.after[0].weight)  # type: ignore[arg-type]
    if stride == 1:
        assert torch.equal(unit(x), x)
    else:
        # Of the pixels that there are: the last row and column of an odd map stand for themselves.
        torch.testing.assert_close(unit(x)[:, :, 1, 1], x[:, :, 2:4, 2:4].mean(dim=(2, 3)))
        torch.testing.assert_close(unit(x)[:, :, 2, 2], x[:, :, 4:6, 4:6].mean(dim=(2, 3)))
    for c_out in (4, 8, 12):
        pointwise = PointwiseUnit(4, c_out, scheme, "prelu")
        assert not torch.equal(pointwise(x), torch.cat([x] * (c_out // 4), dim=1))
        nn.init.zeros_(pointwise.after[0].weight)  # type: ignore[arg-type]
        assert torch.equal(pointwise(x), torch.cat([x] * (c_out // 4), dim=1))


def test_m3_is_two_binary_convolutions_side_by_side() -> None:
    """Each with its own norm, scales and shortcut, reading the same signs."""
    scheme = make_scheme("bireal")
    wide = PointwiseUnit(4, 8, scheme, "none")
    halves = [PointwiseUnit(4, 4, scheme, "none") for _ in range(2)]
    for half, part in zip(halves, (slice(0, 4), slice(4, 8)), strict=True):
        with torch.no_grad():
            half.conv.weight.copy_(wide.conv.weight[part])
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(wide(x), torch.cat([half(x) for half in halves], dim=1))


def test_a_real_pointwise_has_no_shortcut() -> None:
    layer = Layer(4, Place(1, 2, 1), make_scheme("bireal"), (2,), module="M1", activation="none", shared=False)
    nn.init.zeros_(layer.pointwise.after[0].weight)  # type: ignore[union-attr, index, arg-type]
    assert layer(torch.randn(2, 4, 5, 5)).count_nonzero() == 0


def test_a_scheme_whose_filters_are_made_of_fewer_cannot_share_weights_between_numbers_of_groups():
    with pytest.raises(BnasError, match="numbers of groups cannot share a weight"):
        SharedBinaryConv2d(8, make_scheme("cbcn"), (1, 2))
