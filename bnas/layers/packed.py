"""Evaluation in bits: in a block, the binary convolutions of a network multiply packed signs where that is quicker.

The integers are those of the convolution of numbers, and what multiplies them is the same, so that results are equal to
the last bit. A norm makes its signs as bits once for all that read them, and weights are packed once in a block. What
follows a convolution in a candidate operation is computed while its results are stored.

Numbers are multiplied as ever where operands are sums of several signs or real, and on other devices than a CPU: a GPU
waits for the start of many small operations rather than for convolutions, and packing starts more of them.

Which of the two is quicker is measured anew in each process, when a shape is first met: six runs of that convolution.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor, nn
from torch.profiler import record_function

from bnas.binary.terms import BitTerm
from bnas.binary.threshold import fold
from bnas.errors import check_choice
from bnas.kernels.packing import pack_weights
from bnas.layers.activation import Activation
from bnas.layers.comparison import Comparison
from bnas.layers.conv import BinaryConv2d
from bnas.layers.following import NOTHING, Following
from bnas.layers.norm import NormBinarize
from bnas.layers.products import Operands

if TYPE_CHECKING:
    from bnas.kernels.cpu.layer import Epilogue, LayerPlan

CONVOLUTIONS = ("auto", "packed", "float")
# Each of the two ways is timed so often; the quickest time of each counts.
TRIALS = 2

# Whether bits are quicker, by all that the time depends on; measured when a shape is first met in a process.
_quicker: dict[tuple[object, ...], bool] = {}


@contextmanager
def packed_convolutions(net: nn.Module, how: str) -> Iterator[None]:
    """The binary convolutions of `net` on packed bits in the block: `auto`, where that is quicker; `packed`, all of them.

    Only where one sign is multiplied by one sign (`Operands.SIGNS`), in float32 on a CPU, without gradients, outside of
    training; all else, and all under `float`, runs as it always does.
    """
    check_choice("way of convolving", how, CONVOLUTIONS)
    layers = [m for m in net.modules() if isinstance(m, BinaryConv2d) and m.operands is Operands.SIGNS]
    fits = all(layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32 for layer in layers)
    if how == "float" or not fits:
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
    """`then(exactly(x, term))` of one layer, on bits. `measures`: where the numbers are quicker, they are taken."""

    def __init__(self, measures: bool) -> None:
        self._measures = measures
        self._prepared: dict[tuple[object, ...], _Prepared] = {}

    def __call__(self, layer: BinaryConv2d, x: Tensor, term: BitTerm, then: Following = NOTHING) -> Tensor:
        def in_bits() -> Tensor:
            return self._in_bits(layer, x, term, then)

        def in_numbers() -> Tensor:
            return then(layer.in_numbers(x, term))

        if torch.is_grad_enabled() or layer.training:
            return in_numbers()
        if not self._measures:
            return in_bits()
        key = (*_window(layer), x.shape, type(x), term.sign_pm1.shape, _form(then), torch.get_num_threads())
        if key not in _quicker:
            _quicker[key] = _is_quicker(in_bits, in_numbers, x)
        return in_bits() if _quicker[key] else in_numbers()

    def _in_bits(self, layer: BinaryConv2d, x: Tensor, term: BitTerm, then: Following) -> Tensor:
        added = None if then.shortcut is None else _by_pixel(then.shortcut)
        # What the kernel cannot store with its results follows by itself.
        inside, after = (then, NOTHING) if _fits(then, added) else (NOTHING, then)
        key = (x.shape[1], term.sign_pm1.shape, _form(inside))
        prepared = self._prepared.get(key)
        if prepared is None or not prepared.is_of(term, inside):
            prepared = self._prepared[key] = _Prepared(layer, x.shape[1], term, inside)
        return after(prepared(x, added if inside is then else None))


class _Prepared:
    """A weight laid out for the kernel with what follows it, and its plans for the sizes of input that it meets."""

    def __init__(self, layer: BinaryConv2d, channels: int, term: BitTerm, then: Following) -> None:
        from bnas.kernels.cpu.layer import BinaryLayer

        # The layer may be a slice of the widest, or one of several that differ in their groups: the shapes tell.
        filters, group_channels = term.sign_pm1.shape[:2]
        self._term, self._groups = term, channels // group_channels
        self._slope = _slope(then)
        self._slope = None if self._slope is None else self._slope.detach().clone()
        stride, padding, dilation, pad_value = _window(layer)
        self._layer = BinaryLayer(
            None,
            pack_weights(term.sign_pm1.numpy()),
            channels=channels,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=self._groups,
            pad_value=int(pad_value),
            epilogue=_epilogue(term, then, filters),
        )
        self._plans: dict[tuple[int, ...], LayerPlan] = {}

    def is_of(self, term: BitTerm, then: Following) -> bool:
        """Whether all of it is what was laid out: weights may have been trained, a scale chosen anew."""
        scales = _equal(term.scale, self._term.scale) and _equal(_slope(then), self._slope)
        return scales and torch.equal(term.sign_pm1, self._term.sign_pm1)

    def __call__(self, x: Tensor, added: Any) -> Tensor:
        """Float32 [N, O, H', W'] in channels_last memory; `added`: of that size, pixel by pixel."""
        compared = x if isinstance(x, Comparison) else Comparison(x, fold(None, x.shape[1]))
        bits = compared.bits(self._groups)
        N, H, W = bits.shape[:3]
        Ho, Wo = self._layer.output_size(H, W)
        out = torch.empty((N, Ho, Wo, self._layer.filters))
        key = N, H, W, torch.get_num_threads()
        if key not in self._plans:
            self._plans[key] = self._plan(bits.shape, tuple(out.shape), added is not None)
        plan = self._plans[key]
        plan.read(0, bits.ctypes.data)
        if added is not None:
            plan.read(1, added.ctypes.data)
        plan.job["out"] = out.data_ptr()
        with record_function("bnas::convolution_of_bits"):
            plan()
        return out.permute(0, 3, 1, 2)

    def _plan(self, bits: tuple[int, ...], out: tuple[int, ...], adds: bool) -> "LayerPlan":
        from bnas.kernels.cpu.layer import Outputs

        real = _somewhere(out, np.float32)
        return self._layer.plan(_somewhere(bits, np.uint32), Outputs(real=real), added=(real,) if adds else ())


def _epilogue(term: BitTerm, then: Following, filters: int) -> "Epilogue":
    from bnas.kernels.cpu.layer import Epilogue

    slope = _slope(then)
    source = None
    if then.shuffle is not None:
        source = np.arange(filters).reshape(then.shuffle.groups, -1).T.reshape(-1)
        slope = slope if slope is None else slope[source]
    low, high = _LIMITS[_kind(then)]
    return Epilogue(
        scale=None if term.scale is None else term.scale.float().reshape(-1).expand(filters).numpy(),
        slope=None if slope is None else slope.detach().numpy(),
        low=low,
        high=high,
        source=source,
    )


_ALL = (-np.inf, np.inf)
# By kind of activation, what its results lie between.
_LIMITS = {"none": _ALL, "prelu": _ALL, "relu": (0.0, np.inf), "hardtanh": (-1.0, 1.0)}


def _kind(then: Following) -> str:
    if then.activation is None:
        return "none"
    return then.activation.kind if isinstance(then.activation, Activation) else ""


def _form(then: Following) -> tuple[object, ...]:
    return _kind(then), None if then.shuffle is None else then.shuffle.groups, then.shortcut is not None


def _slope(then: Following) -> Tensor | None:
    return then.activation.body.weight if _kind(then) == "prelu" else None  # type: ignore[union-attr, return-value]


def _fits(then: Following, added: Any) -> bool:
    """Whether the kernel can do all of it while it stores its results."""
    return _kind(then) in _LIMITS and (then.shortcut is None or added is not None)


def _by_pixel(x: Tensor) -> Any:
    """x [N, C, H, W] as an array [N, H, W, C] that lies together; None where it does not."""
    if x.dtype != torch.float32 or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    return x.detach().permute(0, 2, 3, 1).numpy()


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


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
