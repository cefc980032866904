"""What happens around the inner loops, 16 or 32 values at a time: comparisons to bits, and sums to real values."""

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnas.kernels.cpu.micro import I32, I64, LANES, load, plus, pointer, splat

F32, BIT = ir.FloatType(), ir.IntType(1)
WORD = 32

Builder = Any
Value = Any


def first_lanes(b: Builder, count: Value, lanes: int) -> Value:
    """A mask of the first `count` lanes."""
    numbers = ir.VectorType(I32, lanes)(list(range(lanes)))
    return b.icmp_signed("<", numbers, splat(b, b.trunc(count, I32), lanes))


def masked_load(b: Builder, address: Value, vector: ir.VectorType, mask: Value) -> Value:
    to = vector.as_pointer()
    name = f"llvm.masked.load.v{vector.count}{'f32' if vector.element == F32 else 'i32'}.p0"
    kind = ir.FunctionType(vector, [to, I32, mask.type, vector])
    return b.call(
        cgutils.get_or_insert_function(b.module, kind, name), [pointer(b, address, vector), I32(4), mask, vector(None)]
    )


def load_first(b: Builder, address: Value, vector: ir.VectorType, count: Value) -> Value:
    """The first `count` lanes from `address`, zeros behind them; reads no further."""
    result = cgutils.alloca_once(b, vector)
    with b.if_else(b.icmp_signed(">=", count, I64(vector.count))) as (all_of_them, some):
        with all_of_them:
            b.store(load(b, address, vector, 4), result)
        with some:
            b.store(masked_load(b, address, vector, first_lanes(b, count, vector.count)), result)
    return b.load(result)


def store_first(b: Builder, value: Value, address: Value, count: Value) -> None:
    """The first `count` of 16 lanes at `address`. Halves where there are fewer: masked stores are slow on many processors."""
    lanes = value.type.count
    with b.if_else(b.icmp_signed(">=", count, I64(lanes))) as (all_of_them, some):
        with all_of_them:
            b.store(value, pointer(b, address, value.type), align=4)
        with some:
            rest, to = cgutils.alloca_once_value(b, value), cgutils.alloca_once_value(b, address)
            size = lanes // 2
            while size:
                with b.if_then(b.icmp_signed("!=", b.and_(count, I64(size)), I64(0))):
                    first, here = lanes_of(b, b.load(rest), range(size)), b.load(to)
                    b.store(first, pointer(b, here, first.type), align=4)
                    b.store(lanes_of(b, b.load(rest), [(size + i) % lanes for i in range(lanes)]), rest)
                    b.store(plus(b, here, 4 * size), to)
                size //= 2


def lanes_of(b: Builder, value: Value, which: Iterable[int]) -> Value:
    mask = list(which)
    return b.shuffle_vector(value, value.type(ir.Undefined), ir.VectorType(I32, len(mask))(mask))


def _low_bits(b: Builder, count: Value) -> Value:
    """A word of which the lowest `count` bits are set, for count < 32."""
    return b.sub(b.shl(I32(1), b.trunc(count, I32)), I32(1))


@intrinsic
def compare_word(typing_context, x, thresholds, signs, count):  # type: ignore[no-untyped-def]
    """A word of the first `count` of 32 float32 at address x: bit i is (x[i] xor signs[i]) >= thresholds[i].

    `signs` holds the sign bit where a comparison is turned round: x <= t is -x >= -t, for every float.
    """

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        x, thresholds, signs, count = arguments
        floats, ints = ir.VectorType(F32, WORD), ir.VectorType(I32, WORD)
        values = load_first(b, x, floats, count)
        turned = b.xor(b.bitcast(values, ints), load(b, signs, ints, 4))
        bits = b.fcmp_ordered(">=", b.bitcast(turned, floats), load(b, thresholds, floats, 4))
        word = b.bitcast(bits, I32)
        return b.select(b.icmp_signed(">=", count, I64(WORD)), word, b.and_(word, _low_bits(b, count)))

    return types.uint32(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def store_sums(typing_context, counts, base, out, count):  # type: ignore[no-untyped-def]
    """out[i] = base[i] - 2 counts[i], int32, for the first `count` of 16."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        counts, base, out, count = arguments
        store_first(b, _sums(b, counts, base), out, count)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _sums(b: Builder, counts: Value, base: Value) -> Value:
    vector = ir.VectorType(I32, LANES)
    differing = load(b, counts, vector, 4)
    return b.sub(load(b, base, vector, 4), b.add(differing, differing))


def followed(b: Builder, value: Value, rows: Any) -> Value:
    """v * factor + shift, v if v > 0 else v * slope, limited to [low, high]: each step rounds by itself."""
    factor, shift, slope, low, high = rows
    value = b.fadd(b.fmul(value, factor), shift)
    value = b.select(b.fcmp_ordered(">", value, value.type(None)), value, b.fmul(value, slope))
    value = b.select(b.fcmp_ordered("<", value, low), low, value)
    return b.select(b.fcmp_ordered(">", value, high), high, value)


def load_rows(b: Builder, address: Value, stride: Value, vector: ir.VectorType, count: int) -> list[Value]:
    found = []
    for _ in range(count):
        found.append(load(b, address, vector, 4))
        address = b.add(address, stride)
    return found


@intrinsic
def store_reals(  # type: ignore[no-untyped-def]
    typing_context, counts, count_step, base, base_of, base_of_step, parameters, stride, follows, added, added_count,
    pixel, pixels, offset, out, out_step, count,
):  # fmt: skip
    """The first `count` of 16 float32 of some pixels: what follows a binary convolution, in the order of the operations.

    v = (base - 2 counts) * scale; v = v * factor + shift; v = v if v > 0 else v * slope; v limited to [low, high];
    v + first + second + ... Each step rounds by itself, as it does where the operations run one by one; one that is not there
    has the parameters that change nothing, and `follows` is 0 where there is none between the scale and what is added.
    Counts, where the row of `base` begins, and outputs of pixels lie `..._step` bytes apart, the six rows of parameters
    `stride` bytes. `added`: `added_count` pairs of int64, where a map lies and bytes of its pixels; of it the values from
    `pixel` on, and in each pixel from byte `offset` on.
    """

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        follows, count = arguments[7], arguments[-1]
        with b.if_else(b.icmp_signed(">=", count, I64(LANES))) as (all_of_them, some):
            for branch in (all_of_them, some):
                with branch, b.if_else(b.icmp_signed("==", follows, I64(0))) as (nothing, more):
                    with nothing:
                        _store_reals(b, branch is all_of_them, False, *arguments)
                    with more:
                        _store_reals(b, branch is all_of_them, True, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 16), generate


def _store_reals(
    b: Builder, is_whole: bool, is_followed: bool, counts: Value, count_step: Value, base: Value, base_of: Value,
    base_of_step: Value, parameters: Value, stride: Value, follows: Value, added: Value, added_count: Value, pixel: Value,
    pixels: Value, offset: Value, out: Value, out_step: Value, count: Value,
) -> None:  # fmt: skip
    floats = ir.VectorType(F32, LANES)
    scale, *rest = load_rows(b, parameters, stride, floats, 6 if is_followed else 1)
    mask = first_lanes(b, count, LANES)
    result = cgutils.alloca_once(b, floats)
    with cgutils.for_range(b, pixels) as loop:
        base_at = b.add(base, load(b, b.add(base_of, b.mul(loop.index, base_of_step)), I64, 8))
        sums = _sums(b, b.add(counts, b.mul(loop.index, count_step)), base_at)
        value = b.fmul(b.sitofp(sums, floats), scale)
        b.store(followed(b, value, rest) if is_followed else value, result)
        with cgutils.for_range(b, added_count) as maps:
            pair = b.add(added, b.mul(maps.index, I64(16)))
            start, step = load(b, pair, I64, 8), load(b, plus(b, pair, 8), I64, 8)
            at = b.add(b.add(start, b.mul(b.add(pixel, loop.index), step)), offset)
            other = load(b, at, floats, 4) if is_whole else masked_load(b, at, floats, mask)
            b.store(b.fadd(b.load(result), other), result)
        to = b.add(out, b.mul(loop.index, out_step))
        if is_whole:
            b.store(b.load(result), pointer(b, to, floats), align=4)
        else:
            store_first(b, b.load(result), to, count)


@intrinsic
def follow_real(typing_context, x, parameters, stride, count):  # type: ignore[no-untyped-def]
    """The same in place on the first `count` of 16 float32 at x, without a scale and sums: five rows of parameters."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        x, parameters, stride, count = arguments
        floats = ir.VectorType(F32, LANES)
        value = followed(b, load_first(b, x, floats, count), load_rows(b, parameters, stride, floats, 5))
        store_first(b, value, x, count)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def copy_some(typing_context, x, out, count):  # type: ignore[no-untyped-def]
    """16 float32 at `out`: the first `count` from x, of which no more is read, and zeros."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        x, out, count = arguments
        floats = ir.VectorType(F32, LANES)
        b.store(load_first(b, x, floats, count), pointer(b, out, floats), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


def _peek(kind: ir.Type, numba_type: Any) -> Any:
    @intrinsic
    def peek(typing_context, address):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            return load(b, arguments[0], kind, kind.width // 8)

        return numba_type(types.int64), generate

    return peek


def _poke(kind: ir.Type, numba_type: Any) -> Any:
    @intrinsic
    def poke(typing_context, address, value):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            b.store(arguments[1], pointer(b, arguments[0], kind), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), generate

    return poke


# The value at an address.
word_at, number_at = _peek(I32, types.uint32), _peek(I64, types.int64)
# Store a value at an address.
put_word, put_long = _poke(I32, types.uint32), _poke(I64, types.uint64)
