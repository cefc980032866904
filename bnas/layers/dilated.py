"""Dilated convolutions in training on a CPU: the gradient of their filters in a third of the time.

Where only every d-th pixel meets, a dilated convolution is d * d plain ones, each of the pixels of one phase. oneDNN computes
outputs and the gradient of the input as fast either way, the gradient of the filters of plain ones up to four times as fast
(torch 2.13).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pays(x: Tensor, weight: Tensor, padding: int, dilation: int) -> bool:
    """Whether `dilated` takes this: phases must divide map and padding."""
    if dilation == 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return False
    return not (x.shape[2] % dilation or x.shape[3] % dilation or padding % dilation)


def dilated(x: Tensor, weight: Tensor, padding: int, dilation: int, groups: int) -> Tensor:
    """F.conv2d(x, weight, None, 1, padding, dilation, groups)."""
    y = F.conv2d(x, weight.detach(), None, 1, padding, dilation, groups)
    # A node of its own, as autograd does not run it where nobody asks for the gradient of the filters; one node for both
    # gradients is not told which of them it is asked for.
    filters = _OfFilters.apply(weight, x.detach(), y.shape, padding, dilation, groups)
    result: Tensor = _Beside.apply(y, filters)
    return result


def phases(x: Tensor, step: int) -> Tensor:
    """[N, C, H, W] -> [step * step * N, C, H / step, W / step]: the pixels of each phase, in channels_last memory."""
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, h // step, step, w // step, step, c)
    return rows.permute(2, 4, 0, 1, 3, 5).reshape(step * step * n, h // step, w // step, c).permute(0, 3, 1, 2)


class _OfFilters(torch.autograd.Function):
    """Zeros without memory, whose gradient is that of the convolution's output."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, x: Tensor, shape: torch.Size, padding: int, dilation: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = padding // dilation, dilation, groups
        return weight.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        padding, dilation, groups = ctx.geometry
        g = phases(grad_outputs[0], dilation)
        inner, like = phases(x, dilation).to(g.dtype), weight.to(g.dtype)
        pads, ones = [padding] * 2, [1, 1]
        _, of_weight, _ = torch.ops.aten.convolution_backward(
            g, inner, like, None, ones, pads, ones, False, [0, 0], groups, [False, True, False]
        )
        return of_weight.to(weight.dtype), None, None, None, None, None


class _Beside(torch.autograd.Function):
    """y; its gradient goes to `zeros`, too."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, zeros: Tensor) -> Tensor:
        # The same tensor, which nobody else has: what follows may overwrite it, as it may not a view.
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (g,) = grad_outputs
        return g, g
