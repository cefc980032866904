"""Evaluation in bits: in a block, the binary convolutions of a network multiply packed signs where that is quicker.

The integers are those of the convolution of numbers, and what multiplies them is the same, so that results are equal to
the last bit. A norm makes its signs as bits once for all that read them, and weights are packed once in a block.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor, nn

from bnas.binary.terms import BitTerm
from bnas.binary.threshold import fold
from bnas.errors import check_choice
from bnas.kernels.packing import pack_weights
from bnas.layers.comparison import Comparison
from bnas.layers.conv import BinaryConv2d
from bnas.layers.norm import NormBinarize
from bnas.layers.products import Operands

if TYPE_CHECKING:
    from bnas.kernels.cpu.layer import Plan

CONVOLUTIONS = ("auto", "packed", "float")
# Each of the two ways is timed so often; the quickest time of each counts.
TRIALS = 3

# Whether bits are quicker, by all that the time depends on; measured when a shape is first met in a process.
_quicker: dict[tuple[object, ...], bool] = {}


@contextmanager
def packed_convolutions(net: nn.Module, how: str) -> Iterator[None]:
    """The binary convolutions of `net` on packed bits in the block: `auto`, where that is quicker; `packed`, all of them.

    Only where one sign is multiplied by one sign (`Operands.SIGNS`), on a CPU, without gradients, outside of training;
    all else, and all under `float`, runs as it always does.
    """
    check_choice("way of convolving", how, CONVOLUTIONS)
    layers = [m for m in net.modules() if isinstance(m, BinaryConv2d) and m.operands is Operands.SIGNS]
    on_cpu = all(layer.weight.device.type == "cpu" for layer in layers)
    if how == "float" or not on_cpu:
        layers = []
    norms = [m for m in net.modules() if isinstance(m, NormBinarize) and m.binarizer.compares] if layers else []
    try:
        for layer in layers:
            layer.product = PackedProduct(measures=how == "auto")
        for norm in norms:
            norm.defers = True
        yield
    finally:
        for layer in layers:
            layer.product = None
        for norm in norms:
            norm.defers = False


class PackedProduct:
    """`BinaryConv2d.exactly` for one layer, on bits. `measures`: where the numbers are quicker, they are taken."""

    def __init__(self, measures: bool) -> None:
        self._measures = measures
        self._prepared: dict[tuple[int, ...], _Prepared] = {}

    def __call__(self, layer: BinaryConv2d, x: Tensor, term: BitTerm) -> Tensor:
        def in_bits() -> Tensor:
            return self._in_bits(layer, x, term)

        def in_numbers() -> Tensor:
            return layer.in_numbers(x, term)

        if torch.is_grad_enabled() or layer.training:
            return in_numbers()
        if not self._measures:
            return in_bits()
        key = (*_window(layer), x.shape, type(x), term.sign_pm1.shape, torch.get_num_threads())
        if key not in _quicker:
            _quicker[key] = _is_quicker(in_bits, in_numbers, x)
        return in_bits() if _quicker[key] else in_numbers()

    def _in_bits(self, layer: BinaryConv2d, x: Tensor, term: BitTerm) -> Tensor:
        key = (x.shape[1], *term.sign_pm1.shape)
        prepared = self._prepared.get(key)
        if prepared is None or not prepared.is_of(term):
            prepared = self._prepared[key] = _Prepared(layer, term, x.shape[1])
        return prepared(x)


class _Prepared:
    """A weight laid out for the kernel, with its plans for the sizes of input that it meets."""

    def __init__(self, layer: BinaryConv2d, term: BitTerm, channels: int) -> None:
        from bnas.kernels.cpu.forms import best_form
        from bnas.kernels.cpu.layer import BinaryLayer, Epilogue

        # The layer may be a slice of the widest, or one of several that differ in their groups: the shapes tell.
        self._term, self._groups = term, channels // term.sign_pm1.shape[1]
        scale = None if term.scale is None else term.scale.float().reshape(-1).expand(len(term.sign_pm1)).numpy()
        stride, padding, dilation, pad_value = _window(layer)
        self._layer = BinaryLayer(
            best_form(),
            pack_weights(term.sign_pm1.numpy()),
            channels=channels,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=self._groups,
            pad_value=int(pad_value),
            epilogue=Epilogue(scale=scale),
        )
        self._plans: dict[tuple[int, int, int], Plan] = {}

    def is_of(self, term: BitTerm) -> bool:
        """Whether signs and scales are those that were laid out: weights may have been trained, a scale chosen anew."""
        mine = self._term
        if term.scale is None or mine.scale is None:
            return term.scale is mine.scale and torch.equal(term.sign_pm1, mine.sign_pm1)
        return torch.equal(term.scale, mine.scale) and torch.equal(term.sign_pm1, mine.sign_pm1)

    def __call__(self, x: Tensor) -> Tensor:
        """Float32 [N, O, H', W'] in channels_last memory."""
        compared = x if isinstance(x, Comparison) else Comparison(x, fold(None, x.shape[1]))
        bits = compared.bits(self._groups)
        N, H, W = bits.shape[:3]
        Ho, Wo = self._layer.output_size(H, W)
        out = torch.empty((N, Ho, Wo, self._layer.filters))
        if (N, H, W) not in self._plans:
            self._plans[N, H, W] = self._plan(bits.shape, tuple(out.shape))
        plan = self._plans[N, H, W]
        plan.job["x"], plan.job["out"] = bits.ctypes.data, out.data_ptr()
        plan()
        return out.permute(0, 3, 1, 2)

    def _plan(self, bits: tuple[int, ...], out: tuple[int, ...]) -> "Plan":
        from bnas.kernels.cpu.layer import Outputs

        return self._layer.plan(_somewhere(bits, np.uint32), Outputs(real=_somewhere(out, np.float32)))


def _somewhere(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of that shape, to plan for: its addresses must not be read, and it holds no memory."""
    one = np.empty(1, dtype=dtype)
    strides = [int(np.prod(shape[axis + 1 :])) * one.itemsize for axis in range(len(shape))]
    return as_strided(one, shape, strides)


def _window(layer: BinaryConv2d) -> tuple[Any, ...]:
    return layer.stride, layer.padding, layer.dilation, layer.pad_value


def _is_quicker(in_bits: Callable[[], Tensor], in_numbers: Callable[[], Tensor], x: Tensor) -> bool:
    """Whether bits take less time than numbers, in turn, the signs of a comparison included."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    spent: list[list[float]] = [[], []]
    # The first time compiles, plans and warms up.
    for _ in range(1 + TRIALS):
        for times, way in zip(spent, (in_bits, in_numbers), strict=True):
            if isinstance(x, Comparison):
                x.forget()
            start = clock()
            way()
            times.append(clock() - start)
    return min(spent[0][1:]) < min(spent[1][1:])
