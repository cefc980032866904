"""Maxima and averages of real values over windows, planned like a layer; norm and activation are in the store.

The average is the sum of a window's pixels, from left to right and downwards, over their number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import Tasks, compiled
from bnas.kernels.cpu.layer import Epilogue
from bnas.kernels.cpu.micro import I64, LANES, Builder, Value, load, splat
from bnas.kernels.cpu.plan import Plan, record
from bnas.kernels.cpu.vectors import F32, followed, load_first, load_rows, store_first

Array = NDArray[Any]

# Values that one thread joins in a microsecond, about, measured with AVX2.
READS_A_MICROSECOND = 8_000

_FIELDS = (
    "x", "out", "height", "width", "channels", "out_height", "out_width", "kernel_y", "kernel_x", "stride_y", "stride_x",
    "top", "left", "dilation_y", "dilation_x", "parameters", "parameter_bytes", "follows", "is_maximum", "counts_padding",
)  # fmt: skip

REAL_POOL = np.dtype([(name, np.int64) for name in _FIELDS])


class RealPool:
    """`kernel` None: the whole map. `average`: None for maxima, else whether pixels of the padding count.

    What lies in no pixel but in the padding alone has the maximum -inf; one NaN makes the maximum NaN.
    """

    def __init__(
        self,
        *,
        kernel: tuple[int, int] | None = None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        average: bool | None = None,
        epilogue: Epilogue | None = None,
    ) -> None:
        self._kernel, self._options, self._average = kernel, (*stride, *padding, *dilation), average
        self._epilogue = epilogue or Epilogue()

    def plan(self, x: Array, out: Array) -> Plan:
        """From x [N, H, W, C] to out [N, Ho, Wo, C], float32, each in one piece."""
        rows = self._epilogue.rows(x.shape[3])[1:]
        kernel = self._kernel or x.shape[1:3]
        given = (
            x.ctypes.data, out.ctypes.data, *x.shape[1:], *out.shape[1:3], *kernel, *self._options, rows.ctypes.data,
            rows.strides[0], self._epilogue.follows, self._average is None, bool(self._average),
        )  # fmt: skip
        job, reads = record(REAL_POOL, zip(_FIELDS, given, strict=True)), out.size * kernel[0] * kernel[1]
        return Plan(LINE, job, len(x) * out.shape[1], reads / READS_A_MICROSECOND, kept=(x, out, rows))


def _pool(begin: float, join: Callable[[Builder, Value, Value], Value]) -> Any:
    """The function that stores what follows the joined values of a window, for the first `count` of 16 channels."""

    @intrinsic
    def pool(  # type: ignore[no-untyped-def]
        typing_context, x, rows, row_bytes, columns, column_bytes, divisor, parameters, stride, follows, out, count
    ):
        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            x, rows, row_bytes, columns, column_bytes, divisor, parameters, stride, follows, out, count = arguments
            floats = ir.VectorType(F32, LANES)
            result = cgutils.alloca_once_value(b, floats([begin] * LANES))

            def joined(read: Callable[[Value], Value]) -> None:
                with cgutils.for_range(b, rows) as row:
                    line = b.add(x, b.mul(row.index, row_bytes))
                    with cgutils.for_range(b, columns) as column:
                        value = read(b.add(line, b.mul(column.index, column_bytes)))
                        b.store(join(b, b.load(result), value), result)

            with b.if_else(b.icmp_signed(">=", count, I64(LANES))) as (whole, part):
                with whole:
                    joined(lambda at: load(b, at, floats, 4))
                with part:
                    joined(lambda at: load_first(b, at, floats, count))
            with b.if_then(b.icmp_signed("!=", divisor, I64(0))):
                b.store(b.fdiv(b.load(result), splat(b, b.sitofp(divisor, F32), LANES)), result)
            with b.if_then(b.icmp_signed("!=", follows, I64(0))):
                b.store(followed(b, b.load(result), load_rows(b, parameters, stride, floats, 5)), result)
            store_first(b, b.load(result), out, count)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), generate

    return pool


def _larger(b: Builder, most: Value, value: Value) -> Value:
    """A NaN stays one."""
    is_larger = b.or_(b.fcmp_ordered(">", value, most), b.fcmp_unordered("uno", value, value))
    return b.select(is_larger, value, most)


_maximum = _pool(-np.inf, _larger)
_sum = _pool(0.0, lambda b, total, value: b.fadd(total, value))


@compiled()
def _taps(start, kernel, dilation, size):  # type: ignore[no-untyped-def]
    """The first tap of a window that lies in the image, and how many do."""
    first = max(0, (dilation - 1 - start) // dilation)
    return first, max(0, min(kernel, (size - start + dilation - 1) // dilation) - first)


def _line(job, line, thread):  # type: ignore[no-untyped-def]
    """One row of the output of one image."""
    j = carray(job, 1)[0]
    n, y0 = line // j.out_height, line % j.out_height * j.stride_y - j.top
    ky, rows = _taps(y0, j.kernel_y, j.dilation_y, j.height)
    pixel = 4 * j.channels
    padded_rows = min(j.kernel_y, j.height + j.top - y0)
    for column in range(j.out_width):
        x0 = column * j.stride_x - j.left
        kx, columns = _taps(x0, j.kernel_x, j.dilation_x, j.width)
        y, x = y0 + ky * j.dilation_y, x0 + kx * j.dilation_x
        start = j.x + ((n * j.height + y) * j.width + x) * pixel
        out = j.out + (line * j.out_width + column) * pixel
        row_bytes, column_bytes = j.dilation_y * j.width * pixel, j.dilation_x * pixel
        divisor = 0 if j.is_maximum else rows * columns
        if j.counts_padding:
            divisor = padded_rows * min(j.kernel_x, j.width + j.left - x0)
        for c in range(0, j.channels, LANES):
            if j.is_maximum:
                _maximum(
                    start + 4 * c, rows, row_bytes, columns, column_bytes, divisor, j.parameters + 4 * c,
                    j.parameter_bytes, j.follows, out + 4 * c, j.channels - c,
                )  # fmt: skip
            else:
                _sum(
                    start + 4 * c, rows, row_bytes, columns, column_bytes, divisor, j.parameters + 4 * c,
                    j.parameter_bytes, j.follows, out + 4 * c, j.channels - c,
                )  # fmt: skip


LINE = Tasks(_line, REAL_POOL)
