"""A binary convolution prepared once: weights laid out for the inner loop, what is added at borders, and what follows.

`BinaryLayer.plan` fixes one input size and one set of buffers; running the plan is one call of compiled code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnas.errors import BnasError
from bnas.kernels.cpu.forms import features, quickest
from bnas.kernels.cpu.job import JOB
from bnas.kernels.cpu.micro import LANES
from bnas.kernels.cpu.operands import Form, columns_read, for_inputs, out_pixels, span
from bnas.kernels.cpu.plan import VALUES_A_MICROSECOND, Plan
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import Words, words_for
from bnas.kernels.reference import check_conv2d

Array = NDArray[Any]

# Images with fewer output pixels have weights of their own (a matrix times few rows).
FEW_PIXELS = 4


@dataclass(frozen=True, eq=False)
class Threshold:
    """One comparison a channel: x >= value [C], or x <= value where `flip`; of several, [K, C], whether an odd number holds."""

    value: Array
    flip: Array

    def rows(self) -> tuple[Array, Array]:
        """Values [K, ...] and sign masks as compiled code wants them: -x >= -value for x <= value, filled up to words.

        What fills up is NaN, which no value reaches.
        """
        value = np.atleast_2d(self.value)
        size = words_for(len(self.flip)) * 32
        values, signs = np.full((len(value), size), np.nan, dtype=np.float32), np.zeros(size, dtype=np.uint32)
        values[:, : len(self.flip)] = np.where(self.flip, -value, value)
        signs[: len(self.flip)][self.flip] = 0x80000000
        return values, signs


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What follows the sums, in this order; None is left out. `source[d]`: the filter that output channel d holds.

    v = sum * scale; v = v * factor + shift; v >= 0 else v * slope; limited to [low, high]; + what is added (given
    when planned). All but `scale` are per output channel, `scale` is per filter.
    """

    scale: Array | None = None
    factor: Array | None = None
    shift: Array | None = None
    slope: Array | None = None
    low: float = -np.inf
    high: float = np.inf
    source: Array | None = None

    @property
    def follows(self) -> int:
        """Whether anything comes between the scale and what is added."""
        given = (self.factor, self.shift, self.slope)
        return int(any(value is not None for value in given) or (self.low, self.high) != (-np.inf, np.inf))

    def rows(self, channels: int) -> Array:
        """float32 [6, channels filled up to 16]: a row for each step, what changes nothing where it is left out."""
        scale = None if self.scale is None else self.scale[slice(None) if self.source is None else self.source]
        rows = np.zeros((6, _whole(channels)), dtype=np.float32)
        given = (scale, self.factor, self.shift, self.slope, self.low, self.high)
        for row, value, default in zip(rows, given, (1, 1, 0, 1, 0, 0), strict=True):
            row[:channels] = default if value is None else value
        return rows


@dataclass(frozen=True, eq=False)
class Outputs:
    """Where results go, [N, Ho, Wo, ...] arrays whose last dimension lies together: sums, or real and bits."""

    sums: Array | None = None
    real: Array | None = None
    bits: Words | None = None
    bits_threshold: Threshold | None = None


@dataclass(eq=False, kw_only=True)
class LayerPlan(Plan):
    """One layer on one input size. `added`: int64 [values, 2], where each value that is added lies, and bytes of its pixels."""

    form: Form
    added: Array

    def read(self, place: int, address: int) -> None:
        """Where the next runs find the input (place 0), or what is added (from 1)."""
        if place == 0:
            self.job["x"] = address
        else:
            self.added[place - 1, 0] = address


class BinaryLayer:
    """Packed weights [O, kh, kw, words] made ready, for inputs of any size.

    `form`: the inner loop; None: the quickest for each input size.
    """

    def __init__(
        self,
        form: Form | None,
        weight_words: Words,
        *,
        channels: int,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        pad_value: int = 0,
        epilogue: Epilogue | None = None,
    ) -> None:
        self.form, self.weight_words = form, np.ascontiguousarray(weight_words)
        self.filters, kh, kw, _ = map(int, weight_words.shape)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "pad_value": pad_value}
        self._of_one_pixel = Geometry(1, 1, 1, channels, self.filters, (kh, kw), **options)  # type: ignore[arg-type]
        self.epilogue = epilogue or Epilogue()
        # Each layout is made when an input first needs it.
        self._weights = cache(self._lay_out)
        self._parameters = self.epilogue.rows(self.filters)

    def _lay_out(self, form: Form, few_pixels: bool) -> Array:
        return form.lay_out(self.weight_words, self._of_one_pixel, few_pixels)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return for_inputs(self._of_one_pixel, 1, height, width).out_size

    def plan(
        self,
        x: Array,
        outputs: Outputs,
        *,
        threshold: Threshold | None = None,
        added: Sequence[Array] = (),
    ) -> LayerPlan:
        """Fix input and outputs. x: bits [N, H, W, groups, words], or real [N, H, W, C] with a `threshold`.

        `added`: real [N, Ho, Wo, O], added one after the other.
        """
        g = for_inputs(self._of_one_pixel, *x.shape[:3])
        form = self.form or quickest(g)
        job = np.zeros(1, dtype=JOB)
        kept: list[Any] = [x, outputs, added, self]

        def put(**fields: int | Array | None) -> None:
            for name, value in fields.items():
                kept.append(value)
                job[name] = value.ctypes.data if isinstance(value, np.ndarray) else value or 0

        put(images=g.images, height=g.height, width=g.width, channels=g.channels, groups=g.groups)
        put(group_channels=g.group_channels, words=g.words, x=x, x_pixel=_pixel_bytes(x, "the input"))
        if threshold is not None:
            values, signs = threshold.rows()
            put(x_is_real=1, thresholds=values, signs=signs)
            put(comparisons=len(values), threshold_bytes=values.strides[0])
        self._put_window(put, g)
        self._put_border(put, g)
        self._put_outputs(put, outputs)
        pairs = np.array([(a.ctypes.data, _pixel_bytes(a, "what is added")) for a in added], np.int64).reshape(-1, 2)
        put(added=pairs, added_count=len(pairs))
        source = np.arange(self.filters) if self.epilogue.source is None else self.epilogue.source
        weights = self._weights(form, out_pixels(g) < FEW_PIXELS)
        operands = form.operands(
            g, weights, threads=torch.get_num_threads(), source=source, is_real=threshold is not None
        )
        put(**operands.fields)
        scratch_bytes = 0
        for name, size in operands.scratch.items():
            put(**{name: scratch_bytes})
            scratch_bytes += _whole(size, 64)
        put(scratch_bytes=scratch_bytes)
        chunks = -(-g.out_size[0] // int(job["rows"][0]))
        tasks, microseconds = g.images * chunks, _microseconds(form, g)
        return LayerPlan(form.tasks, job, tasks, microseconds, scratch_bytes, kept, form=form, added=pairs)

    def _put_window(self, put: Callable[..., None], g: Geometry) -> None:
        (stride_y, stride_x), (top, left, _, _), (out_height, out_width) = g.stride, g.padding, g.out_size
        put(out_height=out_height, out_width=out_width, stride_y=stride_y, stride_x=stride_x, top=top, left=left)
        put(span_y=span(g)[0], in_width=columns_read(g))

    def _put_border(self, put: Callable[..., None], g: Geometry) -> None:
        """base = what a sum would be with no differing bit, for each class of output rows and columns.

        Outputs of one class have the same taps outside the image. Where these count as 0, base leaves their length
        out, and takes back that they were counted as clear bits.
        """
        classes = [_classes(side, g) for side in range(2)]
        (row_of, outside_y), (column_of, outside_x) = classes
        base = np.full((len(outside_y), len(outside_x), self.filters), g.length, np.int64)
        if g.pad_value == 0:
            set_bits = np.bitwise_count(self.weight_words).sum(axis=3, dtype=np.int64)
            tap_sums = 2 * set_bits - g.group_channels
            outside = outside_y[:, None, :, None] | outside_x[None, :, None, :]
            base += np.einsum("yxab,oab->yxo", outside.astype(np.int64), tap_sums)
        source = self.epilogue.source
        in_order = base if source is None else base[..., source]
        padded = np.zeros((*base.shape[:2], _whole(self.filters)), dtype=np.int32)
        padded[..., : self.filters] = in_order
        put(base=padded, filters=self.filters)
        # One row of base for all outputs, where no tap is ever outside, is not told for each.
        has_border = padded[..., 0].size > 1
        row = row_of[: None if has_border else 1, None] * len(outside_x) + column_of
        put(has_border=int(has_border), base_of=row * padded.strides[1])

    def _put_outputs(self, put: Callable[..., None], outputs: Outputs) -> None:
        out = outputs.real if outputs.sums is None else outputs.sums
        put(wants_sums=int(outputs.sums is not None), out=out)
        if out is not None:
            put(out_pixel=_pixel_bytes(out, "the output"))
        put(parameters=self._parameters, parameter_bytes=self._parameters.strides[0], follows=self.epilogue.follows)
        if outputs.bits is not None and outputs.bits_threshold is not None:
            values, signs = outputs.bits_threshold.rows()
            bits_groups, bits_words = outputs.bits.shape[3:]
            put(
                bits=outputs.bits,
                bits_groups=bits_groups,
                bits_group_channels=self.filters // bits_groups,
                bits_words=bits_words,
                bits_thresholds=values,
                bits_signs=signs,
                bits_comparisons=len(values),
                bits_threshold_bytes=values.strides[0],
            )


def _microseconds(form: Form, g: Geometry) -> float:
    """How long one thread takes, about."""
    return g.images * form.cost(g, features()) / 1_000 + g.pixels * g.filters / VALUES_A_MICROSECOND


def _whole(number: int, of: int = LANES) -> int:
    """The multiple of `of` from `number` on."""
    return -(-number // of) * of


def _pixel_bytes(array: Array, what: str) -> int:
    step = pixel_bytes(array)
    if step is None:
        raise BnasError(f"{what} of a packed kernel must lie pixel by pixel; its strides are {array.strides}")
    return step


def pixel_bytes(array: Array) -> int | None:
    """Bytes from one pixel to the next of [N, H, W, ...]; None unless all lie at equal distances, each together."""
    N, H, W = array.shape[:3]
    step = array.strides[2] if W > 1 else array.strides[1] if H > 1 else array.strides[0]
    wanted = (H * W * step, W * step, step)
    together = all(size == 1 or stride == w for size, stride, w in zip((N, H, W), array.strides, wanted, strict=False))
    return int(step) if together and array[:1, :1, :1].flags.c_contiguous else None


def _classes(side: int, g: Geometry) -> tuple[Array, NDArray[np.bool_]]:
    """The class of each output along height (0) or width (1), and which taps of a class are outside: [classes, kernel]."""
    size = (g.height, g.width)[side]
    taps = np.arange(g.out_size[side])[:, None] * g.stride[side] + np.arange(g.kernel[side]) * g.dilation[side]
    taps -= g.padding[side]
    outside, classes = np.unique((taps < 0) | (taps >= size), axis=0, return_inverse=True)
    return classes.reshape(-1).astype(np.int64), outside


def check_layer(bits: Words, weight_words: Words, channels: int, groups: int, pad_value: int) -> None:
    """`BnasError` for shapes that do not fit each other."""
    check_conv2d(bits, weight_words, channels, groups, pad_value)
