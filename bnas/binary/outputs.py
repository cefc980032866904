"""Outputs: what a scheme does around the product of a layer, rather than to one of its operands.

A layer asks its output `enter(x)` for the operand to multiply and gives it the product back, `leave(y, x, box)`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter, is_lazy

from bnas.binary.sign import sign_pm1
from bnas.errors import BnasError, check_choice
from bnas.options import check_number

# Of |x| of the layer's input: its mean over all that a weight of ones would read, [N, 1, H', W'] or [..., 1].
Box = Callable[[Tensor], Tensor]


class Output(nn.Module):
    """Nothing. Base of the others; `packing` says why the packed layer does not have it, None where it does."""

    packing: ClassVar[str | None] = None

    def enter(self, x: Tensor) -> Tensor:
        return x

    def leave(self, y: Tensor, x: Tensor, box: Box) -> Tensor:
        """y [N, O, H', W'] or [..., O]; x what `enter` was given."""
        return y

    def channel_scale(self) -> Tensor | None:
        """What multiplies each channel of y, [O], where that is all; None is 1."""
        return None


class InputMap(Output):
    """y K: K is the mean |x| under the window of each output, XNOR-Net's (Rastegari et al. 2016, arXiv 1603.05279, 3.2).

    The input is sign(x) mean_c|x|, so that it carries its map along; signs and map are taken apart here, and the product
    is one of signs. K is a constant in the backward.
    """

    packing: ClassVar[str | None] = "its input scale K is a map of real numbers, computed from each input"

    def enter(self, x: Tensor) -> Tensor:
        signs: Tensor = _SignsOf.apply(x)
        return signs

    def leave(self, y: Tensor, x: Tensor, box: Box) -> Tensor:
        return y * box(x.detach().abs())


class _SignsOf(torch.autograd.Function):
    """sign(x) of x = sign A, with the gradient of x / A."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign_pm1(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = grad_outputs[0] / x.abs().clamp_min(torch.finfo(x.dtype).tiny)
        return gradient


FORMS = ("channel", "full", "channel-map", "channel-rows-columns")


class Gamma(Output):
    """y Gamma with a learned Gamma from 1 (XNOR-Net++, Bulat & Tzimiropoulos 2019, arXiv 1909.13863). Its FORMS:

    channel: a [O]; full: [O, H', W']; channel-map: a [O] times b [H', W']; channel-rows-columns: a [O] b [H'] c [W'].
    All but the first are tied to one size of map: they take it from the first input that they see (`materialize`).
    """

    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        check_choice("gamma of scheme xnor-plus-plus", form, FORMS)
        self.form, self.channels = form, channels
        for name in {"channel": ("a",), "full": ("full",), "channel-map": ("a", "map")}.get(
            form, ("a", "rows", "columns")
        ):
            parameter: Any = nn.Parameter(torch.ones(channels)) if name == "a" else UninitializedParameter()
            self.register_parameter(name, parameter)

    @property
    def packing(self) -> str | None:  # type: ignore[override]
        return None if self.form == "channel" else "its scale Gamma differs from one position of the map to the next"

    def channel_scale(self) -> Tensor | None:
        return self.get_parameter("a") if self.form == "channel" else None

    def factors(self) -> list[Tensor]:
        """What multiplies y, each broadcastable to [O, H', W']."""
        shapes = {"a": (-1, 1, 1), "rows": (1, -1, 1), "columns": (1, 1, -1)}
        named = self.named_parameters(recurse=False)
        return [p.view(shapes[name]) if name in shapes else p for name, p in named]

    def leave(self, y: Tensor, x: Tensor, box: Box) -> Tensor:
        if y.dim() != 4:
            if self.form != "channel":
                raise BnasError(f"gamma '{self.form}' of scheme xnor-plus-plus needs a map; a linear layer has none")
            return y * self.get_parameter("a")
        self._size_for(y)
        for factor in self.factors():
            y = y * factor
        return y

    @torch.no_grad()
    def _size_for(self, y: Tensor) -> None:
        """Give parameters that wait for it the size of the map; `BnasError` for a map of another size."""
        channels, height, width = y.shape[1:]
        sizes = {"full": (channels, height, width), "map": (height, width), "rows": (height,), "columns": (width,)}
        for name, parameter in self.named_parameters(recurse=False):
            if name not in sizes:
                continue
            if is_lazy(parameter):
                parameter.materialize(sizes[name], device=y.device, dtype=torch.get_default_dtype())
                parameter.fill_(1.0)
            elif tuple(parameter.shape) != sizes[name]:
                raise BnasError(
                    f"gamma '{self.form}' of scheme xnor-plus-plus was made for another size of map: it has "
                    f"{name} {tuple(parameter.shape)}, and this input gives {height} x {width}"
                )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, parameter in self.named_parameters(recurse=False):
            if is_lazy(parameter) and prefix + name in state_dict and not is_lazy(state_dict[prefix + name]):
                parameter.materialize(state_dict[prefix + name].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def materialize(model: nn.Module, images: Tensor) -> None:
    """Run images [N, C, H, W] through a model whose parameters wait for the size of a map; else do nothing."""
    if waiting(model) is None:
        return
    training = model.training
    with torch.no_grad():
        model.eval()(images)
    model.train(training)


def waiting(model: nn.Module) -> str | None:
    """The name of the first parameter of a model that still waits for the size of a map."""
    return next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None)


class GradientQuantizer(Output):
    """y forward; its gradient g to k bits for each sample: 2 m (q_k(g / (2 m) + 1/2 + noise) - 1/2), m = max |g|.

    DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160, section 2.5), noise uniform within half a step; drawn from torch's
    global generator, which the trainer seeds for each step.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        check_number("gradient_bits", bits, at_least=1, at_most=16, whole=True)
        self.bits = bits

    def leave(self, y: Tensor, x: Tensor, box: Box) -> Tensor:
        quantized: Tensor = _QuantizeGradient.apply(y, self.bits)
        return quantized


def quantized_gradient(g: Tensor, bits: int, noise: Tensor | float) -> Tensor:
    """g [N, ...] to `bits` bits; `noise` in steps, within [-1/2, 1/2]."""
    steps = 2**bits - 1
    largest = g.abs().amax(dim=tuple(range(1, g.dim())), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    share = (g / (2 * largest) + 0.5 + noise / steps).clamp(0, 1)
    quantized: Tensor = 2 * largest * ((share * steps).round() / steps - 0.5)
    return quantized


class _QuantizeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, bits: int) -> Tensor:
        ctx.bits = bits
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        g = grad_outputs[0]
        return quantized_gradient(g, ctx.bits, torch.rand_like(g) - 0.5), None
