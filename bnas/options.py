"""Options of a frozen dataclass: each has a default, a sentence of help and the origin of its default."""

import dataclasses
import math
import types
import typing
from typing import Literal, NamedTuple, TypeVar

from bnas.errors import BnasError

T = TypeVar("T")

Origin = Literal["paper", "code", "ours"]
ORIGINS: tuple[str, ...] = typing.get_args(Origin)


class Described(NamedTuple):
    """One option as `describe` lists it; `type` is text for people, such as "adam | sgd"."""

    name: str
    type: str
    default: object
    help: str
    origin: str


def option(default: T, help: str, origin: Origin, *, choices: tuple[str, ...] = ()) -> T:
    """A dataclass field with its explanation; `origin` says who chose the default, `choices` what a word may be.

    "paper": a publication prints it; "code": only its authors' released code has it; "ours": neither does, and
    reports mark it as not the paper's. The class itself checks its values (`check_number`, `errors.check_choice`).
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin is one of {', '.join(ORIGINS)}; found {origin!r}")
    return dataclasses.field(default=default, metadata={"help": help, "origin": origin, "choices": choices})


def describe(cls: type) -> list[Described]:
    """The options of a dataclass in the order of its fields; fields not made with `option` are left out."""
    hints = typing.get_type_hints(cls)
    return [
        Described(
            f.name,
            " | ".join(f.metadata["choices"]) or _type_text(hints[f.name]),
            f.default,
            f.metadata["help"],
            f.metadata["origin"],
        )
        for f in dataclasses.fields(cls)
        if "origin" in f.metadata
    ]


def check_number(
    what: str,
    value: object,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """`BnasError` that names `what` unless `value` is a finite (`whole`: integer) number inside the bounds."""
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool):
        number = float(typing.cast(float, value))
        if (
            math.isfinite(number)
            and (at_least is None or number >= at_least)
            and (above is None or number > above)
            and (at_most is None or number <= at_most)
            and (below is None or number < below)
        ):
            return
    bounds = (("at least", at_least), ("above", above), ("at most", at_most), ("below", below))
    wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    kind = "an integer" if whole else "a finite number"
    raise BnasError(f"{what} is {value!r}; it must be {kind} {wanted}".rstrip())


def _type_text(hint: object) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " | ".join(_type_text(a) for a in arguments)
    if origin is not None:
        inside = ", ".join("..." if a is Ellipsis else _type_text(a) for a in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inside}]"
    if hint is type(None):
        return "none"
    return getattr(hint, "__name__", str(hint))
