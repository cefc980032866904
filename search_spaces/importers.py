"""Genotypes of other code, written as Python in the style of DARTS (Liu et al. 2019, arXiv 1806.09055), read as literals.

    NAME = Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))

Sources 0 and 1 are the cell's inputs, 2 and on its nodes; two edges a node, in the order of the nodes, flat (DARTS,
PC-DARTS, gistvision/bnas, EBNAS) or in a list for each node (pt.darts, DCP-NAS). Text is parsed and its tree is walked:
nothing in it is ever evaluated.
"""

import ast
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bnas.errors import BnasError, unknown
from bnas.genotype import Genotype
from search_spaces import SPACES, make_space
from search_spaces.bats import Bats
from search_spaces.bnas_gist import BnasGist
from search_spaces.cell_network import INPUTS, KINDS, edge_name
from search_spaces.cells import MOST_NODES, CellSpace
from search_spaces.python_text import assigned_names, fields_of, is_genotype, parse
from search_spaces.separable import Darts

POOLS = {"max_pool_3x3": "max_pool_3x3", "avg_pool_3x3": "avg_pool_3x3"}


@dataclass(frozen=True)
class Vocabulary:
    """How one body of code calls the operations of a space. `guessed`: whether its names alone tell the space."""

    space: str
    names: Mapping[str, str]
    guessed: bool = True


def _same(ops: tuple[str, ...]) -> dict[str, str]:
    return {op: op for op in ops}


VOCABULARIES = (
    # DARTS and PC-DARTS. `cp_nas` and `bnas_beihang` have the same names and must be asked for.
    Vocabulary("darts", _same(Darts.ops)),
    # gistvision/bnas; EBNAS has skip_connect where that has none.
    Vocabulary(
        "bnas_gist",
        {
            **POOLS,
            "none": "zeroise",
            "skip_connect": "identity",
            "bin_conv_3x3": "conv_3x3",
            "bin_conv_5x5": "conv_5x5",
            "bin_dil_conv_3x3": "dil_conv_3x3",
            "bin_dil_conv_5x5": "dil_conv_5x5",
        },
    ),
    # What the format `darts` of this project writes.
    Vocabulary("bnas_gist", _same(BnasGist(identity=True).ops)),
    Vocabulary("bats", _same(Bats.ops)),
    # The released BATS network keeps the names of DARTS for its grouped convolutions.
    Vocabulary(
        "bats",
        {
            **POOLS,
            "none": "zero",
            "skip_connect": "identity",
            "sep_conv_3x3": "group_conv_3x3",
            "sep_conv_5x5": "group_conv_5x5",
            "dil_conv_3x3": "dil_group_conv_3x3",
            "dil_conv_5x5": "dil_group_conv_5x5",
        },
        guessed=False,
    ),
)


@dataclass(frozen=True)
class Edge:
    """One kept edge as written: the operation's name there, what it reads, what it goes into, and where it stands."""

    op: str
    source: int
    target: int
    place: str


class GenotypesFile(Mapping[str, Genotype]):
    """The genotypes of a file by their names, in its order.

    `refused` has those that are not of any space here, such as NASNet, with the reason; asking for one raises it.
    """

    def __init__(self, found: Mapping[str, Genotype], refused: Mapping[str, BnasError]) -> None:
        self._found, self.refused = dict(found), dict(refused)

    def __getitem__(self, name: str) -> Genotype:
        if name in self._found:
            return self._found[name]
        raise self.refused.get(name) or unknown("genotype of the file", name, self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def read_darts_text(text: str, space: CellSpace | str | None = None) -> Genotype:
    """The genotype in `Genotype(...)` or `NAME = Genotype(...)`.

    `space` is the name of a space of cells, one made beforehand (its own arguments hold), or None: the space follows
    from the names of the operations. `BnasError` says what is wrong, where, and what would be right.
    """
    statements = parse(text).body
    if len(statements) != 1:
        raise BnasError(
            f"one genotype is read here, Genotype(...) or NAME = Genotype(...); got {len(statements)} lines"
        )
    statement = statements[0]
    names = assigned_names(statement)
    value = statement.value if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign) else None
    if not is_genotype(value) or not (names or isinstance(statement, ast.Expr)):
        raise BnasError("this is not Genotype(...) or NAME = Genotype(...)")
    return _read(value, space, names[0] if names else "")


def read_genotypes_py(text: str, space: CellSpace | str | None = None) -> GenotypesFile:
    """Every NAME = Genotype(...) at the top level of a file; a second name for one (A = B) too. All else is skipped.

    A later one of the same name wins, as in Python. `space`: as in `read_darts_text`, the same one for all. `BnasError`
    where there is none that can be read.
    """
    found: dict[str, Genotype] = {}
    refused: dict[str, BnasError] = {}
    for statement in parse(text).body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        for name in assigned_names(statement):
            if isinstance(value, ast.Name) and value.id in found:
                found[name] = found[value.id]
            elif isinstance(value, ast.Name) and value.id in refused:
                refused[name] = refused[value.id]
            elif is_genotype(value):
                found.pop(name, None)
                refused.pop(name, None)
                try:
                    found[name] = _read(value, space, name)
                except BnasError as error:
                    refused[name] = error
    if not found:
        reasons = "".join(f"\n  {error}" for error in refused.values())
        raise BnasError(f"no genotype can be read here: no line NAME = Genotype(normal=[...], ...) that fits{reasons}")
    return GenotypesFile(found, refused)


def _read(call: ast.Call, space: CellSpace | str | None, name: str) -> Genotype:
    try:
        fields = fields_of(call)
        cells = {kind: _edges(fields[field], field) for kind, field in zip(KINDS, ("normal", "reduce"), strict=True)}
        sizes = [max(edge.target for edge in edges) + 1 - INPUTS for edges in cells.values()]
        if sizes[0] != sizes[1]:
            raise BnasError(f"normal has {sizes[0]} nodes and reduce {sizes[1]}; both cells have the same number here")
        for field in ("normal_concat", "reduce_concat"):
            _check_concat(fields[field], field, sizes[0])
        return _genotype(cells, sizes[0], space)
    except BnasError as error:
        raise (error.within(name) if name else error) from None


def _edges(value: Any, field: str) -> list[Edge]:
    """The edges of one cell, two for each node."""
    items = value if isinstance(value, list) else []
    nested = bool(items) and all(isinstance(item, list) and all(isinstance(e, list) for e in item) for item in items)
    if not nested and len(items) % 2:
        raise BnasError(f"{field} lists {len(items)} edges; there are two for each node, in the order of the nodes")
    nodes = items if nested else [items[i : i + 2] for i in range(0, len(items), 2)]
    if not 1 <= len(nodes) <= MOST_NODES:
        raise BnasError(f"{field} has edges into {len(nodes)} nodes; a cell has 1 to {MOST_NODES}, with two edges each")
    edges: list[Edge] = []
    for target, pair in enumerate(nodes, INPUTS):
        place = f"{field}, node {target}"
        if len(pair) != 2:
            raise BnasError(f"{place}: {len(pair)} edges go into it; it is two for each node")
        edges += [_edge(item, target, f"{place}, edge {number}") for number, item in enumerate(pair, 1)]
        if edges[-1].source == edges[-2].source:
            raise BnasError(f"{place}: both edges come from {edges[-1].source}; here they come from two different ones")
    return edges


def _edge(item: Any, target: int, place: str) -> Edge:
    if not (isinstance(item, list) and [type(part) for part in item] == [str, int]):
        raise BnasError(f"{place}: an edge is ('operation', source), got {reprlib.repr(item)}")
    op, source = item
    if not 0 <= source < target:
        raise BnasError(
            f"{place}: it comes from {source}; a node reads what stands before it, 0 to {target - 1} "
            f"(0 and 1 are the cell's inputs, {INPUTS} and on its nodes)"
        )
    return Edge(op, source, target, place)


def _check_concat(value: Any, field: str, nodes: int) -> None:
    every = range(INPUTS, INPUTS + nodes)
    if value != list(every):
        raise BnasError(f"{field} is {reprlib.repr(value)}; a cell's output is all its nodes in order here: {every}")


def _genotype(cells: Mapping[str, list[Edge]], nodes: int, space: CellSpace | str | None) -> Genotype:
    vocabulary = _vocabulary([edge for edges in cells.values() for edge in edges], space)
    choices = {
        f"{kind}.{edge_name(edge.source, edge.target)}": vocabulary.names[edge.op]
        for kind, edges in cells.items()
        for edge in edges
    }
    if isinstance(space, CellSpace):
        if space.nodes != nodes:
            raise BnasError(f"its cells have {nodes} nodes; the space was made with {space.nodes}")
        return space.genotype(choices)
    args: dict[str, Any] = {"nodes": nodes}
    if vocabulary.space == BnasGist.name and "identity" in choices.values():
        args["identity"] = True
    return make_space(vocabulary.space, args).genotype(choices)


def _vocabulary(edges: list[Edge], space: CellSpace | str | None) -> Vocabulary:
    """The one whose names the edges have; of the given space, or of the only one that fits."""
    known = _known(space)
    used = list(dict.fromkeys(edge.op for edge in edges))
    fitting = [vocabulary for vocabulary in known if all(op in vocabulary.names for op in used)]
    spaces = list(dict.fromkeys(vocabulary.space for vocabulary in fitting))
    if len(spaces) > 1:
        raise BnasError(f"operations {', '.join(used)} are in the spaces {', '.join(spaces)}: say which one is meant")
    if fitting:
        return fitting[0]
    nearly = max(known, key=lambda vocabulary: sum(op in vocabulary.names for op in used))
    stranger = next(edge for edge in edges if edge.op not in nearly.names)
    raise unknown("operation", stranger.op, nearly.names).within(stranger.place)


def _known(space: CellSpace | str | None) -> list[Vocabulary]:
    if space is None:
        return [vocabulary for vocabulary in VOCABULARIES if vocabulary.guessed]
    made = make_space(space) if isinstance(space, str) else space
    if not isinstance(made, CellSpace):
        cells = [name for name in SPACES if isinstance(make_space(name), CellSpace)]
        raise BnasError(f"space {made.name} has no cells; this text is for one of {', '.join(cells)}")
    own = Vocabulary(made.name, _same(made.ops))
    return [own, *(vocabulary for vocabulary in VOCABULARIES if vocabulary.space == made.name)]
