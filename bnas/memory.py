"""What a run that is out of memory asked for, and which keys of the job make it smaller."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence

import torch

from bnas.errors import BnasError

_ASKED = re.compile(r"(?:tried to allocate|unable to allocate)\s+([\d.]+)\s*(bytes|[KMGTP]?i?B)", re.IGNORECASE)
_FREE = re.compile(r"GPU \d+ has a total capacity of [\d.]+ \w+ of which [\d.]+ \w+ is free")


@contextlib.contextmanager
def explaining(
    where: str, keys: Sequence[str] = (), values: Mapping[str, object] | None = None, *, kept: str = ""
) -> Iterator[None]:
    """Turn running out of memory in the block into a `BnasError`; every other exception passes.

    `keys`: the job's keys that shrink what is needed; their present value is taken from `values`.
    `kept`: what is safe all the same.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        parts = (f"{where}: out of memory", _needed(str(error)), _remedy(keys, values or {}), kept)
        raise BnasError(". ".join(part for part in parts if part)) from error


def is_shortage(error: Exception) -> bool:
    """Whether `error` says that memory, of the host or of a device, ran out."""
    # On the CPU torch raises a bare RuntimeError, which only its allocator's name tells apart.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _needed(text: str) -> str:
    asked = _ASKED.search(text)
    if asked is None:
        return "How much was asked for is not known"
    free = _FREE.search(text)
    return f"{_readable(*asked.groups())} more were asked for{f' ({free[0]})' if free else ''}"


def _readable(number: str, unit: str) -> str:
    if unit.lower() != "bytes":
        return f"{number} {unit}"
    size = float(number)
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"


def _remedy(keys: Sequence[str], values: Mapping[str, object]) -> str:
    if not keys:
        return ""
    listed = ", ".join(f"{key} (now {values[key]})" if key in values else key for key in keys)
    return f"Smaller values of these keys need less, half the value about half the memory: {listed}"
