"""A frozen dataclass from a plain mapping: unknown keys, wrong types and missing values are errors with their place."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from bnas.errors import BnasError, nearest

T = TypeVar("T")
# What a value of each type is called in messages.
SPOKEN: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
    tuple: "a list",
}
# A value in a message is cut to this many characters.
_LONGEST_SHOWN = 60


def build(cls: type[T], values: Mapping[str, Any], where: str = "", *, key: str = "") -> T:
    """`cls(**values)` after checking keys and types: numbers, words, booleans, lists, tables, dataclasses, or null.

    An int is taken for a float, null for an empty table; a bool is never taken for a number. Messages start with
    `where` (a file; left out when empty) and name each key in full: `key`, the place of `values` in the whole, then the
    path below it.
    """
    try:
        return _built(cls, values, key)
    except BnasError as error:
        raise error.within(where) if where else error from None


def shown(value: object) -> str:
    """A value as a message shows it: in the words of a job file, and not longer than a line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 4]} ..."


def _built(cls: type[T], values: Mapping[str, Any], key: str) -> T:
    # An init=False field is no option of the caller's.
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    place = f"{key}: " if key else ""
    accepted: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            known = f"there are: {', '.join(fields)}" if fields else "none is taken here"
            raise BnasError(f"{place}unknown key {shown(name)}; {known}.{nearest(str(name), fields)}")
        accepted[name] = _checked(value, hints[name], f"{key}.{name}" if key else name)
    missing = [
        name
        for name, field in fields.items()
        if name not in accepted and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BnasError(f"{place}missing {', '.join(missing)}")
    try:
        return cls(**accepted)
    except BnasError as error:
        raise error.within(key) if key else error from None


def _checked(value: Any, hint: Any, key: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        allowed = typing.get_args(hint)
        if value is None and type(None) in allowed:
            return None
        hint = next(choice for choice in allowed if choice is not type(None))
    container = typing.get_origin(hint)
    if container is tuple:
        return _checked_list(value, typing.get_args(hint), key)
    if container is Mapping or dataclasses.is_dataclass(hint):
        # A heading with nothing below it.
        value = {} if value is None else value
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise BnasError(f"{key}: expected a table of keys and values, found {shown(value)}")
        return dict(value) if container is Mapping else _built(typing.cast(type[Any], hint), value, key)
    if hint is float and type(value) is int:
        return _as_float(value, key)
    if type(value) is not hint:
        raise BnasError(f"{key}: expected {SPOKEN.get(hint, hint)}, found {shown(value)}")
    return value


def _checked_list(value: Any, inner: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    """`tuple[X, ...]` takes any number of X, `tuple[X, Y]` exactly these."""
    if not isinstance(value, list | tuple):
        raise BnasError(f"{key}: expected a list, found {shown(value)}")
    hints = (inner[0],) * len(value) if inner[1:] == (...,) else inner
    if len(value) != len(hints):
        raise BnasError(f"{key}: expected a list of {len(hints)}, found {len(value)}: {shown(value)}")
    return tuple(_checked(item, hint, f"{key}[{i}]") for i, (item, hint) in enumerate(zip(value, hints, strict=True)))


def _as_float(value: int, key: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise BnasError(f"{key}: {shown(value)} is too large for a number") from None
