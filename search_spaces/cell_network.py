"""Networks of cells: one forward for super-network and fixed network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from bnas.binary import make_scheme
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.layers import DropPath, channel_shuffle
from bnas.layers.merged import Candidate, fan_out
from bnas.layers.ops import Op, Zero
from bnas.layers.weighted import Term, weighted_sum
from bnas.space import Gates, NetSpec, Segment, Supernet, check_input_shape
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

    def _ops(self, edge: str) -> dict[str, Op]:
        return dict(self.edges[edge].items()) if edge in self.edges else {}  # type: ignore[operator]

    def _fixed(self, source: int, x: Tensor) -> dict[int, Tensor]:
        """The operation of each edge that leaves a node; a Zeroise adds nothing and is not run."""
        found = {}
        for target in self._targets(source):
            for op in self._ops(edge_name(source, target)).values():
                if not isinstance(op, Zero):
                    term = op(x)
                    found[target] = term if op.is_identity else self.drop(term)
        return found

    def _targets(self, source: int) -> range:
        return range(max(source + 1, INPUTS), INPUTS + self.nodes)

    def _mixed(self, source: int, x: Tensor, gates: Gates) -> dict[int, list[Term]]:
        """What a node gives to the nodes behind it, as gated terms. A Zeroise acts through the gates of the others."""
        chosen, candidates = {}, []
        for target in self._targets(source):
            edge = edge_name(source, target)
            ops, chosen[target] = self._ops(edge), gates.of(f"{self.kind}.{edge}")
            candidates += [Candidate(target, ops[choice], gate) for choice, gate in chosen[target]]
        binary = _Binary(self.inputs, source)
        if self.partial == 1:
            return fan_out(x, binary, candidates)
        width = x.shape[1] // self.partial
        terms = fan_out(x[:, :width], binary, candidates)
        past = x[:, width:]
        if source < INPUTS and self.input_stride == 2:
            past = self.halve(past)
        return {t: [(self._joined(terms.get(t, []), past, c), None)] for t, c in chosen.items() if c}

    def _joined(self, terms: list[Term], past: Tensor, chosen: list[tuple[str, Tensor | None]]) -> Tensor:
        """Both parts of the channels of an edge, shuffled."""
        weights = [weight for _, weight in chosen if weight is not None]
        if weights:
            past = past * torch.stack(weights).sum()
        width = past.shape[1] // (self.partial - 1)
        through = weighted_sum(terms) if terms else past.new_zeros(past.shape[0], width, *past.shape[2:])
        return channel_shuffle(torch.cat([through, past], dim=1), self.partial)

    def forward(self, s0: Tensor, s1: Tensor, gates: Gates | None = None) -> Tensor:
        """Outputs of the two previous cells -> [N, nodes * C, H', W']."""
        return self.run_nodes(s0, s1, [self.preprocess[0](s0), self.preprocess[1](s1)], gates)

    def run_nodes(self, s0: Tensor, s1: Tensor, states: list[Tensor], gates: Gates | None) -> Tensor:
        """What follows the preprocessing of both inputs, `states`, to which the nodes are added."""
        into: list[list[Term]] = [[] for _ in range(INPUTS + self.nodes)]
        for node in range(INPUTS + self.nodes):
            if node >= INPUTS:
                states.append(weighted_sum(into[node]) if into[node] else self.nothing(states[0]))
            if gates is None:
                for target, term in self._fixed(node, states[node]).items():
                    into[target].append((term, None))
            else:
                for target, terms in self._mixed(node, states[node], gates).items():
                    into[target] += terms
        out = torch.cat(states[INPUTS:], dim=1)
        for name, skip in self.skips.items():
            out = out + skip((s0, s1)[int(name)])
        return out


class _Binary:
    """The shared binary input of one node, made when its first reader asks for it."""

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


class _State(NamedTuple):
    """Between the segments of a row of cells: outputs of the two cells before, and what the next cell has made of them.

    `later`: what the cell after that one makes of s1, whatever the choices in between are.
    """

    s0: Tensor
    s1: Tensor
    first: Tensor | None = None
    second: Tensor | None = None
    later: Tensor | None = None


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

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Stem; of each cell what all its choices read, then its nodes; classifier.

        All cells of a kind have the same choices: what paths have in common ends where the first cell of a kind does in
        which they differ.
        """
        stem = Segment(lambda x, gates: _State(*self.stem(x)), (self.stem,), ())
        found = [stem]
        cells: list[Any] = list(self.cells)
        for position, (cell, after) in enumerate(zip(cells, [*cells[1:], None], strict=True)):
            inputs = cell.preprocess if position == 0 else cell.preprocess[1:]
            inputs = (*inputs, *(after.preprocess[:1] if after else ()))
            nodes = (cell.edges, cell.inputs, cell.skips)
            reads = tuple(d.name for d in self.space.decisions if d.name.startswith(f"{cell.kind}."))
            found.append(Segment(partial(self._run_inputs, cell, after), inputs, ()))
            found.append(Segment(partial(self._run_nodes, cell), nodes, reads))
        head = Segment(lambda x, gates: self.classifier(self.pool(x.s1).flatten(1)), (self.classifier,), ())
        return (*found, head)

    def _run_inputs(self, cell: Cell, after: Cell | None, x: "_State", gates: Gates) -> "_State":
        first = cell.preprocess[0](x.s0) if x.first is None else x.first
        later = None if after is None else after.preprocess[0](x.s1)
        return _State(x.s0, x.s1, first, cell.preprocess[1](x.s1), later)

    def _run_nodes(self, cell: Cell, x: "_State", gates: Gates) -> "_State":
        assert x.first is not None
        assert x.second is not None
        return _State(x.s1, cell.run_nodes(x.s0, x.s1, [x.first, x.second], gates), x.later)

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
