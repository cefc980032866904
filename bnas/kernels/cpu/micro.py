"""The inner loops, written in LLVM's own language: what numba's compiler does not make of Python loops.

Both count, for a tile of pixels and filters, in how many bits activations and weights differ. A *step* is what one
instruction takes of the reduction.

`popcount`: a step is a word, 16 filters are <16 x i32>: broadcast, XOR, popcount, add. Where the processor counts bits in
vectors (AVX512-VPOPCNTDQ), that is one instruction each. Filters and channels that do not fill vectors and words are lost.

`tables`: a step is 4 bits of 32 pixels, one a byte. Without a vector popcount the cheapest count is a byte shuffle that
looks up the pixels' 4 activations each in the table of the filter's 4 weights, table[w][a] = popcount(w xor a): two
instructions for 128 products, half of what XOR and a popcount by shuffles take. Any number of filters fills the vectors, and
4 divides most numbers of channels. Weights are stored as offsets of their tables. The idea of tables in registers is that
of T-MAC (Wei et al. 2024, arXiv 2407.00088), there with filters in the lanes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
# Bytes of a vector that byte shuffles work on.
BYTES = 32

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
# A sum of bytes stays below 256: each step of 4 bits adds at most 4.
STEPS_AT_ONCE = 63

Builder = Any
Value = Any


@dataclass(frozen=True)
class Tile:
    """What one run of an inner loop counts with all sums in registers: pixels (`popcount`) or vectors of 32 pixels
    (`tables`), by blocks of 16 filters or by filters.
    """

    pixels: int
    filters: int


def pointer(b: Builder, address: Value, to: ir.Type) -> Value:
    return b.inttoptr(address, to.as_pointer())


def load(b: Builder, address: Value, to: ir.Type, align: int) -> Value:
    return b.load(pointer(b, address, to), align=align)


def plus(b: Builder, address: Value, offset: int) -> Value:
    return b.add(address, I64(offset)) if offset else address


def splat(b: Builder, scalar: Value, lanes: int) -> Value:
    vector = ir.VectorType(scalar.type, lanes)
    first = b.insert_element(vector(ir.Undefined), scalar, I32(0))
    return b.shuffle_vector(first, vector(ir.Undefined), ir.VectorType(I32, lanes)([0] * lanes))


def emit_popcount(
    b: Builder, tile: Tile, acts: Value, pixels: Value, segments: Value, count: Value, weights: Value, out: Value,
    out_stride: Value,
) -> None:  # fmt: skip
    """Store int32 counts out[pixel][lane] for words at acts + pixels[p] and weights [step][block][16] of int32.

    `segments`: runs of steps whose words lie one after the other, int64 [count, 2]: offset in bytes, steps.
    """
    vector = ir.VectorType(I32, LANES)
    step_bytes = 4 * LANES * tile.filters
    popcount = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector]), "llvm.ctpop.v16i32")
    sums = [[cgutils.alloca_once_value(b, vector(None)) for _ in range(tile.filters)] for _ in range(tile.pixels)]
    bases = [b.add(acts, load(b, plus(b, pixels, 8 * p), I64, 8)) for p in range(tile.pixels)]
    weights_now = cgutils.alloca_once_value(b, weights)
    with cgutils.for_range(b, count) as segment_loop:
        segment = b.add(segments, b.mul(segment_loop.index, I64(16)))
        offset, steps = (load(b, plus(b, segment, 8 * i), I64, 8) for i in range(2))
        segment_weights = b.load(weights_now)
        starts = [b.add(base, offset) for base in bases]
        with cgutils.for_range(b, steps) as loop:
            at = b.add(segment_weights, b.mul(loop.index, I64(step_bytes)))
            filters = [load(b, plus(b, at, 4 * LANES * v), vector, 4) for v in range(tile.filters)]
            step = b.mul(loop.index, I64(4))
            for p, start in enumerate(starts):
                word = splat(b, load(b, b.add(start, step), I32, 4), LANES)
                for v, weight in enumerate(filters):
                    differing = b.call(popcount, [b.xor(word, weight)])
                    b.store(b.add(b.load(sums[p][v]), differing), sums[p][v])
        b.store(b.add(segment_weights, b.mul(steps, I64(step_bytes))), weights_now)
    for p in range(tile.pixels):
        row = b.add(out, b.mul(out_stride, I64(4 * p)))
        for v in range(tile.filters):
            b.store(b.load(sums[p][v]), pointer(b, plus(b, row, 4 * LANES * v), vector), align=4)


def emit_tables(
    b: Builder, tile: Tile, acts: Value, offsets: Value, steps: Value, weights: Value, tables: Value, sums: Value,
    before: Value,
) -> None:  # fmt: skip
    """Add up to 63 steps to int16 counts sums[filter][pixel]; they begin at 0 where no steps came `before`.

    Bytes of the pixels at acts + offsets[step], of which the lowest 4 bits count; weights [step][filter], offsets of their
    16 bytes in `tables`.
    """
    half, whole = ir.VectorType(I8, BYTES // 2), ir.VectorType(I8, BYTES)
    shuffle = cgutils.get_or_insert_function(b.module, ir.FunctionType(whole, [whole, whole]), "llvm.x86.avx2.pshuf.b")
    twice = ir.VectorType(I32, BYTES)([*range(BYTES // 2)] * 2)
    found = [[cgutils.alloca_once_value(b, whole(None)) for _ in range(tile.pixels)] for _ in range(tile.filters)]
    with cgutils.for_range(b, steps) as loop:
        start = b.add(acts, load(b, b.add(offsets, b.mul(loop.index, I64(8))), I64, 8))
        pixels = [load(b, plus(b, start, BYTES * p), whole, 1) for p in range(tile.pixels)]
        at = b.add(weights, b.mul(loop.index, I64(tile.filters)))
        for f in range(tile.filters):
            offset = b.zext(load(b, plus(b, at, f), I8, 1), I64)
            table = b.shuffle_vector(load(b, b.add(tables, offset), half, 16), half(ir.Undefined), twice)
            for p in range(tile.pixels):
                b.store(b.add(b.load(found[f][p]), b.call(shuffle, [table, pixels[p]])), found[f][p])
    counts = ir.VectorType(I16, BYTES)
    kept = splat(b, b.sext(b.icmp_signed("!=", before, I64(0)), I16), BYTES)
    for f in range(tile.filters):
        for p in range(tile.pixels):
            to = pointer(b, plus(b, sums, 2 * BYTES * (f * tile.pixels + p)), counts)
            earlier = b.and_(b.load(to, align=32), kept)
            b.store(b.add(earlier, b.zext(b.load(found[f][p]), counts)), to, align=32)


def inner_loop(tile: Tile, emit: Callable[..., None]) -> Any:
    """The function that numba puts in line where it is called, with the seven arguments of `emit` as int64."""

    @intrinsic
    def count_differing(typing_context, a, b, c, d, e, f, g):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit(builder, tile, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return count_differing
