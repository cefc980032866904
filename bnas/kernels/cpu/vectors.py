"""What happens around the inner loops, 16 or 32 values at a time: comparisons to bits, and sums to real values."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnas.kernels.cpu.micro import I32, I64, LANES, load, pointer, splat

F32, BIT = ir.FloatType(), ir.IntType(1)
WORD = 32

Builder = Any
Value = Any


def _first(b: Builder, count: Value, lanes: int) -> Value:
    """A mask of the first `count` lanes."""
    numbers = ir.VectorType(I32, lanes)(list(range(lanes)))
    return b.icmp_signed("<", numbers, splat(b, b.trunc(count, I32), lanes))


def _masked_load(b: Builder, address: Value, vector: ir.VectorType, mask: Value) -> Value:
    to = vector.as_pointer()
    name = f"llvm.masked.load.v{vector.count}{'f32' if vector.element == F32 else 'i32'}.p0"
    kind = ir.FunctionType(vector, [to, I32, mask.type, vector])
    return b.call(
        cgutils.get_or_insert_function(b.module, kind, name), [pointer(b, address, vector), I32(4), mask, vector(None)]
    )


def _masked_store(b: Builder, value: Value, address: Value, mask: Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [value.type, value.type.as_pointer(), I32, mask.type])
    element = "f32" if value.type.element == F32 else "i32"
    function = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.store.v{value.type.count}{element}.p0")
    b.call(function, [value, pointer(b, address, value.type), I32(4), mask])


@intrinsic
def compare_word(typing_context, x, thresholds, signs, count):  # type: ignore[no-untyped-def]
    """A word of the first `count` of 32 float32 at address x: bit i is (x[i] xor signs[i]) >= thresholds[i].

    `signs` holds the sign bit where a comparison is turned round: x <= t is -x >= -t, for every float.
    """

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        x, thresholds, signs, count = arguments
        floats, ints = ir.VectorType(F32, WORD), ir.VectorType(I32, WORD)
        result = cgutils.alloca_once(b, I32)

        def compare(values):  # type: ignore[no-untyped-def]
            turned = b.xor(b.bitcast(values, ints), load(b, signs, ints, 4))
            return b.fcmp_ordered(">=", b.bitcast(turned, floats), load(b, thresholds, floats, 4))

        with b.if_else(b.icmp_signed(">=", count, I64(WORD))) as (full, tail):
            with full:
                b.store(b.bitcast(compare(load(b, x, floats, 4)), I32), result)
            with tail:
                mask = _first(b, count, WORD)
                bits = b.and_(compare(_masked_load(b, x, floats, mask)), mask)
                b.store(b.bitcast(bits, I32), result)
        return b.load(result)

    return types.uint32(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def store_sums(typing_context, counts, base, out, count):  # type: ignore[no-untyped-def]
    """out[i] = base[i] - 2 counts[i], int32, for the first `count` of 16."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        counts, base, out, count = arguments
        _masked_store(b, _sums(b, counts, base), out, _first(b, count, LANES))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _sums(b: Builder, counts: Value, base: Value) -> Value:
    vector = ir.VectorType(I32, LANES)
    differing = load(b, counts, vector, 4)
    return b.sub(load(b, base, vector, 4), b.add(differing, differing))


@intrinsic
def store_real(typing_context, counts, base, parameters, stride, first, second, out, count):  # type: ignore[no-untyped-def]
    """The first `count` of 16 float32 at `out`: what follows a binary convolution, in the order of the operations.

    v = (base - 2 counts) * scale; v = v * factor + shift; v = v if v > 0 else v * slope; v limited to [low, high];
    v + first + second. The six rows of parameters lie `stride` bytes apart. Each step rounds by itself, as it does
    where the operations run one by one; one that is not there has the parameters that change nothing. `first` and
    `second` are addresses, or 0.
    """

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        counts, base, parameters, stride, first, second, out, count = arguments
        floats = ir.VectorType(F32, LANES)
        rows = []
        for _ in range(6):
            rows.append(load(b, parameters, floats, 4))
            parameters = b.add(parameters, stride)
        scale, factor, shift, slope, low, high = rows
        value = b.fmul(b.sitofp(_sums(b, counts, base), floats), scale)
        value = b.fadd(b.fmul(value, factor), shift)
        value = b.select(b.fcmp_ordered(">", value, floats(None)), value, b.fmul(value, slope))
        value = b.select(b.fcmp_ordered("<", value, low), low, value)
        value = b.select(b.fcmp_ordered(">", value, high), high, value)
        result = cgutils.alloca_once_value(b, value)
        mask = _first(b, count, LANES)
        for other in (first, second):
            with b.if_then(b.icmp_signed("!=", other, I64(0))):
                b.store(b.fadd(b.load(result), _masked_load(b, other, floats, mask)), result)
        _masked_store(b, b.load(result), out, mask)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


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
