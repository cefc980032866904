"""The operands of one layer of a trained network, real and binary, and how to run the layer with other ones.

Shared by the measurements of sensitivity and of errors. A stand-in has the size of what it stands for: real values take
the place of binary ones, or the other way round, times the factor that makes the two nearest (least squares), so that it
is the code that is compared and not its scale.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.outputs import InputMap
from bnas.binary.scales import mean_abs_per_filter
from bnas.binary.sign import sign_pm1
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize

Layer = BinaryConv2d | BinaryLinear | nn.Conv2d | nn.Linear
LAYERS = (BinaryConv2d, BinaryLinear, nn.Conv2d, nn.Linear)


def layers(model: nn.Module) -> dict[str, Layer]:
    """The layers of a network that multiply weights, by name; no other has a binary form here."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}


def kind(layer: Layer) -> str:
    """What a layer is, in words: 3x3, 3x3 depthwise, 1x1 stride 2, 5x5 dilation 2, linear."""
    if isinstance(layer, nn.Linear | BinaryLinear):
        return "linear"
    words = ["x".join(map(str, layer.kernel_size))]
    if layer.dilation[0] > 1:
        words.append(f"dilation {layer.dilation[0]}")
    if layer.groups > 1:
        words.append("depthwise" if layer.groups == layer.in_channels else f"{layer.groups} groups")
    if layer.stride[0] > 1:
        words.append(f"stride {layer.stride[0]}")
    return " ".join(words)


def fitted(value: Tensor, like: Tensor, dims: Sequence[int]) -> Tensor:
    """value times the factor that brings it nearest to `like`, <value, like> / <value, value> over `dims`."""
    square = value.square().sum(tuple(dims), keepdim=True)
    tiny = torch.finfo(value.dtype).tiny
    return value * ((value * like).sum(tuple(dims), keepdim=True) / square.clamp_min(tiny))


def latent_weight(layer: BinaryConv2d | BinaryLinear) -> Tensor:
    """What the code is taken of: the latent weight behind PRE, as real as it was, in the shape of the binary one."""
    before: Tensor = layer.binarizer.pre(layer.weight.detach())
    return before


def other_weight(layer: Layer) -> Tensor | None:
    """A binary layer's weight as real, a real layer's as binary; None where a binary layer has real weights.

    Real: the latent weight, each filter brought to the size of the binary one. Binary: mean |W_o| sign(W_o).
    """
    with torch.no_grad():
        if not isinstance(layer, BinaryConv2d | BinaryLinear):
            return mean_abs_per_filter(layer.weight) * sign_pm1(layer.weight)
        if not layer.binarizer.binarizes:
            return None
        binary = layer.binarizer(layer.weight)
        return fitted(latent_weight(layer), binary, range(1, binary.dim()))


def product(layer: Layer, x: Tensor, weight: Tensor, *, real_input: bool = False) -> Tensor:
    """The layer's output for any input and any weight of its shape, unrounded, with its bias.

    `real_input`: x is real where the layer reads +-1.
    """
    if isinstance(layer, BinaryConv2d | BinaryLinear):
        # What takes the magnitudes out of a binary input would take all out of a real one.
        passes = real_input and isinstance(layer.output, InputMap)
        entering = x if passes else layer.output.enter(x)
        convolves = isinstance(layer, BinaryConv2d)
        y = layer.convolve(entering, weight) if convolves else F.linear(entering, weight)  # type: ignore[operator]
        return y if passes else layer.output.leave(y, x, layer.box)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    convolved: Tensor = layer._conv_forward(x, weight, layer.bias)
    return convolved


class RealInputs:
    """While it watches a network: for the binary input of a layer, the real values that were binarized.

    The layer must read the very tensor that a `NormBinarize` gave.
    """

    def __init__(self) -> None:
        self._of: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator["RealInputs"]:
        handles = [model.register_forward_pre_hook(lambda *_: self._of.clear())]
        handles += [
            module.register_forward_hook(self._keep)
            for module in model.modules()
            if isinstance(module, NormBinarize) and module.binarizer.binarizes
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._of.clear()

    def _keep(self, module: NormBinarize, inputs: tuple[Any, ...], output: Tensor) -> None:
        with torch.no_grad():
            real = module.binarizer.pre(module.norm(inputs[0]))
        # The output is kept too, so that its address stays its own.
        self._of[id(output)] = (output, real)

    def of(self, x: Tensor) -> Tensor | None:
        """The real values behind x; None where no `NormBinarize` gave it."""
        found = self._of.get(id(x))
        return None if found is None else found[1]


def other_input(layer: Layer, x: Tensor, inputs: RealInputs) -> Tensor | None:
    """A binary layer's input as real, a real layer's as binary; None where a binary layer reads real values.

    Real: what was binarized, each channel brought to the size of the binary one. Binary: mean_c + std_c sign(x - mean_c)
    with the batch's figures of each channel, the two values that a norm and a sign would leave of it.
    """
    dims = [d for d in range(x.dim()) if d != (1 if x.dim() == 4 else x.dim() - 1)]
    if isinstance(layer, BinaryConv2d | BinaryLinear):
        real = inputs.of(x)
        return None if real is None else fitted(real, x, dims)
    mean = x.mean(dims, keepdim=True)
    return mean + x.std(dims, correction=0, keepdim=True) * sign_pm1(x - mean)


@contextmanager
def running(layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """`forward` in the place of the layer's own for the block."""
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
