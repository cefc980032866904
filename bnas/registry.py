"""Written-out tables of named things; a miss lists what there is and suggests the nearest name."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from bnas.errors import unknown

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A read-only table name -> thing, written out in one place.

    There is no registration by import and no overwriting: `extended` returns a new table and refuses a name
    that is taken. A miss raises `BnasError`, so that a misspelt name in a job file is a message, not a traceback.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        # Mapping's own version asks __getitem__ for a KeyError, which this table never raises.
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def extended(self, entries: Mapping[str, T]) -> "Registry[T]":
        """A table with `entries` added; `ValueError` where a name is taken."""
        taken = sorted(set(entries) & set(self._entries))
        if taken:
            raise ValueError(f"{self.kind} {', '.join(taken)} already exists")
        return Registry(self.kind, {**self._entries, **entries})
