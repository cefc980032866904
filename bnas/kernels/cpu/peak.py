"""What this processor could do at most: the instructions of the inner loops on registers alone."""

import time
from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnas.kernels.cpu.forms import TABLES, forms_here
from bnas.kernels.cpu.jit import compiled
from bnas.kernels.cpu.micro import I8, I32, I64

# Enough to hide the latency of each chain, few enough for 16 registers.
CHAINS = 12


@intrinsic
def _shuffle_and_add(typing_context, rounds):  # type: ignore[no-untyped-def]
    """`rounds` times in each chain: v = shuffle(table, v) + v."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        vector = ir.VectorType(I8, 32)
        kind = ir.FunctionType(vector, [vector, vector])
        shuffle = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx2.pshuf.b")
        table = vector([(7 * i + 3) % 16 for i in range(32)])
        return _chains(b, arguments[0], vector, lambda v: b.add(b.call(shuffle, [table, v]), v))

    return types.int64(types.int64), generate


@intrinsic
def _popcount_and_add(typing_context, rounds):  # type: ignore[no-untyped-def]
    """`rounds` times in each chain: v = popcount(v xor constant) + v."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        vector = ir.VectorType(I32, 16)
        popcount = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector]), "llvm.ctpop.v16i32")
        constant = vector([0x5A5A1234 + i for i in range(16)])
        return _chains(b, arguments[0], vector, lambda v: b.add(b.call(popcount, [b.xor(v, constant)]), v))

    return types.int64(types.int64), generate


def _chains(b, rounds, vector, step):  # type: ignore[no-untyped-def]
    """A number that depends on every chain, so that none is left out."""
    values = [cgutils.alloca_once_value(b, vector([i + 1] * vector.count)) for i in range(CHAINS)]
    with cgutils.for_range(b, rounds):
        for value in values:
            b.store(step(b.load(value)), value)
    total = b.load(values[0])
    for value in values[1:]:
        total = b.xor(total, b.load(value))
    return b.zext(b.extract_element(total, I32(0)), I64)


@compiled()
def _tables(rounds):  # type: ignore[no-untyped-def]
    return _shuffle_and_add(rounds)


@compiled()
def _words(rounds):  # type: ignore[no-untyped-def]
    return _popcount_and_add(rounds)


def products_per_second(rounds: int = 200_000, runs: int = 5) -> float:
    """The most +1/-1 products a second that one thread's inner loops could count: the best of some runs, of both."""
    return max(
        _best(_words, 16 * 32, rounds, runs), _best(_tables, 32 * 4, rounds, runs) if TABLES in forms_here() else 0
    )


def _best(loop: Callable[[int], int], products: int, rounds: int, runs: int) -> float:
    loop(1)
    seconds = []
    for _ in range(runs):
        start = time.thread_time()
        loop(rounds)
        seconds.append(time.thread_time() - start)
    return rounds * CHAINS * products / min(seconds)
