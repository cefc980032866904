"""The inner loops, written in LLVM's own language: what numba's compiler does not make of Python loops.

All count, for a tile of pixels and filters, in how many bits activations and weights differ. A *step* is what one
instruction takes of the reduction.

`popcount`: a step is a word, 16 filters are <16 x i32>: broadcast, XOR, popcount, add. Where the processor counts bits in
vectors (AVX512-VPOPCNTDQ), that is one instruction each. Filters and channels that do not fill vectors and words are lost.

Look-ups: a step is 4 bits. Without a vector popcount the cheapest count is a byte shuffle: each byte of a vector looks its
4 bits up in a table of 16 counts, table[a][b] = popcount(a xor b). A count of 4 bits is 4 at most, and three of them fit half
a byte; so a table holds the counts of *two* others, table[a1 + 16 a2][b] = popcount(a1 xor b) + 16 popcount(a2 xor b), and an
instruction makes 256 products. Of such bytes, each pair of counts begins in a half of its own, so that three steps can be
added; then the upper halves are taken out and added by themselves. The sums of whole bytes, modulo 256, less 16 times those
of the upper halves are the sums of the lower halves: these need not be taken out. For three steps that is 3 shuffles and
6 additions, shifts and ANDs for 768 products, where tables of one take 3 and 3 for 384.

`tables`: bytes are pixels, a table is of two filters. Any number of filters fills the vectors, and 4 divides most numbers of
channels. `filter_tables`: bytes are filters, a table is of two pixels; so few pixels will do.

Tables in registers for products of bits are an idea of T-MAC (Wei et al. 2024, arXiv 2407.00088), there of one each.
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
# So many steps can be added before the upper half of a byte is taken out.
STEPS_TOGETHER = 3
# A sum of bytes stays below 256: each step of 4 bits adds at most 4.
STEPS_AT_ONCE = 63
# Operands of look-ups: bytes of a table, and where that of zeros begins. A byte with its highest bit looks up 0 everywhere.
TABLE_BYTES, NO_TABLE, NO_BITS = 16, 16 * 256, 0x80

Builder = Any
Value = Any


@dataclass(frozen=True)
class Tile:
    """What one run of `popcount` counts with all sums in registers: pixels by blocks of 16 filters."""

    pixels: int
    filters: int


@dataclass(frozen=True)
class LookUps:
    """What one run of look-ups counts: tables, of two filters or pixels each, by vectors of 32 pixels or filters."""

    tables: int
    vectors: int


# Their sums fill 16 registers as far as others are not needed.
FOUR, TWO, ONE = LookUps(1, 4), LookUps(2, 2), LookUps(2, 1)


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
    b: Builder, tile: LookUps, acts: Value, offsets: Value, steps: Value, weights: Value, weights_pitch: Value, sums: Value,
    pitch: Value, before: Value,
) -> None:  # fmt: skip
    """Add up to 63 steps, a multiple of 3, to int16 counts of two filters a table by 32 pixels a vector at `sums`.

    `pitch`: bytes from one filter's to the next. They begin at 0 where no steps came `before`. Bytes of the pixels at
    acts + offsets[step] (int64), of which the lowest 4 bits count; weights: for each step the place of the table, int16,
    those of the next table `weights_pitch` bytes further.
    """

    def operands(step: Value) -> tuple[Value, Value]:
        at = b.add(weights, b.mul(step, I64(2)))
        return at, b.add(acts, load(b, b.add(offsets, b.mul(step, I64(8))), I64, 8))

    _look_up(b, tile, steps, operands, weights_pitch, sums, pitch, before)


def emit_filter_tables(
    b: Builder, tile: LookUps, acts: Value, offsets: Value, steps: Value, weights: Value, acts_pitch: Value, sums: Value,
    pitch: Value, before: Value,
) -> None:  # fmt: skip
    """The same for two pixels a table by 32 filters a vector: the place of a table at acts + offsets[step], filters' bytes."""

    def operands(step: Value) -> tuple[Value, Value]:
        at = b.add(acts, load(b, b.add(offsets, b.mul(step, I64(8))), I64, 8))
        return at, b.add(weights, b.mul(step, I64(BYTES * tile.vectors)))

    _look_up(b, tile, steps, operands, acts_pitch, sums, pitch, before)


def _look_up(
    b: Builder, tile: LookUps, steps: Value, operands: Callable[[Value], tuple[Value, Value]], place_pitch: Value,
    sums: Value, pitch: Value, before: Value,
) -> None:  # fmt: skip
    """operands(step): where the place of its first table lies, and its bytes."""
    half, whole, pairs = ir.VectorType(I8, TABLE_BYTES), ir.VectorType(I8, BYTES), ir.VectorType(I16, BYTES // 2)
    shuffle = cgutils.get_or_insert_function(b.module, ir.FunctionType(whole, [whole, whole]), "llvm.x86.avx2.pshuf.b")
    twice = ir.VectorType(I32, BYTES)([*range(TABLE_BYTES)] * 2)
    tables = b.ptrtoint(_tables_of_two(b.module), I64)
    each = [(t, v) for t in range(tile.tables) for v in range(tile.vectors)]
    all_of_it, upper = ({at: cgutils.alloca_once_value(b, whole(None)) for at in each} for _ in range(2))
    with cgutils.for_range(b, b.udiv(steps, I64(STEPS_TOGETHER))) as loop:
        added: dict[tuple[int, int], Value] = {}
        for i in range(STEPS_TOGETHER):
            place, at = operands(b.add(b.mul(loop.index, I64(STEPS_TOGETHER)), I64(i)))
            inputs = [load(b, plus(b, at, BYTES * v), whole, 1) for v in range(tile.vectors)]
            for t in range(tile.tables):
                start = b.add(tables, b.zext(load(b, place, I16, 2), I64))
                table = b.shuffle_vector(load(b, start, half, TABLE_BYTES), half(ir.Undefined), twice)
                place = b.add(place, place_pitch)
                for v, bits in enumerate(inputs):
                    found = b.call(shuffle, [table, bits])
                    added[t, v] = b.add(added[t, v], found) if i else found
        for e in each:
            high = b.and_(b.lshr(b.bitcast(added[e], pairs), pairs([4] * 16)), pairs([0x0F0F] * 16))
            b.store(b.add(b.load(all_of_it[e]), added[e]), all_of_it[e])
            b.store(b.add(b.load(upper[e]), b.bitcast(high, whole)), upper[e])
    counts = ir.VectorType(I16, BYTES)
    found_counts = []
    for t, v in each:
        high = b.load(upper[t, v])
        lower = b.sub(b.load(all_of_it[t, v]), b.shl(high, whole([4] * BYTES)))
        for which, value in enumerate((lower, high)):
            to = b.add(plus(b, sums, 2 * BYTES * v), b.mul(pitch, I64(2 * t + which)))
            found_counts.append((pointer(b, to, counts), b.zext(value, counts)))
    with b.if_else(b.icmp_signed("==", before, I64(0))) as (first, later):
        with first:
            for to, value in found_counts:
                b.store(value, to, align=32)
        with later:
            for to, value in found_counts:
                b.store(b.add(b.load(to, align=32), value), to, align=32)


def _tables_of_two(module: Any) -> Any:
    """int8 [257, 16], one for all loops of a module: the tables, and one of zeros."""
    name = "bnas.tables_of_two"
    if name in module.globals:
        return module.globals[name]
    counts = [[(a ^ other).bit_count() for other in range(TABLE_BYTES)] for a in range(16)]
    tables = [[one + 16 * two for one, two in zip(counts[a & 15], counts[a >> 4], strict=True)] for a in range(256)]
    flat = [count for table in tables for count in table] + [0] * TABLE_BYTES
    kind = ir.ArrayType(I8, len(flat))
    variable = cgutils.global_constant(module, name, kind(bytearray(flat)))
    variable.align = 64
    return variable


def popcounts(tile: Tile) -> Any:
    """The function that numba puts in line where it is called, with the arguments of `emit_popcount` as int64."""

    @intrinsic
    def count_differing(typing_context, a, b, c, d, e, f, g):  # type: ignore[no-untyped-def]
        return _in_line(emit_popcount, tile, 7)

    return count_differing


def look_ups(tile: LookUps, emit: Callable[..., None]) -> Any:
    """The same with the arguments of `emit_tables` or `emit_filter_tables`."""

    @intrinsic
    def count_differing(typing_context, a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
        return _in_line(emit, tile, 8)

    return count_differing


def _in_line(emit: Callable[..., None], tile: Tile | LookUps, arguments: int) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Any:
        emit(builder, tile, *values)
        return context.get_dummy_value()

    return types.void(*[types.int64] * arguments), generate
