"""What this processor could do at most: the instructions of the inner loops on registers alone."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnas.kernels.cpu.forms import features
from bnas.kernels.cpu.jit import compiled
from bnas.kernels.cpu.micro import I8, I16, I32, I64, STEPS_TOGETHER

# Enough to hide the latency of each chain, few enough for 16 registers.
WORD_CHAINS, TABLE_CHAINS = 12, 6

Vectors = Sequence[Any]


@intrinsic
def _shuffle_and_add(typing_context, rounds):  # type: ignore[no-untyped-def]
    """`rounds` times in each chain: the steps that inner loops add together, looked up from what they found before."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        vector, pairs = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
        kind = ir.FunctionType(vector, [vector, vector])
        shuffle = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx2.pshuf.b")
        table = vector([(7 * i + 3) % 16 for i in range(32)])

        def step(values: Vectors) -> Vectors:
            all_of_it, upper = values
            found = [b.call(shuffle, [table, values[i % 2]]) for i in range(STEPS_TOGETHER - 1)]
            added = b.call(shuffle, [table, found[0]])
            for more in found:
                added = b.add(added, more)
            high = b.and_(b.lshr(b.bitcast(added, pairs), pairs([4] * 16)), pairs([0x0F0F] * 16))
            return b.add(all_of_it, added), b.add(upper, b.bitcast(high, vector))

        return _chains(b, arguments[0], TABLE_CHAINS, [vector] * 2, step)

    return types.int64(types.int64), generate


@intrinsic
def _popcount_and_add(typing_context, rounds):  # type: ignore[no-untyped-def]
    """`rounds` times in each chain: v = popcount(v xor constant) + v."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        vector = ir.VectorType(I32, 16)
        popcount = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector]), "llvm.ctpop.v16i32")
        constant = vector([0x5A5A1234 + i for i in range(16)])

        def step(values: Vectors) -> Vectors:
            return [b.add(b.call(popcount, [b.xor(v, constant)]), v) for v in values]

        return _chains(b, arguments[0], WORD_CHAINS, [vector], step)

    return types.int64(types.int64), generate


def _chains(b: Any, rounds: Any, chains: int, kinds: Sequence[Any], step: Callable[[Vectors], Vectors]) -> Any:
    """A number that depends on every chain, so that none is left out."""
    all_values = [[cgutils.alloca_once_value(b, k([i + 1] * k.count)) for k in kinds] for i in range(chains)]
    with cgutils.for_range(b, rounds):
        for values in all_values:
            for new, value in zip(step([b.load(value) for value in values]), values, strict=True):
                b.store(new, value)
    total = b.load(all_values[0][0])
    for values in all_values:
        for value in values:
            total = b.xor(total, b.load(value))
    return b.zext(b.extract_element(total, I32(0)), I64)


@compiled()
def _tables(rounds):  # type: ignore[no-untyped-def]
    return _shuffle_and_add(rounds)


@compiled()
def _words(rounds):  # type: ignore[no-untyped-def]
    return _popcount_and_add(rounds)


def products_per_second(rounds: int = 200_000, runs: int = 5) -> float:
    """The most +1/-1 products a second that one thread's inner loops could count: the best of some runs, of both kinds."""
    of_words = _best(_words, WORD_CHAINS * 16 * 32, rounds, runs)
    of_tables = _best(_tables, TABLE_CHAINS * STEPS_TOGETHER * 2 * 32 * 4, rounds, runs) if "avx2" in features() else 0
    return max(of_words, of_tables)


def _best(loop: Callable[[int], int], products: int, rounds: int, runs: int) -> float:
    loop(1)
    seconds = []
    for _ in range(runs):
        start = time.thread_time()
        loop(rounds)
        seconds.append(time.thread_time() - start)
    return rounds * products / min(seconds)
