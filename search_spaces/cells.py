"""What all cell spaces share: decisions on edges, one forward for super-network and fixed network, symmetries, drawing.

A cell has two inputs (the outputs of the two cells before it) and `nodes` nodes; each node sums operations on edges from
everything before it, and the cell's output is the concatenation of its nodes (DARTS, Liu et al. 2019, arXiv 1806.09055).
Two cells are searched: normal, and reduction (stride 2 on the edges that leave the inputs, channels doubled).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from bnas.binary import Scheme, make_scheme
from bnas.cost import measure
from bnas.errors import BnasError, check_choice
from bnas.genotype import ABSENT, Decision, Genotype
from bnas.layers import DropPath
from bnas.layers.norm import NormBinarize
from bnas.layers.ops import Op, Zero
from bnas.options import option
from bnas.space import Gates, NetSpec, SearchSpace, Supernet, check_input_shape, soft_gates
from bnas.strict import build

INPUTS = 2
KINDS = ("normal", "reduction")
STEMS = ("cifar", "imagenet")
# Canonical form tries every order of the nodes; 7! = 5,040 is still instant.
MOST_NODES = 7


@dataclass(frozen=True)
class CellSize:
    """How large a network of cells is built."""

    cells: int = option(8, "cells in the chain; reductions at one and two thirds", "code")
    channels: int = option(16, "channels of the first cells' nodes; doubled at each reduction", "code")
    stem: str = option("cifar", "cifar (stride 1) or imagenet (stride 8)", "code", choices=STEMS)
    auxiliary: bool = option(False, "auxiliary head at two thirds of the depth, in training only", "code")

    def __post_init__(self) -> None:
        check_choice("stem", self.stem, STEMS)
        if self.cells < 1:
            raise BnasError(f"cells: at least 1, got {self.cells}")
        if self.channels < 1:
            raise BnasError(f"channels: at least 1, got {self.channels}")

    @property
    def reductions(self) -> frozenset[int]:
        return frozenset({self.cells // 3, 2 * self.cells // 3})

    @property
    def stem_halvings(self) -> int:
        return 3 if self.stem == "imagenet" else 0


def edge_name(source: int, target: int) -> str:
    return f"edge_{source}_{target}"


def cell_decisions(nodes: int, choices: tuple[str, ...]) -> tuple[Decision, ...]:
    """`normal.edge_0_2` and so on: every edge into a node is a decision, and two edges per node are kept."""
    return tuple(
        Decision(f"{kind}.{edge_name(source, target)}", choices, group=f"{kind}.node_{target}", keep=2)
        for kind in KINDS
        for target in range(INPUTS, INPUTS + nodes)
        for source in range(target)
    )


class Cell(nn.Module):
    """One cell. With gates it is part of a super-network; without, every edge it has holds the one operation that runs.

    `edges[edge_i_j][choice]` are the operations. In a super-network `norms[i]` is the shared, affine-free norm + sign
    of node i; in a fixed network each operation owns its norm and `norms` is empty.
    """

    def __init__(
        self,
        kind: str,
        nodes: int,
        out_channels: int,
        preprocess: Sequence[nn.Module],
        edges: Mapping[tuple[int, int], Mapping[str, Op]],
        norms: Mapping[int, NormBinarize],
    ) -> None:
        super().__init__()
        self.kind, self.nodes, self.out_channels = kind, nodes, out_channels
        self.preprocess = nn.ModuleList(preprocess)
        self.edges = nn.ModuleDict({edge_name(*edge): nn.ModuleDict(ops) for edge, ops in edges.items()})
        self.norms = nn.ModuleDict({str(source): norm for source, norm in norms.items()})
        self.drop = DropPath()
        self.nothing = Zero(2 if kind == "reduction" else 1)

    def _active(self, edge: str, gates: Gates | None) -> list[tuple[Op, Tensor | None]]:
        if gates is None:
            chosen: list[tuple[str, Tensor | None]] = [(choice, None) for choice in self._ops(edge)]
        else:
            chosen = gates.of(f"{self.kind}.{edge}")
        ops = self._ops(edge)
        # A Zeroise adds nothing, so it is not run: its gate acts through the others'.
        return [(ops[choice], weight) for choice, weight in chosen if not isinstance(ops[choice], Zero)]

    def _ops(self, edge: str) -> dict[str, Op]:
        return dict(self.edges[edge].items()) if edge in self.edges else {}  # type: ignore[operator]

    def _node(self, target: int, states: list[Tensor], binary: dict[int, Tensor], gates: Gates | None) -> Tensor:
        total: Tensor | None = None
        for source in range(target):
            for op, weight in self._active(edge_name(source, target), gates):
                if op.reads_binary and str(source) in self.norms and source not in binary:
                    binary[source] = self.norms[str(source)](states[source])
                term = op(states[source], binary.get(source))
                if not op.is_identity:
                    term = self.drop(term)
                term = term if weight is None else weight * term
                total = term if total is None else total + term
        return self.nothing(states[0]) if total is None else total

    def forward(self, s0: Tensor, s1: Tensor, gates: Gates | None = None) -> Tensor:
        """Outputs of the two previous cells -> [N, nodes * C, H', W']."""
        states = [self.preprocess[0](s0), self.preprocess[1](s1)]
        binary: dict[int, Tensor] = {}
        for target in range(INPUTS, INPUTS + self.nodes):
            states.append(self._node(target, states, binary, gates))
        return torch.cat(states[INPUTS:], dim=1)


class CellNetwork(nn.Module):
    """Stem, a chain of cells, global average pooling, classifier: what super-network and fixed network share."""

    def __init__(self, space: "CellSpace", spec: NetSpec, choices: Mapping[str, tuple[str, ...]], shared: bool) -> None:
        super().__init__()
        size = space.size(spec)
        check_input_shape(spec, size.stem_halvings + len(size.reductions))
        scheme = make_scheme(spec.scheme, spec.scheme_options)
        self.stem, c_before, c_last = space.stem(spec.input_shape[0], size)
        cells: list[Cell] = []
        channels, halve_first = size.channels, size.stem == "imagenet"
        for position in range(size.cells):
            reduction = position in size.reductions
            channels *= 2 if reduction else 1
            cells.append(
                space.make_cell(size, scheme, choices, shared, reduction, (c_before, c_last), channels, halve_first)
            )
            c_before, c_last, halve_first = c_last, cells[-1].out_channels, reduction
        self.cells = nn.ModuleList(cells)
        self.auxiliary = None
        self.auxiliary_at = 2 * size.cells // 3
        if size.auxiliary:
            halvings = size.stem_halvings + sum(r <= self.auxiliary_at for r in size.reductions)
            # Padded stride-2 layers round a side up.
            side = -(-min(spec.input_shape[1:]) // 2**halvings)
            self.auxiliary = space.auxiliary_head(self.cells[self.auxiliary_at].out_channels, side, spec, size)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(c_last, spec.num_classes)

    def run(self, x: Tensor, gates: Gates | None) -> tuple[Tensor, Tensor | None]:
        """x [N, C, H, W] -> (features [N, F], auxiliary logits in training where there is an auxiliary head)."""
        s0, s1 = self.stem(x)
        auxiliary = None
        for position, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, gates)
            if self.training and self.auxiliary is not None and position == self.auxiliary_at:
                auxiliary = self.auxiliary(s1)
        return self.pool(s1).flatten(1), auxiliary


class FixedCellNetwork(CellNetwork):
    """The network of one genotype."""

    def set_drop_path(self, probability: float) -> None:
        for module in self.modules():
            if isinstance(module, DropPath):
                module.probability = probability

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features, auxiliary = self.run(x, None)
        logits: Tensor = self.classifier(features)
        return logits if auxiliary is None else (logits, auxiliary)


class CellSupernet(CellNetwork, Supernet):
    """All candidates on all edges, with one affine-free norm + sign per node."""

    def __init__(self, space: "CellSpace", spec: NetSpec) -> None:
        super().__init__(space, spec, {d.name: d.choices for d in space.decisions}, shared=True)
        self.space, self.spec = space, spec
        self._costs: tuple[tuple[float, float], dict[tuple[str, str], tuple[float, float]]] | None = None

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        return self.run(x, gates)[0]

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        logits: Tensor = self.classifier(self.features(x, gates))
        return logits

    def _measured_costs(self) -> tuple[tuple[float, float], dict[tuple[str, str], tuple[float, float]]]:
        """((real, binary) MACs outside the edges, the same per (decision, choice) summed over the cells)."""
        if self._costs is None:
            every = soft_gates(self.space.decisions, {})
            network = measure(self, self.spec.input_shape, forward=lambda model, x: model(x, every), as_deployed=True)
            fixed = (0.0, 0.0)
            of_choice: dict[tuple[str, str], tuple[float, float]] = {}
            for layer in network.layers:
                parts = layer.name.split(".")
                macs = (layer.macs_real, layer.macs_binary)
                if parts[0] == "cells" and parts[2] == "edges":
                    key = (f"{self.cells[int(parts[1])].kind}.{parts[3]}", parts[4])
                    old = of_choice.get(key, (0.0, 0.0))
                    of_choice[key] = (old[0] + macs[0], old[1] + macs[1])
                else:
                    fixed = (fixed[0] + macs[0], fixed[1] + macs[1])
            self._costs = fixed, of_choice
        return self._costs

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        fixed, of_choice = self._measured_costs()
        device = self.classifier.weight.device
        real, binary = torch.tensor(fixed[0], device=device), torch.tensor(fixed[1], device=device)
        for decision in self.space.decisions:
            for choice, weight in gates.of(decision.name):
                macs = of_choice.get((decision.name, choice), (0.0, 0.0))
                real = real + macs[0] * (1.0 if weight is None else weight)
                binary = binary + macs[1] * (1.0 if weight is None else weight)
        return real, binary

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        mine = self.state_dict()
        state = self.space.build(genotype, self.spec).state_dict()
        for name, start in state.items():
            source = name if name in mine else self._shared_norm(name)
            # A norm's slope and offset exist in the fixed network only and start as 1 and 0.
            state[name] = mine[source].clone() if source in mine else start
        return state

    @staticmethod
    def _shared_norm(name: str) -> str:
        """cells.0.edges.edge_1_3.conv.norm.x -> cells.0.norms.1.x"""
        parts = name.split(".")
        if parts[0] == "cells" and parts[2] == "edges" and parts[5] == "norm":
            return ".".join([*parts[:2], "norms", parts[3].split("_")[1], *parts[6:]])
        return name


class CellSpace(SearchSpace):
    """A space of two cells. A subclass names its operations and makes them, the stems and the preprocessing."""

    size_class: type[CellSize] = CellSize
    ops: tuple[str, ...]
    parameter_free_ops: frozenset[str] = frozenset()
    # Whether relabelling the nodes gives the same network up to the order of its weights.
    symmetric_nodes = True

    def __init__(self, nodes: int = 4) -> None:
        if not 1 <= nodes <= MOST_NODES:
            raise BnasError(f"space {self.name}: nodes is 1 to {MOST_NODES}, got {nodes}")
        self.nodes = nodes
        self.args: Mapping[str, Any] = {"nodes": nodes}
        self.decisions = cell_decisions(nodes, self.ops)

    @abstractmethod
    def make_op(self, choice: str, channels: int, stride: int, scheme: Scheme, size: Any, own_norm: bool) -> Op: ...

    @abstractmethod
    def make_preprocess(self, c_in: int, c_out: int, scheme: Scheme, halve: bool) -> nn.Module: ...

    @abstractmethod
    def stem(self, in_channels: int, size: Any) -> tuple[nn.Module, int, int]:
        """The stem, x -> (s0, s1), and the channels of both."""

    @abstractmethod
    def auxiliary_head(self, channels: int, side: int, spec: NetSpec, size: Any) -> nn.Module:
        """The auxiliary head on a map of `channels` channels and `side` pixels on its shorter side."""

    def size(self, spec: NetSpec) -> Any:
        """The checked size of a network."""
        return build(self.size_class, spec.size, f"size of a {self.name} network")

    def make_cell(
        self,
        size: Any,
        scheme: Scheme,
        choices: Mapping[str, tuple[str, ...]],
        shared: bool,
        reduction: bool,
        c_in: tuple[int, int],
        channels: int,
        halve_first: bool,
    ) -> Cell:
        """One cell with the given choices per decision; `halve_first`: input 0 is twice as large as input 1."""
        kind = KINDS[reduction]
        preprocess = [
            self.make_preprocess(c_in[0], channels, scheme, halve_first),
            self.make_preprocess(c_in[1], channels, scheme, False),
        ]
        edges: dict[tuple[int, int], dict[str, Op]] = {}
        for target in range(INPUTS, INPUTS + self.nodes):
            for source in range(target):
                stride = 2 if reduction and source < INPUTS else 1
                chosen = choices.get(f"{kind}.{edge_name(source, target)}", ())
                if chosen:
                    edges[source, target] = {
                        choice: self.make_op(choice, channels, stride, scheme, size, not shared) for choice in chosen
                    }
        norms = {s: NormBinarize(channels, scheme, affine=False) for s, _ in edges} if shared else {}
        return Cell(kind, self.nodes, self.nodes * channels, preprocess, edges, norms)

    def supernet(self, spec: NetSpec) -> Supernet:
        size = self.size(spec)
        if len(size.reductions) == size.cells:
            raise BnasError(f"with {size.cells} cells there is no normal cell to search: cells must be at least 3")
        if size.auxiliary:
            raise BnasError("a super-network has no auxiliary head: set auxiliary in the size of the retraining")
        return CellSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        self.check(genotype)
        return FixedCellNetwork(self, spec, {name: (choice,) for name, choice in genotype.choices}, shared=False)

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        """Both cells as graphs: nodes c_{k-2}, c_{k-1}, 0, 1, ..., c_k; each searched edge has `choice`."""
        self.check(genotype)
        graphs: dict[str, nx.DiGraph] = {}
        names = ["c_{k-2}", "c_{k-1}", *(str(node) for node in range(self.nodes))]
        for kind in KINDS:
            graph = nx.DiGraph()
            graph.add_nodes_from([*names, "c_k"])
            for source, target, choice in self._edges(genotype, kind):
                graph.add_edge(names[source], names[target], choice=choice)
            for node in range(self.nodes):
                graph.add_edge(str(node), "c_k")
            graphs[kind] = graph
        return graphs

    def _edges(self, genotype: Genotype, kind: str) -> list[tuple[int, int, str]]:
        found = []
        for target in range(INPUTS, INPUTS + self.nodes):
            for source in range(target):
                choice = genotype.choice(f"{kind}.{edge_name(source, target)}")
                if choice != ABSENT:
                    found.append((source, target, choice))
        return found

    def facts(self, genotype: Genotype) -> dict[str, float]:
        chosen = [choice for _, choice in genotype.choices]
        free = sum(choice in self.parameter_free_ops for choice in chosen)
        depths = [float(nx.dag_longest_path_length(graph) - 1) for graph in self.graphs(genotype).values()]
        return {"depth": min(depths), "parameter_free": free / len(chosen)}

    def canonical(self, genotype: Genotype) -> Genotype:
        """The smallest of all orders of the nodes that keep every edge pointing forward, each cell by itself."""
        self.check(genotype)
        if not self.symmetric_nodes:
            return genotype
        choices: dict[str, str] = {}
        nodes = range(INPUTS, INPUTS + self.nodes)
        for kind in KINDS:
            edges = self._edges(genotype, kind)
            forms = []
            for order in permutations(nodes):
                place = dict(zip((*range(INPUTS), *nodes), (*range(INPUTS), *order), strict=True))
                if all(place[source] < place[target] for source, target, _ in edges):
                    forms.append(sorted((place[target], place[source], choice) for source, target, choice in edges))
            choices |= {f"{kind}.{edge_name(s, t)}": choice for t, s, choice in min(forms)}
        return self.genotype(choices)
