"""Networks of cells: one forward for super-network and fixed network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnas.binary import make_scheme
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.layers import DropPath, channel_shuffle
from bnas.layers.ops import Op, Zero
from bnas.space import Gates, NetSpec, Supernet, check_input_shape
from search_spaces.choice_costs import ChoiceCosts

if TYPE_CHECKING:
    from search_spaces.cells import CellSpace

INPUTS = 2
KINDS = ("normal", "reduction")


def edge_name(source: int, target: int) -> str:
    return f"edge_{source}_{target}"


class Cell(nn.Module):
    """One cell. With gates it is part of a super-network; without, every edge it has holds the one operation that runs.

    `edges[edge_i_j][choice]` are the operations. In a super-network `inputs[i]` makes the binary input of node i's
    readers, shared by all of them (an affine-free norm + sign); in a fixed network each operation has its own and
    `inputs` is empty. `skips[i]`, where there is one, adds input i to the cell's output.

    With `partial` K > 1 only the first 1/K of a node's channels goes through the operations of an edge; the rest goes
    past them (max-pooled at stride 2), weighted by the sum of the edge's gates, and the channels are shuffled (PC-DARTS,
    Xu et al. 2020, arXiv 1907.05737).
    """

    def __init__(
        self,
        kind: str,
        nodes: int,
        channels: int,
        preprocess: Sequence[nn.Module],
        edges: Mapping[tuple[int, int], Mapping[str, Op]],
        inputs: Mapping[int, nn.Module],
        skips: Mapping[int, nn.Module],
        partial: int = 1,
    ) -> None:
        super().__init__()
        self.kind, self.nodes, self.partial = kind, nodes, partial
        self.out_channels = nodes * channels
        self.preprocess = nn.ModuleList(preprocess)
        self.edges = nn.ModuleDict({edge_name(*edge): nn.ModuleDict(ops) for edge, ops in edges.items()})
        self.inputs = nn.ModuleDict({str(source): module for source, module in inputs.items()})
        self.skips = nn.ModuleDict({str(source): module for source, module in skips.items()})
        self.drop = DropPath()
        self.input_stride = 2 if kind == "reduction" else 1
        self.nothing = Zero(self.input_stride)
        self.halve = nn.MaxPool2d(2, 2, ceil_mode=True)

    def _chosen(self, edge: str, gates: Gates | None) -> list[tuple[str, Tensor | None]]:
        if gates is not None:
            return gates.of(f"{self.kind}.{edge}")
        return [(choice, None) for choice in self._ops(edge)]

    def _ops(self, edge: str) -> dict[str, Op]:
        return dict(self.edges[edge].items()) if edge in self.edges else {}  # type: ignore[operator]

    def _mixed(self, edge: str, chosen: list[tuple[str, Tensor | None]], x: Tensor, binary: "_Binary") -> Tensor | None:
        """Sum of the chosen operations on x; None where nothing but Zeroise is chosen."""
        ops = self._ops(edge)
        total: Tensor | None = None
        for choice, weight in chosen:
            op = ops[choice]
            # A Zeroise adds nothing, so it is not run: its gate acts through the others'.
            if isinstance(op, Zero):
                continue
            term: Tensor = op(x, binary(x) if op.reads_binary else None)
            if not op.is_identity:
                term = self.drop(term)
            term = term if weight is None else weight * term
            total = term if total is None else total + term
        return total

    def _edge(self, source: int, target: int, x: Tensor, binary: "_Binary", gates: Gates | None) -> Tensor | None:
        edge = edge_name(source, target)
        chosen = self._chosen(edge, gates)
        if self.partial == 1 or not chosen:
            return self._mixed(edge, chosen, x, binary)
        width = x.shape[1] // self.partial
        through, past = x[:, :width], x[:, width:]
        total = self._mixed(edge, chosen, through, binary)
        if source < INPUTS and self.input_stride == 2:
            past = self.halve(past)
        weights = [weight for _, weight in chosen if weight is not None]
        if weights:
            past = past * torch.stack(weights).sum()
        if total is None:
            total = past.new_zeros(past.shape[0], width, *past.shape[2:])
        return channel_shuffle(torch.cat([total, past], dim=1), self.partial)

    def forward(self, s0: Tensor, s1: Tensor, gates: Gates | None = None) -> Tensor:
        """Outputs of the two previous cells -> [N, nodes * C, H', W']."""
        states = [self.preprocess[0](s0), self.preprocess[1](s1)]
        binary = [_Binary(self.inputs, source) for source in range(INPUTS + self.nodes)]
        for target in range(INPUTS, INPUTS + self.nodes):
            total: Tensor | None = None
            for source in range(target):
                term = self._edge(source, target, states[source], binary[source], gates)
                if term is not None:
                    total = term if total is None else total + term
            states.append(self.nothing(states[0]) if total is None else total)
        out = torch.cat(states[INPUTS:], dim=1)
        for name, skip in self.skips.items():
            out = out + skip((s0, s1)[int(name)])
        return out


class _Binary:
    """The shared binary input of one node, made when its first reader asks for it; None in a fixed network."""

    def __init__(self, inputs: nn.ModuleDict, source: int) -> None:
        self._make = dict(inputs.items()).get(str(source))
        self._made: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor | None:
        if self._make is not None and self._made is None:
            self._made = self._make(x)
        return self._made


@dataclass(frozen=True)
class Place:
    """Where a cell stands: its number, its kind, the channels of its two inputs and of its own nodes.

    `halve_first`: input 0 is still twice as large as input 1, because the cell before was a reduction.
    """

    position: int
    reduction: bool
    c_in: tuple[int, int]
    channels: int
    halve_first: bool


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
            place = Place(position, reduction, (c_before, c_last), channels, halve_first)
            cells.append(space.make_cell(size, scheme, choices, shared, place))
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
        self._costs: ChoiceCosts | None = None

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        return self.run(x, gates)[0]

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        logits: Tensor = self.classifier(self.features(x, gates))
        return logits

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        if self._costs is None:
            # The network to come has all channels, whatever part of them is searched.
            whole = replace(self.spec, size={**self.spec.size, "partial_channels": 1})
            # Without memory, and without a draw from the process's generators.
            with torch.device("meta"):
                net = self.space.supernet(whole)
            self._costs = ChoiceCosts(net, self.spec.input_shape, self.space.decisions, self._choice_of)
        return self._costs.expected(gates, self.classifier.weight.device)

    def _choice_of(self, parts: list[str]) -> tuple[str, str] | None:
        """cells.0.edges.edge_1_3.conv.x -> (normal.edge_1_3, conv)"""
        if parts[0] != "cells" or parts[2] != "edges":
            return None
        return f"{self.cells[int(parts[1])].kind}.{parts[3]}", parts[4]

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        if self.space.size(self.spec).partial_channels > 1:
            raise BnasError("a super-network of partial channels has no weights of whole networks")
        mine = self.state_dict()
        state = self.space.build(genotype, self.spec).state_dict()
        for name, start in state.items():
            source = name if name in mine else self._shared_input(name)
            # A norm's slope and offset exist in the fixed network only and start as 1 and 0.
            state[name] = mine[source].clone() if source in mine else start
        return state

    @staticmethod
    def _shared_input(name: str) -> str:
        """cells.0.edges.edge_1_3.conv.norm.x -> cells.0.inputs.1.x"""
        parts = name.split(".")
        if parts[0] == "cells" and parts[2] == "edges" and parts[5] == "norm":
            return ".".join([*parts[:2], "inputs", parts[3].split("_")[1], *parts[6:]])
        return name
