"""How kernels are compiled: by numba, once for each processor, into a cache on disk that outlives the process."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import get_thread_id, prange, types
from numba.core import config
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _launch_threads

from bnas.errors import BnasError

# Its parallel regions start in microseconds; those of the other layers take about 100 each, and slow torch's down.
THREADING_LAYER = "omp"


def compiled(*, parallel: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: the function in machine code, read from the cache where it is there."""

    def decorate(function: Callable[..., Any]) -> Any:
        with _our_cache():
            # No division raises, and none is by zero. No fast-math: a float must be what torch computes.
            return numba.njit(cache=True, nogil=True, error_model="numpy", parallel=parallel)(function)

    return decorate


@contextmanager
def _our_cache() -> Iterator[None]:
    """Numba asks for its folder when a function is decorated, and at no other time; other users of numba keep theirs."""
    before = config.CACHE_DIR
    config.CACHE_DIR = before or str(cache_folder())
    try:
        yield
    finally:
        config.CACHE_DIR = before


class Tasks:
    """Work in equal tasks: a function of the address of a `record` of int64, the number of a task, and the thread's.

    It is compiled once, when it first runs, for one thread and for several: these call it by its address.
    """

    def __init__(self, function: Callable[[Any, int, int], None], record: np.dtype[Any]) -> None:
        self._function, self._record = function, record

    def __call__(self, job: int, tasks: int, threads: int) -> None:
        """Run all tasks of the record at that address."""
        (_parallel if threads > 1 else _serial)(self.address, job, tasks)

    @cached_property
    def address(self) -> int:
        """Of the compiled function."""
        return int(self._compiled.address)

    @cached_property
    def _compiled(self) -> Any:
        pointer = types.CPointer(numba.from_dtype(self._record))
        with _our_cache():
            made = numba.cfunc(types.void(pointer, types.int64, types.int64), cache=True, error_model="numpy")
            return made(self._function)


def run_in_turn(table: int, first: int, end: int, threads: int) -> None:
    """Run the rows `first` to before `end` of an int64 table: function, record, tasks, whether on threads (above 1).

    `threads`: 1 where no row asks for more.
    """
    if threads > 1:
        # Another user of numba in this thread may have changed the number.
        numba.set_num_threads(threads)
    (_all_parallel if threads > 1 else _all_serial)(table, first, end)


@intrinsic
def _run(typing_context, function, job, task, thread):  # type: ignore[no-untyped-def]
    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 3)
        b.call(b.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _number(typing_context, address, place):  # type: ignore[no-untyped-def]
    """Of the int64 at that address."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        at = b.gep(b.inttoptr(arguments[0], ir.IntType(64).as_pointer()), [arguments[1]])
        return b.load(at, align=8)

    return types.int64(types.int64, types.int64), generate


def cache_folder() -> Path:
    """The first of these that can be written: under XDG_CACHE_HOME, ~/.cache, the temporary folder.

    Its name holds a digest of these sources: numba itself notices a change only in the file of the compiled function,
    and not in what that calls.
    """
    places = [os.environ.get("XDG_CACHE_HOME"), os.path.expanduser("~/.cache"), _private_temporary()]
    for place in filter(None, places):
        folder = Path(place) / "bnas" / f"kernels-{_digest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise BnasError(
        f"compiled kernels need a folder to write to: none of {', '.join(filter(None, places))} can be written; "
        f"set NUMBA_CACHE_DIR to one that can"
    )


def _private_temporary() -> str:
    user = os.getuid() if hasattr(os, "getuid") else 0
    return os.path.join(tempfile.gettempdir(), f"cache-{user}")


def _digest() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def threads_for(work: float, least: float) -> int:
    """The threads that the next parallel kernel uses: torch's number, or 1 for less than `least` work."""
    wanted = torch.get_num_threads() if work >= least else 1
    if wanted > 1:
        _start_threads()
        wanted = min(wanted, config.NUMBA_NUM_THREADS)
        numba.set_num_threads(wanted)
    return wanted


@cache
def _start_threads() -> None:
    """Start numba's threads, once. It tells OpenMP their number as if all were its own; torch gets its own number back."""
    config.THREADING_LAYER = THREADING_LAYER
    of_torch = torch.get_num_threads()
    _launch_threads()
    torch.set_num_threads(of_torch)


@compiled()
def _serial(function, job, tasks):  # type: ignore[no-untyped-def]
    for task in range(tasks):
        _run(function, job, task, 0)


@compiled(parallel=True)
def _parallel(function, job, tasks):  # type: ignore[no-untyped-def]
    for task in prange(tasks):
        _run(function, job, task, get_thread_id())


@compiled()
def _all_serial(table, first, end):  # type: ignore[no-untyped-def]
    for row in range(first, end):
        function, job, tasks = _number(table, 4 * row), _number(table, 4 * row + 1), _number(table, 4 * row + 2)
        for task in range(tasks):
            _run(function, job, task, 0)


@compiled(parallel=True)
def _all_parallel(table, first, end):  # type: ignore[no-untyped-def]
    for row in range(first, end):
        function, job, tasks = _number(table, 4 * row), _number(table, 4 * row + 1), _number(table, 4 * row + 2)
        if _number(table, 4 * row + 3) > 1:
            for task in prange(tasks):
                _run(function, job, task, get_thread_id())
        else:
            for task in range(tasks):
                _run(function, job, task, 0)
