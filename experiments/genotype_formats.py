"""Genotypes as files: every form they are written in, and reading JSON and YAML back. Nothing read is executed."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bnas.errors import BnasError, nearest, unknown
from bnas.genotype import FORMAT, LARGEST_FILE_BYTES, Genotype
from bnas.registry import Registry
from bnas.space import SearchSpace
from experiments import yaml_file
from experiments.graph_words import FAMILIES, UNSEARCHED_COLOR, graphs_of, operation_family, operation_text
from search_spaces.cell_network import INPUTS, edge_name
from search_spaces.cells import CellSpace

About = Mapping[str, Any]
Writer = Callable[[SearchSpace, Genotype, About | None], bytes]
ALSO = {"yml": "yaml", "gv": "dot"}


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; it also quotes words like 1e3, which YAML 1.2 reads as numbers and PyYAML does not."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+.0-9]+[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _json(space: SearchSpace, genotype: Genotype, about: About | None) -> bytes:
    return genotype.to_json(about).encode()


def _yaml(space: SearchSpace, genotype: Genotype, about: About | None) -> bytes:
    # By way of JSON, so that both forms hold the same.
    text: str = yaml.dump(json.loads(genotype.to_json(about)), Dumper=_Dumper, sort_keys=False)
    return text.encode()


def _darts(space: SearchSpace, genotype: Genotype, about: About | None) -> bytes:
    """The named tuple of the DARTS code (Liu et al. 2019, arXiv 1806.09055): (operation, source), two per node in order.

    Sources 0 and 1 are the cell's inputs, 2 and on its nodes.
    """
    if not isinstance(space, CellSpace):
        raise BnasError(f"format darts is for spaces of cells; space {space.name} has none. Choose json or yaml")
    nodes = range(INPUTS, INPUTS + space.nodes)
    fields = []
    for field, kind in (("normal", "normal"), ("reduce", "reduction")):
        kept = dict(genotype.choices)
        edges = [(kept.get(f"{kind}.{edge_name(s, t)}"), s) for t in nodes for s in range(t)]
        fields += [f"{field}={[edge for edge in edges if edge[0] is not None]!r}", f"{field}_concat={nodes!r}"]
    return f"Genotype({', '.join(fields)})\n".encode()


def _dot(space: SearchSpace, genotype: Genotype, about: About | None) -> bytes:
    """Text for Graphviz, with the colours of the pictures."""
    lines = [f"digraph {_quoted(genotype.space)} {{", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for name, graph in graphs_of(space, genotype).items():
        lines += [f"  subgraph {_quoted(f'cluster_{name}')} {{", f"    label={_quoted(name)};"]
        lines += [f"    {_quoted(f'{name}/{node}')} [label={_quoted(node)}];" for node in graph]
        for a, b, choice in graph.edges.data("choice"):
            style = f"color={_quoted(UNSEARCHED_COLOR)}"
            if choice is not None:
                color = FAMILIES[operation_family(choice)].color
                style = f"label={_quoted(operation_text(choice))}, color={_quoted(color)}"
            lines.append(f"    {_quoted(f'{name}/{a}')} -> {_quoted(f'{name}/{b}')} [{style}];")
        lines.append("  }")
    return "\n".join([*lines, "}", ""]).encode()


def _quoted(text: object) -> str:
    """A quoted string of the DOT language; a backslash would start one of its escapes."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _picture(suffix: str) -> Writer:
    def write(space: SearchSpace, genotype: Genotype, about: About | None) -> bytes:
        # Takes as long to import as half of torch; most commands draw nothing.
        from experiments.plot import draw_genotype, figure_bytes

        return figure_bytes(draw_genotype(space, genotype), suffix)

    return write


FORMATS: Registry[Writer] = Registry(
    "genotype format",
    {
        "json": _json,
        "yaml": _yaml,
        "darts": _darts,
        "dot": _dot,
        "svg": _picture(".svg"),
        "png": _picture(".png"),
    },
)


def write_genotype(space: SearchSpace, genotype: Genotype, format: str, about: About | None = None) -> bytes:
    """The content of a file that holds the genotype in one of `FORMATS`.

    `about` (JSON values) goes into json and yaml; the other formats have no place for it. `BnasError` for an unknown
    format, a genotype of another space, and a format that this space's genotypes do not have.
    """
    writer = FORMATS[format]
    space.check(genotype)
    return writer(space, genotype, about)


def format_for(path_or_name: str | Path) -> str:
    """The format of a file by its suffix ("found.yml" -> "yaml"), or of its own name ("yaml"), in any case."""
    text = str(path_or_name)
    suffix = Path(text).suffix
    name = (suffix[1:] or text).lower()
    name = ALSO.get(name, name)
    if name not in FORMATS:
        error = unknown("genotype format", name, FORMATS)
        raise error.within(text) if suffix else error
    return name


def read_genotype(path: str | Path) -> Genotype:
    """The genotype in a JSON or YAML file, told apart by the content.

    Whether it is one of a space's is for `search_spaces.space_of`. `BnasError`, which starts with the file's name, for
    whatever is not a genotype.
    """
    path = Path(path)
    text = _text_of(path)
    try:
        content = _parsed(text, path)
        try:
            return Genotype.from_dict(content)
        except BnasError as error:
            raise error.within(str(path)) from None
    except RecursionError:
        raise BnasError(f"{path}: this is not a genotype: it is nested too deeply") from None


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise BnasError(f"{path}: there is no such file.{_near(path)}") from None
    except IsADirectoryError:
        raise BnasError(f"{path}: this is a folder; give the genotype file in it") from None
    except (OSError, ValueError) as error:
        raise BnasError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > LARGEST_FILE_BYTES:
        raise BnasError(f"{path}: more than {LARGEST_FILE_BYTES:,} bytes; a genotype has a few thousand")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BnasError(f"{path}: this is not a genotype: not text in UTF-8") from None


def _near(path: Path) -> str:
    """What the folder holds instead."""
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    except OSError:
        return f" There is no folder {path.parent} either."


def _parsed(text: str, path: Path) -> Any:
    if text.lstrip()[:1] in ("{", "["):
        return _parsed_json(text, path)
    # PyYAML takes minutes for a few megabytes; a log given by mistake is not worth them.
    return yaml_file.parse(text, str(path)) if FORMAT in text else None


def _parsed_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BnasError(f"{path} line {error.lineno}: not JSON ({error.msg})") from None
    except ValueError as error:
        raise BnasError(f"{path}: not JSON ({error})") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key '{key}' stands there twice")
        table[key] = value
    return table


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
