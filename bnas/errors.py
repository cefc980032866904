"""The error that a user can mend, and how its message names the nearest allowed word."""

import difflib
from collections.abc import Iterable


class BnasError(Exception):
    """What the caller can mend: says what was given, where, what is allowed and what to do.

    Raised low, with what is known there; callers add their context with `within`.
    A bug is an ordinary exception, never this one.
    """

    def within(self, where: str) -> "BnasError":
        """The same error with its place (a file, a key) in front; its kind is kept."""
        return type(self)(f"{where}: {self}")


def nearest(given: str, allowed: Iterable[str]) -> str:
    """' Did you mean ...?' for the allowed word closest to `given`, or nothing when none is close."""
    close = difflib.get_close_matches(str(given).lower(), list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, given: object, allowed: Iterable[str]) -> BnasError:
    """The error for a name that is not in a closed list: the list and the nearest name are in the message."""
    names = list(allowed)
    listed = ", ".join(names) if names else "none"
    return BnasError(f"no {kind} named '{given}'; there are: {listed}.{nearest(str(given), names)}")


def check_choice(kind: str, given: str, allowed: Iterable[str]) -> None:
    """Raise `unknown` unless `given` is one of `allowed`."""
    names = list(allowed)
    if given not in names:
        raise unknown(kind, given, names)
