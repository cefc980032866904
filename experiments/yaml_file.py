"""YAML that means what it looks like: `1e-3` is a number, `no` is a word, a key stands once."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bnas import atomic
from bnas.errors import BnasError

# A job is a page of text. PyYAML takes seconds for what is much larger and not a job.
LARGEST_BYTES = 2**18
_NULL = re.compile(r"^(?:null|~|)$")
_BOOL = re.compile(r"^(?:true|false)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")

# A word that needs no quotes, unless it is a number, a truth value or null.
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalar rules of YAML 1.2, without aliases, tags and repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        # An alias can make a short file expand without bound.
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases are not taken here", event)
        # PyYAML's constructors raise whatever the text of a tag provokes (a KeyError for "!!bool maybe").
        if getattr(event, "tag", None) is not None:
            raise _refused("tags (!) are not taken here", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"the key {key!r} is not a word", key_node)
            if key in seen:
                raise _refused(f"the key '{key}' stands here twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: Any) -> float:
        value = float(self.construct_scalar(node))
        if not math.isfinite(value):
            raise _refused(f"{node.value} is too large for a number", node)
        return value


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)

for _tag, _pattern, _first in (
    ("null", _NULL, ["n", "~", ""]),
    ("bool", _BOOL, ["t", "f"]),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


def parse(text: str, where: str) -> Any:
    """The content of YAML text; `BnasError` with the line for what is not YAML. Nothing is executed."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}" if mark is not None else ""
        raise BnasError(f"{where}{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BnasError(f"{where}: not YAML ({error})") from None


def read(path: Path) -> Any:
    """The content of a YAML file of at most 256 KiB."""
    with atomic.explaining("read", path), path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise BnasError(f"{path}: more than {LARGEST_BYTES:,} bytes; a job has a few thousand")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BnasError(f"{path}: not a text file in UTF-8") from None
    return parse(text, str(path))


def scalar(value: Any) -> str:
    """A word, number, truth value, null, or a list or table of them, on one line and as `parse` reads it back."""
    if isinstance(value, str):
        return _word(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(key)}: {scalar(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _word(text: str) -> str:
    """The text itself where it cannot be taken for anything else, else in double quotes."""
    if _PLAIN.fullmatch(text) and parse(text, "") == text:
        return text
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
