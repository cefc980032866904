"""Real maps side by side, as one; norm, activation and sums in the same pass. Of a single map, what is done to each value."""

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import Tasks
from bnas.kernels.cpu.layer import Epilogue
from bnas.kernels.cpu.micro import I64, LANES, load, plus
from bnas.kernels.cpu.plan import VALUES_A_MICROSECOND, Plan, record
from bnas.kernels.cpu.vectors import F32, followed, load_first, load_rows, number_at, store_first

PIXELS_AT_ONCE = 64

_FIELDS = (
    "parts", "part_count", "added", "added_count", "pixels", "out", "out_bytes", "parameters", "parameter_bytes", "follows",
)  # fmt: skip

JOIN = np.dtype([(name, np.int64) for name in _FIELDS])

Map = NDArray[np.float32]


def join(maps: Sequence[Map], added: Sequence[Map], epilogue: Epilogue, out: Map) -> Plan:
    """Maps [N, H, W, C_i], each in one piece, to out [N, H, W, C]: their channels one after the other, then what the epilogue
    says but for its scale, then the sum with `added`, maps like `out`, one after the other.
    """
    channels, pixels = out.shape[3], out.shape[0] * out.shape[1] * out.shape[2]
    rows = epilogue.rows(channels)[1:]
    # Where each map lies, bytes from one of its pixels to the next.
    parts, sums = (np.array([(x.ctypes.data, 4 * x.shape[3]) for x in some], np.int64) for some in (maps, added))
    given = (
        parts.ctypes.data, len(parts), sums.ctypes.data, len(sums), pixels, out.ctypes.data, 4 * channels, rows.ctypes.data,
        rows.strides[0], epilogue.follows,
    )  # fmt: skip
    microseconds = pixels * channels * (1 + len(added)) / VALUES_A_MICROSECOND
    kept = maps, added, out, rows, parts, sums
    return Plan(
        SOME_PIXELS,
        record(JOIN, zip(_FIELDS, given, strict=True)),
        -(-pixels // PIXELS_AT_ONCE),
        microseconds,
        kept=kept,
    )


@intrinsic
def _store(  # type: ignore[no-untyped-def]
    typing_context, x, parameters, stride, follows, added, added_count, pixel, offset, out, count
):
    """What follows the first `count` of 16 float32 at x, at `out`; the values added lie at `pixel`, from byte `offset` on."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        x, parameters, stride, follows, added, added_count, pixel, offset, out, count = arguments
        floats = ir.VectorType(F32, LANES)
        result = cgutils.alloca_once_value(b, load_first(b, x, floats, count))
        with b.if_then(b.icmp_signed("!=", follows, I64(0))):
            rows = load_rows(b, b.add(parameters, offset), stride, floats, 5)
            b.store(followed(b, b.load(result), rows), result)
        with cgutils.for_range(b, added_count) as loop:
            pair = b.add(added, b.mul(loop.index, I64(16)))
            start, step = load(b, pair, I64, 8), load(b, plus(b, pair, 8), I64, 8)
            at = b.add(b.add(start, b.mul(pixel, step)), offset)
            b.store(b.fadd(b.load(result), load_first(b, at, floats, count)), result)
        store_first(b, b.load(result), b.add(out, offset), count)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), generate


def _some(job, task, thread):  # type: ignore[no-untyped-def]
    j = carray(job, 1)[0]
    for p in range(task * PIXELS_AT_ONCE, min(j.pixels, (task + 1) * PIXELS_AT_ONCE)):
        out, offset = j.out + p * j.out_bytes, 0
        for part in range(j.parts, j.parts + 16 * j.part_count, 16):
            size = number_at(part + 8)
            x = number_at(part) + p * size
            for c in range(0, size, 4 * LANES):
                _store(
                    x + c, j.parameters, j.parameter_bytes, j.follows, j.added, j.added_count, p, offset + c, out,
                    (size - c) // 4,
                )  # fmt: skip
            offset += size


SOME_PIXELS = Tasks(_some, JOIN)
