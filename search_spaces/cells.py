"""What all cell spaces share: decisions on edges, one forward for super-network and fixed network, symmetries, drawing.

A cell has two inputs (the outputs of the two cells before it) and `nodes` nodes; each node sums operations on edges from
everything before it, and the cell's output is the concatenation of its nodes (DARTS, Liu et al. 2019, arXiv 1806.09055).
Two cells are searched: normal, and reduction (stride 2 on the edges that leave the inputs, channels doubled).
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import networkx as nx
from torch import nn

from bnas.binary import Scheme
from bnas.errors import BnasError, check_choice
from bnas.genotype import ABSENT, Decision, Genotype
from bnas.layers import NormBinarize
from bnas.layers.blocks import AuxiliaryHead
from bnas.layers.ops import Op
from bnas.options import check_number, option
from bnas.space import NetSpec, SearchSpace, Supernet
from bnas.strict import build
from search_spaces.cell_network import INPUTS, KINDS, Cell, CellSupernet, FixedCellNetwork, Place, edge_name

STEMS = ("cifar", "imagenet")
# Canonical form tries every order of the nodes; 7! = 5,040 is still instant.
MOST_NODES = 7
# Their form at stride 2 has convolutions.
IDENTITIES = ("identity", "skip_connect")


@dataclass(frozen=True)
class CellSize:
    """How large a network of cells is built."""

    cells: int = option(8, "cells in the chain; reductions at one and two thirds", "code")
    channels: int = option(16, "channels of the first cells' nodes; doubled at each reduction", "code")
    stem: str = option("cifar", "cifar (stride 1) or imagenet (stride 8)", "code", choices=STEMS)
    auxiliary: bool = option(False, "auxiliary head at two thirds of the depth, in training only", "code")
    partial_channels: int = option(
        1, "K: 1/K of the channels goes through an edge's operations while searching (PC-DARTS: 4); 1 is all", "code"
    )

    pool_norm: bool = option(False, "batch norm without slope after pooling, as DARTS has in its search", "code")

    def __post_init__(self) -> None:
        check_choice("stem", self.stem, STEMS)
        if self.cells < 1:
            raise BnasError(f"cells: at least 1, got {self.cells}")
        if self.channels < 1:
            raise BnasError(f"channels: at least 1, got {self.channels}")
        check_number("partial_channels", self.partial_channels, at_least=1, whole=True)
        self.check_divides("partial_channels", self.partial_channels)

    def check_divides(self, what: str, divisor: int) -> None:
        """`BnasError` unless `divisor` divides the channels, with the numbers that would do."""
        if self.channels % divisor == 0:
            return
        below = self.channels // divisor * divisor
        near = [str(c) for c in (below, below + divisor) if c > 0]
        divisors = [str(d) for d in range(1, self.channels + 1) if self.channels % d == 0]
        raise BnasError(
            f"channels {self.channels} cannot be divided by {what} = {divisor}: channels of {' or '.join(near)} would do, "
            f"or with {self.channels} channels one of {', '.join(divisors)}"
        )

    @property
    def reductions(self) -> frozenset[int]:
        return frozenset({self.cells // 3, 2 * self.cells // 3})

    @property
    def stem_halvings(self) -> int:
        return 3 if self.stem == "imagenet" else 0


def cell_decisions(nodes: int, choices: tuple[str, ...]) -> tuple[Decision, ...]:
    """`normal.edge_0_2` and so on: every edge into a node is a decision, and two edges per node are kept."""
    return tuple(
        Decision(f"{kind}.{edge_name(source, target)}", choices, group=f"{kind}.node_{target}", keep=2)
        for kind in KINDS
        for target in range(INPUTS, INPUTS + nodes)
        for source in range(target)
    )


class CellSpace(SearchSpace):
    """A space of two cells. A subclass names its operations and makes them, the stems and the preprocessing."""

    size_class: type[CellSize] = CellSize
    ops: tuple[str, ...]
    parameter_free_ops: frozenset[str] = frozenset()
    # Whether relabelling the nodes gives the same network up to the order of its weights.
    symmetric_nodes = True
    # What can be opened (`search_spaces.opened`). A scale can where no norm behind the convolution divides it out.
    openable: tuple[str, ...] = ("activation",)

    def __init__(self, nodes: int = 4) -> None:
        if not 1 <= nodes <= MOST_NODES:
            raise BnasError(f"space {self.name}: nodes is 1 to {MOST_NODES}, got {nodes}")
        self.nodes = nodes
        self.args: Mapping[str, Any] = {"nodes": nodes}
        self.decisions = cell_decisions(nodes, self.ops)
        at_nodes = tuple(f"{kind}.node_{node}" for kind in KINDS for node in range(INPUTS, INPUTS + nodes))
        of_inputs = tuple(f"{kind}.inputs" for kind in KINDS)
        self.places = {part: at_nodes if part == "scale" else (*of_inputs, *at_nodes) for part in self.openable}

    @abstractmethod
    def make_op(self, choice: str, channels: int, stride: int, scheme: Scheme, size: Any, own_input: bool) -> Op:
        """One candidate; `own_input`: it makes its binary input itself (`make_input`), as in a fixed network."""

    @abstractmethod
    def make_preprocess(self, c_in: int, c_out: int, scheme: Scheme, size: Any, halve: bool) -> nn.Module:
        """What brings a cell's input to its channels; `halve`: and to half its size."""

    @abstractmethod
    def stem(self, in_channels: int, size: Any) -> tuple[nn.Module, int, int]:
        """The stem, x -> (s0, s1), and the channels of both."""

    def auxiliary_head(self, channels: int, side: int, spec: NetSpec, size: Any) -> nn.Module:
        """The auxiliary head on a map of `channels` channels and `side` pixels on its shorter side."""
        smallest, stride = (7, 2) if size.stem == "imagenet" else (8, 3)
        if side < smallest:
            raise BnasError(
                f"the auxiliary head needs a map of at least {smallest} x {smallest} pixels and gets {side} x {side} "
                f"from images of {spec.input_shape[1]} x {spec.input_shape[2]}: set auxiliary to false"
            )
        return AuxiliaryHead(channels, spec.num_classes, stride)

    def make_input(self, channels: int, scheme: Scheme, affine: bool) -> nn.Module:
        """What makes the binary input of the operations that read a node."""
        return NormBinarize(channels, scheme, affine=affine)

    def make_skips(self, place: Place, size: Any) -> Mapping[int, nn.Module]:
        """Connections from a cell's inputs around it to its output; none in most spaces."""
        return {}

    def size(self, spec: NetSpec) -> Any:
        """The checked size of a network."""
        return build(self.size_class, spec.size, f"size of a {self.name} network")

    def make_cell(
        self, size: Any, scheme: Scheme, choices: Mapping[str, tuple[str, ...]], shared: bool, place: Place
    ) -> Cell:
        """One cell with the given choices per decision; `shared`: as part of a super-network."""
        kind = KINDS[place.reduction]
        partial = size.partial_channels if shared else 1
        width = place.channels // partial
        preprocess = [
            self.make_preprocess(place.c_in[0], place.channels, scheme, size, place.halve_first),
            self.make_preprocess(place.c_in[1], place.channels, scheme, size, False),
        ]
        edges: dict[tuple[int, int], dict[str, Op]] = {}
        for target in range(INPUTS, INPUTS + self.nodes):
            for source in range(target):
                stride = 2 if place.reduction and source < INPUTS else 1
                chosen = choices.get(f"{kind}.{edge_name(source, target)}", ())
                if chosen:
                    edges[source, target] = {
                        choice: self.make_op(choice, width, stride, scheme, size, not shared) for choice in chosen
                    }
        inputs = {source: self.make_input(width, scheme, affine=False) for source, _ in edges} if shared else {}
        skips = self.make_skips(place, size)
        return Cell(kind, self.nodes, place.channels, preprocess, edges, inputs, skips, partial)

    def supernet(self, spec: NetSpec) -> Supernet:
        size = self.size(spec)
        if len(size.reductions) == size.cells:
            raise BnasError(f"with {size.cells} cells there is no normal cell to search: cells must be at least 3")
        if size.auxiliary:
            raise BnasError("a super-network has no auxiliary head: set auxiliary in the size of the retraining")
        return CellSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        self.check(genotype)
        if self.size(spec).partial_channels > 1:
            raise BnasError("partial_channels is for the search: a network of one genotype has all its channels")
        return FixedCellNetwork(self, spec, {name: (choice,) for name, choice in genotype.choices}, shared=False)

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        """Both cells as graphs: nodes c_{k-2}, c_{k-1}, 0, 1, ..., c_k; each searched edge has `choice`."""
        self.check(genotype)
        graphs: dict[str, nx.DiGraph] = {}
        names = self._names()
        for kind in KINDS:
            graph = nx.DiGraph()
            graph.add_nodes_from([*names, "c_k"])
            for source, target, choice in self._edges(genotype, kind):
                graph.add_edge(names[source], names[target], choice=choice, place=f"{kind}.node_{target}")
            for node in range(self.nodes):
                graph.add_edge(str(node), "c_k")
            graphs[kind] = graph
        return graphs

    def check(self, genotype: Genotype) -> None:
        if genotype.space == self.name:
            for name, _ in genotype.choices:
                self._check_forward(name)
        super().check(genotype)

    def _check_forward(self, name: str) -> None:
        """`BnasError` for an edge of a hand-written cell that does not point forward: it would close a cycle."""
        edge = re.fullmatch(r"(\w+)\.edge_(\d{1,3})_(\d{1,3})", name)
        if edge is None:
            return
        source, target = int(edge[2]), int(edge[3])
        if source >= target and INPUTS <= target < INPUTS + self.nodes:
            reads = ", ".join(f"{edge[1]}.{edge_name(s, target)}" for s in range(target))
            raise BnasError(
                f"{name}: node {target} would read node {source}, which is computed "
                f"{'after it' if source > target else 'from it'}, a cycle; edges into node {target} are {reads}"
            )

    def _names(self) -> list[str]:
        return ["c_{k-2}", "c_{k-1}", *(str(node) for node in range(self.nodes))]

    def layer_of(self, network: nn.Module, graph: str, edge: tuple[str, str]) -> nn.Module | None:
        source, target = map(self._names().index, edge)
        cells: list[Any] = [cell for cell in network.cells if cell.kind == graph]  # type: ignore[union-attr]
        # A network of one or two cells has no normal cell.
        return cells[0].edges[edge_name(source, target)] if cells else None

    def _edges(self, genotype: Genotype, kind: str) -> list[tuple[int, int, str]]:
        found = []
        for target in range(INPUTS, INPUTS + self.nodes):
            for source in range(target):
                choice = genotype.choice(f"{kind}.{edge_name(source, target)}")
                if choice != ABSENT:
                    found.append((source, target, choice))
        return found

    def place_of(self, network: nn.Module, module: str) -> str | None:
        """cells.0.edges.edge_1_3.conv.activation -> normal.node_3; cells.0.preprocess.1.activation -> normal.inputs"""
        parts = module.split(".")
        if parts[0] != "cells" or len(parts) < 4:
            return None
        kind = network.cells[int(parts[1])].kind  # type: ignore[index, union-attr]
        if parts[2] == "preprocess":
            return f"{kind}.inputs"
        return f"{kind}.node_{parts[3].rpartition('_')[2]}" if parts[2] == "edges" else None

    def facts(self, genotype: Genotype) -> dict[str, float]:
        chosen = [choice for _, choice in genotype.choices]
        free = sum(choice in self.parameter_free_ops for choice in chosen)
        depths = [float(nx.dag_longest_path_length(graph) - 1) for graph in self.graphs(genotype).values()]
        return {"depth": min(depths), "parameter_free": free / len(chosen)}

    def canonical(self, genotype: Genotype) -> Genotype:
        """The smallest of all orders of the nodes that keep every edge pointing forward, each cell by itself."""
        return self.canonical_with(genotype, {})[0]

    def canonical_with(self, genotype: Genotype, at: Mapping[str, str]) -> tuple[Genotype, dict[str, str]]:
        self.check(genotype)
        at = {place: choice for place, choice in at.items() if not self._is_idle(genotype, place)}
        if not self.symmetric_nodes:
            return genotype, at
        choices: dict[str, str] = {}
        moved = {place: choice for place, choice in at.items() if place.endswith(".inputs")}
        nodes = range(INPUTS, INPUTS + self.nodes)
        for kind in KINDS:
            edges = self._edges(genotype, kind)
            forms = []
            for order in permutations(nodes):
                place = dict(zip((*range(INPUTS), *nodes), (*range(INPUTS), *order), strict=True))
                if all(place[source] < place[target] for source, target, _ in edges):
                    renamed = sorted((place[target], place[source], choice) for source, target, choice in edges)
                    forms.append((renamed, sorted((place[n], at.get(f"{kind}.node_{n}", "")) for n in nodes)))
            smallest, labels = min(forms)
            choices |= {f"{kind}.{edge_name(s, t)}": choice for t, s, choice in smallest}
            moved |= {f"{kind}.node_{node}": choice for node, choice in labels if choice}
        return self.genotype(choices), moved

    def _is_idle(self, genotype: Genotype, place: str) -> bool:
        """Whether no operation into that node has a convolution; an identity at stride 2 is taken for one."""
        kind, _, node = place.partition(".")
        into = [(s, choice) for s, t, choice in self._edges(genotype, kind) if f"node_{t}" == node]
        reducing = kind == "reduction"
        return bool(into) and all(
            choice in self.parameter_free_ops and not (reducing and s < INPUTS and choice in IDENTITIES)
            for s, choice in into
        )
