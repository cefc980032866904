"""The inner loops, written in LLVM's own language: what numba's compiler does not make of Python loops.

Both count, for a tile of pixels and blocks of 16 filters, in how many bits activations and weights differ. A *step* is
what one instruction takes of the reduction; *segments* are runs of steps that lie one after the other in memory.

`popcount`: a step is a word, 16 filters are <16 x i32>: broadcast, XOR, popcount, add. Where the processor counts bits in
vectors (AVX512-VPOPCNTDQ), that is one instruction each.

`tables`: a step is 4 bits. Without a vector popcount the cheapest count is a byte shuffle that looks up 16 filters'
4 weights each in the table of the pixel's 4 activations, table[a][w] = popcount(a xor w): two instructions for 128
products, half of what XOR and a popcount by shuffles take. Activations are stored as offsets of their tables. The
idea of tables in registers is that of T-MAC (Wei et al. 2024, arXiv 2407.00088), there for several bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
# A sum of bytes stays below 256: each step of 4 bits adds at most 4.
STEPS_TO_FLUSH = 63

Builder = Any
Value = Any


@dataclass(frozen=True)
class Tile:
    """Pixels and blocks of 16 filters that one run of the inner loop counts; all its sums stay in registers.

    `wide` (tables only): a register holds one pixel's sums for 32 filters, else two pixels' for 16.
    """

    pixels: int
    blocks: int
    wide: bool = False


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


Segment = Callable[[Value, Value, Value, Value], None]


def _for_each_segment(b: Builder, segments: Value, count: Value, weights: Value, step_bytes: int, run: Segment) -> None:
    """Call run(offset, steps, flush, address of the segment's weights) in a loop over the segments, 3 int64 each."""
    weights_now = cgutils.alloca_once_value(b, weights)
    with cgutils.for_range(b, count) as loop:
        segment = b.add(segments, b.mul(loop.index, I64(24)))
        offset, steps, flush = (load(b, plus(b, segment, 8 * i), I64, 8) for i in range(3))
        here = b.load(weights_now)
        run(offset, steps, flush, here)
        b.store(b.add(here, b.mul(steps, I64(step_bytes))), weights_now)


def emit_popcount(
    b: Builder, tile: Tile, acts: Value, pixels: Value, segments: Value, count: Value, weights: Value, out: Value,
    out_stride: Value, tables: Value,
) -> None:  # fmt: skip
    """Store int32 counts out[pixel][lane] for words at acts + pixels[p] and weights [step][block][16] of int32; no tables."""
    vector = ir.VectorType(I32, LANES)
    popcount = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector]), "llvm.ctpop.v16i32")
    sums = [[cgutils.alloca_once_value(b, vector(None)) for _ in range(tile.blocks)] for _ in range(tile.pixels)]
    bases = [b.add(acts, load(b, plus(b, pixels, 8 * p), I64, 8)) for p in range(tile.pixels)]

    def run(offset: Value, steps: Value, flush: Value, segment_weights: Value) -> None:
        starts = [b.add(base, offset) for base in bases]
        with cgutils.for_range(b, steps) as loop:
            at = b.add(segment_weights, b.mul(loop.index, I64(4 * LANES * tile.blocks)))
            filters = [load(b, plus(b, at, 4 * LANES * v), vector, 4) for v in range(tile.blocks)]
            step = b.mul(loop.index, I64(4))
            for p, start in enumerate(starts):
                word = splat(b, load(b, b.add(start, step), I32, 4), LANES)
                for v, weight in enumerate(filters):
                    differing = b.call(popcount, [b.xor(word, weight)])
                    b.store(b.add(b.load(sums[p][v]), differing), sums[p][v])

    _for_each_segment(b, segments, count, weights, 4 * LANES * tile.blocks, run)
    for p in range(tile.pixels):
        row = b.add(out, b.mul(out_stride, I64(4 * p)))
        for v in range(tile.blocks):
            b.store(b.load(sums[p][v]), pointer(b, plus(b, row, 4 * LANES * v), vector), align=4)


def emit_tables(
    b: Builder, tile: Tile, acts: Value, pixels: Value, segments: Value, count: Value, weights: Value, out: Value,
    out_stride: Value, tables: Value,
) -> None:  # fmt: skip
    """The same for table offsets at acts + pixels[p], weights [step][block][16] of 4-bit bytes, and the 16 tables."""
    per_vector = 2 if tile.wide else 1
    rows, columns = (tile.pixels, tile.blocks // 2) if tile.wide else (tile.pixels // 2, tile.blocks)
    half, whole, counts = ir.VectorType(I8, 16), ir.VectorType(I8, 32), ir.VectorType(I32, LANES)
    shuffle = cgutils.get_or_insert_function(b.module, ir.FunctionType(whole, [whole, whole]), "llvm.x86.avx2.pshuf.b")
    both = ir.VectorType(I32, 32)([*range(16), *range(16)])
    joined = ir.VectorType(I32, 32)(list(range(32)))
    sums = [[cgutils.alloca_once_value(b, whole(None)) for _ in range(columns)] for _ in range(rows)]
    bases = [b.add(acts, load(b, plus(b, pixels, 8 * p), I64, 8)) for p in range(tile.pixels)]
    out_rows = [b.add(out, b.mul(out_stride, I64(4 * p))) for p in range(tile.pixels)]
    for row in out_rows:
        for v in range(tile.blocks):
            b.store(counts(None), pointer(b, plus(b, row, 4 * LANES * v), counts), align=4)

    def table(start: Value) -> Value:
        return load(b, b.add(tables, b.zext(load(b, start, I8, 1), I64)), half, 16)

    def run(offset: Value, steps: Value, flush: Value, segment_weights: Value) -> None:
        starts = [b.add(base, offset) for base in bases]
        with cgutils.for_range(b, steps) as loop:
            at = b.add(segment_weights, b.mul(loop.index, I64(LANES * tile.blocks)))
            if tile.wide:
                filters = [load(b, plus(b, at, 32 * v), whole, 16) for v in range(columns)]
            else:
                halves = [load(b, plus(b, at, 16 * v), half, 16) for v in range(columns)]
                filters = [b.shuffle_vector(x, half(ir.Undefined), both) for x in halves]
            now = [b.add(start, loop.index) for start in starts]
            for r in range(rows):
                if tile.wide:
                    found = b.shuffle_vector(table(now[r]), half(ir.Undefined), both)
                else:
                    found = b.shuffle_vector(table(now[2 * r]), table(now[2 * r + 1]), joined)
                for v, weight in enumerate(filters):
                    b.store(b.add(b.load(sums[r][v]), b.call(shuffle, [found, weight])), sums[r][v])
        with b.if_then(b.icmp_signed("!=", flush, I64(0))):
            flush_sums()

    def flush_sums() -> None:
        for r in range(rows):
            for v in range(columns):
                total = b.load(sums[r][v])
                b.store(whole(None), sums[r][v])
                for side in range(2):
                    lanes = ir.VectorType(I32, 16)(list(range(16 * side, 16 * side + 16)))
                    widened = b.zext(b.shuffle_vector(total, whole(ir.Undefined), lanes), counts)
                    row = out_rows[r] if tile.wide else out_rows[2 * r + side]
                    to = plus(b, row, 4 * LANES * (v * per_vector + (side if tile.wide else 0)))
                    b.store(b.add(load(b, to, counts, 4), widened), pointer(b, to, counts), align=4)

    _for_each_segment(b, segments, count, weights, LANES * tile.blocks, run)


def inner_loop(tile: Tile, emit: Callable[..., None]) -> Any:
    """The function that numba puts in line where it is called, with the arguments of `emit_tables` as int64."""

    @intrinsic
    def count_differing(  # type: ignore[no-untyped-def]
        typing_context, acts, pixels, segments, count, weights, out, out_stride, tables
    ):
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit(builder, tile, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return count_differing
