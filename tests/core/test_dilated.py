"""Dilated convolutions whose gradient of the filters is that of plain ones."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bnas.binary import make_scheme
from bnas.layers import BinaryConv2d
from bnas.layers.dilated import dilated, pays, phases


def operands(groups: int, kernel: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 12, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(12, 6 // groups, kernel, kernel, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("kernel", "dilation", "padding"), [(3, 2, 2), (5, 2, 4), (3, 3, 3), (3, 2, 0)])
def test_outputs_and_gradients_are_torchs(kernel: int, dilation: int, padding: int, groups: int) -> None:
    x, weight = operands(groups, kernel)
    assert pays(x, weight, padding, dilation)
    found = []
    for y in (
        dilated(x * 1, weight * 1, padding, dilation, groups),
        F.conv2d(x, weight, None, 1, padding, dilation, groups),
    ):
        mixing = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view_as(y)
        found.append((y, *torch.autograd.grad((y.relu() * mixing).sum(), [x, weight])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_phases() -> None:
    x = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    assert torch.equal(phases(x, 2), torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]))


class _Backwards(TorchDispatchMode):
    """Which gradients each backward of a convolution computed: of input, of filters."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.found.append(list(args[-1][:2]))
        return func(*args, **(kwargs or {}))


def test_a_gradient_that_nobody_asks_for_is_not_computed() -> None:
    """The step on the gates of a search asks for none of the filters."""
    x, weight = operands(1, 3)
    for wanted, found in (([x], [[True, False]]), ([weight], [[False, True]])):
        y = dilated(x * 1, weight * 1, 2, 2, 1)
        with _Backwards() as seen:
            torch.autograd.grad(y.sum(), wanted)
        assert seen.found == found


def test_where_it_does_not_fit_torchs_own_runs() -> None:
    x, weight = operands(1, 3)
    assert not pays(x, weight, 1, 2)
    assert not pays(x[:, :, :11], weight, 2, 2)
    assert not pays(x, weight.detach(), 2, 2)
    assert not pays(x, weight, 1, 1)
    with torch.no_grad():
        assert not pays(x, weight, 2, 2)


@pytest.mark.parametrize("side", [8, 7])
def test_the_layer_trains_the_same_in_low_precision(side: int) -> None:
    """Under autocast the output's gradient is bfloat16 and the filters are not; odd maps have no phases."""
    layer = BinaryConv2d(4, 4, 3, make_scheme("binary-activations"), padding=2, dilation=2).train()
    x = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0)).sign()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    (of_low,) = torch.autograd.grad(low.float().square().sum(), [layer.weight])
    (whole,) = torch.autograd.grad(layer(x).square().sum(), [layer.weight])
    assert low.dtype == torch.bfloat16
    assert of_low.dtype == torch.float32
    torch.testing.assert_close(of_low, whole, rtol=0.05, atol=0.05 * float(whole.abs().max()))
