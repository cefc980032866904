"""A frozen dataclass from a plain mapping: unknown keys, wrong types and missing values are errors with their place."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from bnas.errors import BnasError, nearest

T = TypeVar("T")
_SPOKEN = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """`cls(**values)` after checking keys and types: numbers, words, booleans, lists, tables, dataclasses, or null.

    An int is taken for a float; a bool is never taken for a number. `where` (a file, a key) starts each message.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    accepted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise BnasError(f"{where}: unknown key '{key}'; it has {', '.join(fields)}.{nearest(str(key), fields)}")
        accepted[key] = _checked(value, hints[key], f"{where}.{key}")
    missing = [
        name
        for name, field in fields.items()
        if name not in accepted and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BnasError(f"{where}: missing {', '.join(missing)}")
    try:
        return cls(**accepted)
    except BnasError as error:
        raise error.within(where) from None


def _checked(value: Any, hint: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        allowed = typing.get_args(hint)
        if value is None and type(None) in allowed:
            return None
        hint = next(choice for choice in allowed if choice is not type(None))
    container = typing.get_origin(hint)
    if container is tuple:
        if not isinstance(value, list | tuple):
            raise BnasError(f"{where}: expected a list, got {value!r}")
        inner = typing.get_args(hint)[0]
        return tuple(_checked(item, inner, f"{where}[{i}]") for i, item in enumerate(value))
    if container is Mapping or dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise BnasError(f"{where}: expected a table of keys and values, got {value!r}")
        return dict(value) if container is Mapping else build(typing.cast(type[Any], hint), value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise BnasError(f"{where}: expected {_SPOKEN.get(hint, hint)}, got {value!r}")
    return value
