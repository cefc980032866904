"""Written-out tables of named things; a miss lists what there is and suggests the nearest name."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from bnas.errors import BnasError, unknown

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A table name -> thing, written out in one place.

    There is no registration by import and no overwriting: only what a user names as a plugin is added (`register`), and
    a name that is taken is refused. A miss raises `BnasError`, so that a misspelt name in a job file is a message.
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

    def register(self, entries: Mapping[str, T], where: str) -> None:
        """Add what a plugin brings; an entry that is there already changes nothing, another thing of its name is refused."""
        for name, entry in entries.items():
            if name in self._entries and self._entries[name] is not entry:
                raise BnasError(f"{where}: there already is a {self.kind} named '{name}'; choose another name")
        self._entries.update(entries)
