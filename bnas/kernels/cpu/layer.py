"""A binary convolution prepared once: weights laid out for the inner loop, what is added at borders, and what follows.

`BinaryLayer.plan` fixes one input size and one set of buffers; running the plan is one call of compiled code.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnas.errors import BnasError
from bnas.kernels.cpu.compiled import MOST_PIXELS
from bnas.kernels.cpu.forms import Form, aligned
from bnas.kernels.cpu.jit import threads_for
from bnas.kernels.cpu.job import JOB
from bnas.kernels.cpu.micro import LANES
from bnas.kernels.packing import Words, full_words, words_for
from bnas.kernels.reference import check_conv2d, conv2d_size

Array = NDArray[Any]

# Below this many products a second thread costs more than it brings: about 30 us of work.
PRODUCTS_FOR_THREADS = 6_000_000
# Counts of one task: they stay in the second-level cache.
COUNTS_BYTES = 160 * 1024


@dataclass(frozen=True, eq=False)
class Threshold:
    """One comparison a channel: x >= value [C], or x <= value where `flip`; of several, [K, C], whether an odd number holds."""

    value: Array
    flip: Array

    def rows(self) -> tuple[Array, Array]:
        """Values [K, ...] and sign masks as compiled code wants them: -x >= -value for x <= value, filled up to words."""
        value = np.atleast_2d(self.value)
        size = words_for(len(self.flip)) * 32
        values, signs = np.zeros((len(value), size), dtype=np.float32), np.zeros(size, dtype=np.uint32)
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


@dataclass(eq=False)
class Plan:
    """One layer on one input size with its buffers. The arrays that the record points to are kept alive here.

    `added`: int64 [values, 2], where each value that is added lies, and bytes from one of its pixels to the next.
    """

    form: Form
    job: Array
    added: Array
    tasks: int
    products: int
    scratch_bytes: int
    kept: list[Any] = field(default_factory=list)

    def read(self, place: int | None, address: int) -> None:
        """Where the next runs find what is added in that place, or the input (None)."""
        if place is None:
            self.job["x"] = address
        else:
            self.added[place, 0] = address

    def __call__(self) -> None:
        threads = threads_for(self.products, PRODUCTS_FOR_THREADS) if self.tasks > 1 else 1
        self.job["scratch"] = _scratch(threads * self.scratch_bytes)
        (self.form.parallel if threads > 1 else self.form.serial)(self.job, self.tasks)


_own = threading.local()


def _scratch(size: int) -> int:
    """Address of at least `size` bytes, for the calling thread alone and until its next call: all plans share them."""
    memory: Array | None = getattr(_own, "memory", None)
    if memory is None or memory.nbytes < size:
        # Zeros: operands behind the last pixel are read, and must be offsets of tables.
        memory = _own.memory = aligned(np.zeros(size, dtype=np.uint8))
    return int(memory.ctypes.data)


class BinaryLayer:
    """Packed weights [O, kh, kw, words] made ready, for inputs of any size.

    `few_pixels`: outputs have fewer than 4 pixels (a matrix times few rows), which another tile is for.
    """

    def __init__(
        self,
        form: Form,
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
        self.channels, self.groups, self.pad_value = channels, groups, pad_value
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.filters, self.kh, self.kw, self.words = map(int, weight_words.shape)
        self.group_channels = channels // groups
        self.blocks = -(-(self.filters // groups) // LANES)
        self.epilogue = epilogue or Epilogue()
        # Two layouts at most; each is made when an input first needs it.
        self._weights = lru_cache(maxsize=2)(self._lay_out)
        self._parameters = self.epilogue.rows(self.filters)

    def _lay_out(self, few_pixels: bool) -> Array:
        return self.form.lay_out(self.weight_words, self.groups, self.group_channels, 1 if few_pixels else MOST_PIXELS)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return conv2d_size((height, width), (self.kh, self.kw), self.stride, self.padding, self.dilation)

    def plan(
        self,
        x: Array,
        outputs: Outputs,
        *,
        threshold: Threshold | None = None,
        added: Sequence[Array] = (),
    ) -> Plan:
        """Fix input and outputs. x: bits [N, H, W, groups, words], or real [N, H, W, C] with a `threshold`.

        `added`: real [N, Ho, Wo, O], added one after the other.
        """
        N, H, W = x.shape[:3]
        Ho, Wo = self.output_size(H, W)
        job = np.zeros(1, dtype=JOB)
        kept: list[Any] = [x, outputs, added, self]

        def address(array: Array | None) -> int:
            kept.append(array)
            return 0 if array is None else int(array.ctypes.data)

        def put(**fields: int) -> None:
            for name, value in fields.items():
                job[name] = value

        put(images=N, height=H, width=W, channels=self.channels, groups=self.groups)
        put(group_channels=self.group_channels, words=self.words, x=address(x), x_pixel=_pixel_bytes(x, "the input"))
        if threshold is not None:
            values, signs = threshold.rows()
            put(x_is_real=1, thresholds=address(values), signs=address(signs))
            put(comparisons=len(values), threshold_bytes=values.strides[0])
        self._put_window(put, address, Ho, Wo)
        rows = self._put_operands(put, address, N, Ho, Wo)
        self._put_border(put, address, (H, W), (Ho, Wo))
        self._put_outputs(put, address, outputs)
        pairs = np.array([(a.ctypes.data, _pixel_bytes(a, "what is added")) for a in added], np.int64).reshape(-1, 2)
        put(added=address(pairs), added_count=len(pairs))
        scratch_bytes = self._put_scratch(put, rows, Wo)
        chunks = -(-Ho // rows)
        products = N * Ho * Wo * self.filters * self.group_channels * self.kh * self.kw
        return Plan(self.form, job, pairs, N * chunks, products, scratch_bytes, kept)

    def _put_window(self, put: Callable[..., None], address: Callable[[Array], int], Ho: int, Wo: int) -> None:
        pad = full_words(self.group_channels) if self.pad_value == 1 else np.zeros(self.words, np.uint32)
        put(
            out_height=Ho,
            out_width=Wo,
            stride_y=self.stride[0],
            stride_x=self.stride[1],
            top=self.padding[0],
            left=self.padding[1],
            span_y=self.dilation[0] * (self.kh - 1) + 1,
            in_width=self._in_width(Wo),
            pad_words=address(np.tile(pad, self.groups)),
        )

    def _in_width(self, Wo: int) -> int:
        return (Wo - 1) * self.stride[1] + self.dilation[1] * (self.kw - 1) + 1

    def _put_operands(self, put: Callable[..., None], address: Callable[[Array], int], N: int, Ho: int, Wo: int) -> int:
        """Where the inner loop finds its operands; the number of rows that a task makes."""
        lanes = self.groups * self.blocks * LANES
        rows = max(1, min(Ho, COUNTS_BYTES // (4 * lanes * Wo)))
        # At least one task for each thread, and tasks of equal size.
        rows = min(rows, -(-Ho * N // torch.get_num_threads()))
        rows = -(-Ho // -(-Ho // rows))
        steps = self.form.steps(self.group_channels)
        pixel = steps * self.form.step_bytes
        row = pixel * self._in_width(Wo)
        y, x = np.divmod(np.arange(rows * Wo + MOST_PIXELS), Wo)
        y, x = np.minimum(y, rows - 1), np.where(y < rows, x, Wo - 1)
        pixels = y * self.stride[0] * row + x * self.stride[1] * pixel
        weights = self._weights(Ho * Wo < 4)
        segments = self.form.segments(self._runs(row, pixel, steps))
        put(
            rows=rows,
            pixel_bytes=pixel,
            group_bytes=self._plane_bytes(rows, Wo),
            pixels=address(pixels.astype(np.int64)),
            segments=address(segments),
            segment_count=len(segments),
            weights=address(weights),
            weight_group_bytes=weights.nbytes // self.groups,
            tables=address(self.form.tables) if self.form.tables is not None else 0,
            blocks=self.blocks,
            lanes=lanes,
        )
        return rows

    def _runs(self, row: int, pixel: int, steps: int) -> list[tuple[int, int]]:
        """(offset, steps) of the taps; those of one row of the kernel are one run where they lie together."""
        down, right = self.dilation
        if right == 1:
            return [(ky * down * row, self.kw * steps) for ky in range(self.kh)]
        return [(ky * down * row + kx * right * pixel, steps) for ky in range(self.kh) for kx in range(self.kw)]

    def _put_border(
        self, put: Callable[..., None], address: Callable[[Array], int], size: tuple[int, int], out: tuple[int, int]
    ) -> None:
        """base = what a sum would be with no differing bit, for each class of output rows and columns.

        Outputs of one class have the same taps outside the image. Where these count as 0, base leaves their length
        out, and takes back that they were counted as clear bits.
        """
        row_of, outside_y = _classes(size[0], out[0], self.kh, self.stride[0], self.dilation[0], self.padding[0])
        column_of, outside_x = _classes(size[1], out[1], self.kw, self.stride[1], self.dilation[1], self.padding[1])
        base = np.full(
            (len(outside_y), len(outside_x), self.filters), self.kh * self.kw * self.group_channels, np.int64
        )
        if self.pad_value == 0:
            set_bits = np.bitwise_count(self.weight_words).sum(axis=3, dtype=np.int64)
            tap_sums = 2 * set_bits - self.group_channels
            outside = outside_y[:, None, :, None] | outside_x[None, :, None, :]
            base += np.einsum("yxab,oab->yxo", outside.astype(np.int64), tap_sums)
        source = self.epilogue.source
        in_order = base if source is None else base[..., source]
        padded = np.zeros((*base.shape[:2], _whole(self.filters)), dtype=np.int32)
        padded[..., : self.filters] = in_order
        put(
            row_class=address(row_of),
            column_class=address(column_of),
            column_classes=len(outside_x),
            base=address(padded),
            base_bytes=padded.strides[1],
            source=self._lane_of_channel(address),
            filters=self.filters,
        )

    def _lane_of_channel(self, address: Callable[[Array], int]) -> int:
        """Address of the lane in which each output channel is counted; 0 where lane and channel are the same."""
        channel = np.arange(self.filters)
        source = channel if self.epilogue.source is None else self.epilogue.source
        group, place = np.divmod(source, self.filters // self.groups)
        lanes = group * self.blocks * LANES + place
        return 0 if np.array_equal(lanes, channel) else address(lanes.astype(np.int64))

    def _put_outputs(self, put: Callable[..., None], address: Callable[[Array | None], int], outputs: Outputs) -> None:
        out = outputs.real if outputs.sums is None else outputs.sums
        put(wants_sums=int(outputs.sums is not None), out=address(out))
        if out is not None:
            put(out_pixel=_pixel_bytes(out, "the output"))
        put(parameters=address(self._parameters), parameter_bytes=self._parameters.strides[0])
        if outputs.bits is not None and outputs.bits_threshold is not None:
            values, signs = outputs.bits_threshold.rows()
            bits_groups, bits_words = outputs.bits.shape[3:]
            put(
                bits=address(outputs.bits),
                bits_groups=bits_groups,
                bits_group_channels=self.filters // bits_groups,
                bits_words=bits_words,
                bits_thresholds=address(values),
                bits_signs=address(signs),
                bits_comparisons=len(values),
                bits_threshold_bytes=values.strides[0],
            )

    def _plane_bytes(self, rows: int, Wo: int) -> int:
        """Operands of one group for a task of that many rows; 8 more, as a word is written whole, wherever its group ends."""
        in_rows = (rows - 1) * self.stride[0] + self.dilation[0] * (self.kh - 1) + 1
        pixel = self.form.steps(self.group_channels) * self.form.step_bytes
        return _whole(in_rows * self._in_width(Wo) * pixel + 8, 8)

    def _put_scratch(self, put: Callable[..., None], rows: int, Wo: int) -> int:
        """How the scratch memory of a thread is divided, and its size."""
        lanes = self.groups * self.blocks * LANES
        counts_at = _whole(self._plane_bytes(rows, Wo) * self.groups, 64)
        row_at = counts_at + 4 * lanes * (rows * Wo + MOST_PIXELS)
        flat_at = row_at + _whole(8 * (self.filters + LANES), 64)
        flat = 4 * (max(self.channels, self.filters) // 32 + 2 + self.groups * self.words)
        per_thread = _whole(flat_at + flat, 64)
        put(scratch_bytes=per_thread, counts_at=counts_at, row_at=row_at, flat_at=flat_at)
        return per_thread


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


def _classes(
    size: int, out: int, kernel: int, stride: int, dilation: int, before: int
) -> tuple[Array, NDArray[np.bool_]]:
    """The class of each output along one side, int64 [out], and which taps of a class are outside, [classes, kernel]."""
    taps = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - before
    outside, classes = np.unique((taps < 0) | (taps >= size), axis=0, return_inverse=True)
    return classes.reshape(-1).astype(np.int64), outside


def check_layer(bits: Words, weight_words: Words, channels: int, groups: int, pad_value: int) -> None:
    """`BnasError` for shapes that do not fit each other."""
    check_conv2d(bits, weight_words, channels, groups, pad_value)
