"""From the channels of a pixel to pixels in the lanes, and back: real values to words of a line, bits to bytes, counts."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnas.kernels.cpu.micro import BYTES, I8, I16, I32, I64, TABLE_BYTES, load, plus, pointer, splat
from bnas.kernels.cpu.vectors import F32, WORD, Builder, Value, first_lanes, lanes_of, masked_load


@intrinsic
def compare_line(  # type: ignore[no-untyped-def]
    typing_context, x, step, pixels, thresholds, signs, count, before, out, out_step
):
    """For each pixel, from x on `step` bytes apart, the word of `vectors.compare_word`, from `out` on `out_step` bytes apart.

    They replace the words there (`before` 0), or turn these round (-1).
    """

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        count = arguments[5]
        with b.if_else(b.icmp_signed(">=", count, I64(WORD))) as (whole, part):
            with whole:
                _compare_line(b, WORD, False, *arguments)
            with part, b.if_else(b.icmp_signed(">", count, I64(16))) as (many, few):
                with many:
                    _compare_line(b, WORD, True, *arguments)
                with few, b.if_else(b.icmp_signed(">", count, I64(8))) as (sixteen, eight):
                    with sixteen:
                        _compare_line(b, 16, True, *arguments)
                    with eight:
                        _compare_line(b, 8, True, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


def _compare_line(
    b: Builder, lanes: int, masked: bool, x: Value, step: Value, pixels: Value, thresholds: Value, signs: Value,
    count: Value, before: Value, out: Value, out_step: Value,
) -> None:  # fmt: skip
    floats, ints = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)
    # Outside the loop: what the loop writes could be these, for all that the compiler knows.
    limits, turned, mask = load(b, thresholds, floats, 4), load(b, signs, ints, 4), first_lanes(b, count, lanes)
    kept = b.trunc(before, I32)
    with cgutils.for_range(b, pixels) as loop:
        at = b.add(x, b.mul(loop.index, step))
        values = masked_load(b, at, floats, mask) if masked else load(b, at, floats, 4)
        bits = b.fcmp_ordered(">=", b.bitcast(b.xor(b.bitcast(values, ints), turned), floats), limits)
        bits = b.and_(bits, mask) if masked else bits
        word = b.zext(b.bitcast(bits, ir.IntType(lanes)), I32) if lanes < WORD else b.bitcast(bits, I32)
        to = pointer(b, b.add(out, b.mul(loop.index, out_step)), I32)
        b.store(b.xor(word, b.and_(b.load(to, align=4), kept)), to, align=4)


def _put_nibbles(lanes: int) -> Any:
    @intrinsic
    def put_nibbles(typing_context, words, shift, mask, others, back, out):  # type: ignore[no-untyped-def]
        """Bits from `shift` on of some words, one word's in a byte, at `out`; only those of `mask`, 4 at most.

        Those beyond a word are the first of the words at `others`, `back` higher; `back` 0: there are none.
        """

        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            words, shift, mask, others, back, out = arguments
            vector, in_bytes = ir.VectorType(I32, lanes), ir.VectorType(I8, lanes)

            def store(value: Value) -> None:
                nibbles = b.and_(b.trunc(value, in_bytes), splat(b, b.trunc(mask, I8), lanes))
                b.store(nibbles, pointer(b, out, in_bytes), align=1)

            first = b.lshr(load(b, words, vector, 4), splat(b, b.trunc(shift, I32), lanes))
            with b.if_else(b.icmp_signed("==", back, I64(0))) as (one, two):
                with one:
                    store(first)
                with two:
                    rest = b.shl(load(b, others, vector, 4), splat(b, b.trunc(back, I32), lanes))
                    store(b.or_(first, rest))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return put_nibbles


# By the number of words.
put_16_nibbles, put_32_nibbles = _put_nibbles(16), _put_nibbles(32)


@intrinsic
def copy_bytes(typing_context, x, out):  # type: ignore[no-untyped-def]
    """A vector of bytes."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        x, out = arguments
        whole = ir.VectorType(I8, BYTES)
        b.store(load(b, x, whole, 1), pointer(b, out, whole), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def put_places(typing_context, word, other, out):  # type: ignore[no-untyped-def]
    """For each 4 bits of the word at `word` and of that at `other`, where the table of both begins: 8 int16 at `out`."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        word, other, out = arguments
        vector = ir.VectorType(I32, 8)
        one, two = (
            b.and_(b.lshr(splat(b, load(b, at, I32, 4), 8), vector(list(range(0, WORD, 4)))), vector([15] * 8))
            for at in (word, other)
        )
        places = b.mul(b.or_(one, b.mul(two, vector([16] * 8))), vector([TABLE_BYTES] * 8))
        short = b.trunc(places, ir.VectorType(I16, 8))
        b.store(short, pointer(b, out, short.type), align=2)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def widen_counts(typing_context, sums, out, count):  # type: ignore[no-untyped-def]
    """`count` int16 as int32, a multiple of 16."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        sums, out, count = arguments
        with cgutils.for_range(b, b.udiv(count, I64(16))) as loop:
            values = load(b, b.add(sums, b.mul(loop.index, I64(32))), ir.VectorType(I16, 16), 32)
            wide = b.zext(values, ir.VectorType(I32, 16))
            b.store(wide, pointer(b, b.add(out, b.mul(loop.index, I64(64))), wide.type), align=64)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def turn_counts(typing_context, sums, order, out, pixel_bytes):  # type: ignore[no-untyped-def]
    """Counts of 8 filters, int16 of 16 pixels each at sums + order[i], as 16 pixels of 8 int32, `pixel_bytes` apart."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        sums, order, out, pixel_bytes = arguments
        row = ir.VectorType(I16, 16)
        rows = [load(b, b.add(sums, load(b, plus(b, order, 8 * i), I64, 8)), row, 32) for i in range(8)]
        # Each round interleaves the first four rows with the last four, within both halves; after three, lane i of row j
        # is lane j of row i.
        for _ in range(3):
            pairs = [(rows[i], rows[i + 4], start) for i in range(4) for start in (0, 4)]
            rows = [_interleaved(b, one, other, start) for one, other, start in pairs]
        for i, filters in enumerate(rows):
            for half in range(2):
                counts = b.zext(lanes_of(b, filters, range(8 * half, 8 * half + 8)), ir.VectorType(I32, 8))
                to = b.add(out, b.mul(pixel_bytes, I64(8 * half + i)))
                b.store(counts, pointer(b, to, counts.type), align=32)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _interleaved(b: Builder, one: Value, other: Value, start: int) -> Value:
    """Lanes start .. start + 3 of both halves of two <16 x i16>, one from each in turn."""
    mask = [16 * which + half + start + i for half in (0, 8) for i in range(4) for which in (0, 1)]
    return b.shuffle_vector(one, other, ir.VectorType(I32, 16)(mask))
