"""YAML that means what it looks like: `1e-3` is a number, `no` is a word, a key stands once."""

import re
from pathlib import Path
from typing import Any

import yaml

from bnas import atomic
from bnas.errors import BnasError

# A job is a page of text; anything larger is not one, and is not read into memory.
LARGEST_BYTES = 2**20
_NULL = re.compile(r"^(?:null|~|)$")
_BOOL = re.compile(r"^(?:true|false)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalar rules of YAML 1.2, without aliases and repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def compose_node(self, parent: Any, index: Any) -> Any:
        # An alias can make a short file expand without bound.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(None, None, "aliases are not taken here", event.start_mark)
        # PyYAML's constructors raise whatever the text of a tag provokes (a KeyError for "!!bool maybe").
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(None, None, "tags (!) are not taken here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


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
    """The content of a YAML file of at most 1 MiB."""
    with atomic.explaining("read", path):
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise BnasError(f"{path}: {size:,} bytes; a job has at most {LARGEST_BYTES:,}")
        data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BnasError(f"{path}: not a text file in UTF-8") from None
    return parse(text, str(path))


def scalar(value: Any) -> str:
    """One value as it is written in a job file (flow style, on one line)."""
    text: str = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
