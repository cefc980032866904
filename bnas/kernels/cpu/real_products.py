"""The inner loop of real-valued convolutions: sums of products of 6 pixels and 16 filters in registers, then what follows."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnas.kernels.cpu.micro import I64, LANES, Builder, Tile, Value, load, plus, splat
from bnas.kernels.cpu.vectors import F32, followed, load_rows, store_first

# 12 vectors of 8 sums, 2 of weights and one of an activation: 16 registers hold them.
SIX_BY_ONE, ONE_BY_ONE = Tile(6, 1), Tile(1, 1)
FLOATS = ir.VectorType(F32, LANES)


def _emit(
    b: Builder, tile: Tile, acts: Value, pixels: Value, segments: Value, count: Value, weights: Value,
    parameters: Value, stride: Value, follows: Value, out: Value, out_pixel: Value, lanes: Value,
) -> None:  # fmt: skip
    """Store what follows the sums of float32 at acts + pixels[p] x weights [step][16], at out + p * out_pixel.

    `segments`: runs of steps whose values lie one after the other, int64 [count, 2]: offset in bytes, steps. A sum begins
    with the first row of `parameters` and takes its products in the order of the steps; the other five rows are those of
    `vectors.follow_real`.
    """
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    multiply_add = cgutils.get_or_insert_function(b.module, kind, "llvm.fmuladd.v16f32")
    bias = load(b, parameters, FLOATS, 4)
    sums = [cgutils.alloca_once_value(b, bias) for _ in range(tile.pixels)]
    bases = [b.add(acts, load(b, plus(b, pixels, 8 * p), I64, 8)) for p in range(tile.pixels)]
    weights_now = cgutils.alloca_once_value(b, weights)
    with cgutils.for_range(b, count) as segment_loop:
        segment = b.add(segments, b.mul(segment_loop.index, I64(16)))
        offset, steps = (load(b, plus(b, segment, 8 * i), I64, 8) for i in range(2))
        start_weights = b.load(weights_now)
        starts = [b.add(base, offset) for base in bases]
        with cgutils.for_range(b, steps) as loop:
            weight = load(b, b.add(start_weights, b.mul(loop.index, I64(4 * LANES))), FLOATS, 4)
            step = b.mul(loop.index, I64(4))
            for total, start in zip(sums, starts, strict=True):
                value = splat(b, load(b, b.add(start, step), F32, 4), LANES)
                b.store(b.call(multiply_add, [value, weight, b.load(total)]), total)
        b.store(b.add(start_weights, b.mul(steps, I64(4 * LANES))), weights_now)
    with b.if_then(b.icmp_signed("!=", follows, I64(0))):
        rows = load_rows(b, b.add(parameters, stride), stride, FLOATS, 5)
        for total in sums:
            b.store(followed(b, b.load(total), rows), total)
    for p, total in enumerate(sums):
        store_first(b, b.load(total), b.add(out, b.mul(out_pixel, I64(p))), lanes)


def _products(tile: Tile) -> Any:
    @intrinsic
    def products(typing_context, a, b, c, d, e, f, g, h, i, j, k):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            _emit(builder, tile, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), generate

    return products


six_by_one, one_by_one = _products(SIX_BY_ONE), _products(ONE_BY_ONE)
