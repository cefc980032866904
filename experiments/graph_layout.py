"""Where the parts of a small acyclic graph go on paper, from left to right.

The layered layout of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11, 1981): columns by longest path; every edge passes
each column in a slot of its own, and a label is such a slot. So no edge runs through a node or a label and no two labels
overlap, whatever the graph. Lengths are in inches; y grows downwards.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import networkx as nx

SPACING = 0.11
PASS_HEIGHT = 0.06
# Between columns, for level edges and for the steepest ones.
LEAST_GAP, MOST_GAP, GAP_PER_RISE = 0.28, 1.2, 0.3
SWEEPS = 24


class Spot(NamedTuple):
    """A slot of a column: of a node, of the label of the edge (node, target), or for that edge to pass ("pass")."""

    kind: str
    column: int
    node: Any
    target: Any = None


@dataclass(frozen=True)
class Layout:
    """The finished layout: `x[column]` is (left, right), `y[spot]` its middle.

    Columns of nodes alternate with columns of labels, where there are any; `routes[a, b]` has one spot per column.
    """

    columns: list[list[Spot]]
    routes: dict[tuple[Any, Any], tuple[Spot, ...]]
    sizes: dict[Spot, tuple[float, float]]
    x: list[tuple[float, float]]
    y: dict[Spot, float]

    @property
    def width(self) -> float:
        return self.x[-1][1]

    @property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest y of what is drawn."""
        edges = [(self.y[spot] - height / 2, self.y[spot] + height / 2) for spot, (_, height) in self.sizes.items()]
        return min(low for low, _ in edges), max(high for _, high in edges)


class _Draft:
    """Columns and routes before they have coordinates."""

    def __init__(self, graph: nx.DiGraph, is_labelled: Callable[[Any, Any], bool]) -> None:
        layers = {node: i for i, nodes in enumerate(nx.topological_generations(graph)) for node in nodes}
        nodes = {node: Spot("node", 2 * layers[node], node) for node in graph}
        self.routes: dict[tuple[Any, Any], tuple[Spot, ...]] = {}
        for a, b in graph.edges:
            steps = [Spot("pass", column, a, b) for column in range(nodes[a].column + 1, nodes[b].column)]
            if is_labelled(a, b):
                # In front of the node that reads it, so that a node stands behind all the operations it sums.
                steps[-1] = steps[-1]._replace(kind="label")
            self.routes[a, b] = (nodes[a], *steps, nodes[b])
        spots = self._renumber(nodes.values())
        self.columns = [[spot for spot in spots if spot.column == c] for c in range(1 + max(s.column for s in spots))]
        self.before: dict[Spot, list[Spot]] = {spot: [] for spot in spots}
        self.after: dict[Spot, list[Spot]] = {spot: [] for spot in spots}
        for a, b in (pair for route in self.routes.values() for pair in pairwise(route)):
            self.after[a].append(b)
            self.before[b].append(a)

    def _renumber(self, nodes: Iterable[Spot]) -> list[Spot]:
        """Leave out the columns in which edges only pass; all spots with their new columns."""
        spots = dict.fromkeys([*nodes, *(spot for route in self.routes.values() for spot in route)])
        used = sorted({spot.column for spot in spots if spot.kind != "pass"})
        new = {spot: spot._replace(column=used.index(spot.column)) for spot in spots if spot.column in used}
        self.routes = {edge: tuple(new[s] for s in route if s in new) for edge, route in self.routes.items()}
        return list(new.values())


def lay_out(
    graph: nx.DiGraph,
    is_labelled: Callable[[Any, Any], bool],
    size: Callable[[Spot], tuple[float, float]],
) -> Layout:
    """Lay out an acyclic graph. `is_labelled(a, b)` says which edges have a label, `size` (width, height) of a spot."""
    draft = _Draft(graph, is_labelled)
    _untangle(draft)
    sizes = {spot: (0.0, PASS_HEIGHT) if spot.kind == "pass" else size(spot) for spot in draft.before}
    y = _rows(draft, {spot: height for spot, (_, height) in sizes.items()})
    return Layout(draft.columns, draft.routes, sizes, _column_edges(draft, sizes, y), y)


def parts(graph: nx.DiGraph, most_layers: int) -> list[nx.DiGraph]:
    """The graph cut into stretches of at most that many layers, where all its edges pass one node.

    That node ends one stretch and starts the next. A graph without such nodes stays whole.
    """
    layers = [list(nodes) for nodes in nx.topological_generations(graph)]
    index = {node: i for i, nodes in enumerate(layers) for node in nodes}
    spanned = {i for a, b in graph.edges for i in range(index[a] + 1, index[b])}
    cuts = [i for i in range(1, len(layers) - 1) if len(layers[i]) == 1 and i not in spanned]
    bounds = [0]
    for position, cut in enumerate(cuts):
        following = cuts[position + 1] if position + 1 < len(cuts) else len(layers) - 1
        if following - bounds[-1] >= most_layers:
            bounds.append(cut)
    bounds.append(len(layers) - 1)
    return [graph.subgraph([n for n in graph if a <= index[n] <= b]) for a, b in pairwise(bounds)]


def _crossings(draft: _Draft) -> int:
    rank = {spot: i for column in draft.columns for i, spot in enumerate(column)}
    count = 0
    for column in draft.columns:
        ends = [(rank[a], rank[b]) for a in column for b in draft.after[a]]
        count += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i])
    return count


def _untangle(draft: _Draft) -> None:
    """Order the columns with few crossings: by mean rank of the neighbours, sweep by sweep; then swaps while they help."""
    best, fewest = [list(column) for column in draft.columns], _crossings(draft)
    for sweep in range(SWEEPS):
        neighbours, step = (draft.before, 1) if sweep % 2 == 0 else (draft.after, -1)
        for column in draft.columns[::step]:
            rank = {spot: i for other in draft.columns for i, spot in enumerate(other)}
            mean = {spot: _mean([rank[n] for n in neighbours[spot]] or [rank[spot]]) for spot in column}
            column.sort(key=mean.__getitem__)
        found = _crossings(draft)
        if found < fewest:
            best, fewest = [list(column) for column in draft.columns], found
    draft.columns[:] = best
    helped = True
    while helped:
        helped = False
        for column in draft.columns:
            for i in range(len(column) - 1):
                column[i], column[i + 1] = column[i + 1], column[i]
                found = _crossings(draft)
                if found < fewest:
                    fewest, helped = found, True
                else:
                    column[i], column[i + 1] = column[i + 1], column[i]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rows(draft: _Draft, heights: dict[Spot, float]) -> dict[Spot, float]:
    """The y of each spot: column by column to the weighted mean of its neighbours, as far as the order allows."""
    y: dict[Spot, float] = {}
    offsets = []
    for column in draft.columns:
        offset = [0.0]
        for a, b in pairwise(column):
            offset.append(offset[-1] + (heights[a] + heights[b]) / 2 + SPACING)
        offsets.append(offset)
        y |= {spot: place - offset[-1] / 2 for spot, place in zip(column, offset, strict=False)}
    for sweep in range(4 * SWEEPS):
        for column, offset in list(zip(draft.columns, offsets, strict=True))[:: 1 if sweep % 2 == 0 else -1]:
            wanted, weights = [], []
            for spot in column:
                neighbours = draft.before[spot] + draft.after[spot] or [spot]
                # The middle of an edge is to be straight; at its ends it may bend.
                pulls = [1.0 if "node" in (spot.kind, other.kind) else 4.0 for other in neighbours]
                weights.append(sum(pulls))
                wanted.append(sum(w * y[other] for w, other in zip(pulls, neighbours, strict=True)) / weights[-1])
            free = _ascending([w - o for w, o in zip(wanted, offset, strict=True)], weights)
            y |= {spot: place + o for spot, place, o in zip(column, free, offset, strict=True)}
    _straighten(draft, heights, y)
    return y


def _straighten(draft: _Draft, heights: dict[Spot, float], y: dict[Spot, float]) -> None:
    """Level the middles of the edges, the longest first, where the spots above and below leave room for it."""
    room: dict[Spot, tuple[Spot | None, Spot | None]] = {}
    for column in draft.columns:
        for above, spot, below in zip([None, *column], column, [*column[1:], None], strict=False):
            room[spot] = above, below
    for route in sorted(draft.routes.values(), key=len, reverse=True):
        middle = route[1:-1]
        low, high = -math.inf, math.inf
        for spot in middle:
            above, below = room[spot]
            if above is not None:
                low = max(low, y[above] + (heights[above] + heights[spot]) / 2 + SPACING)
            if below is not None:
                high = min(high, y[below] - (heights[below] + heights[spot]) / 2 - SPACING)
        if middle and low <= high:
            y |= dict.fromkeys(middle, min(max(_mean([y[spot] for spot in middle]), low), high))


def _ascending(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The nearest ascending numbers in weighted squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        mean, mass, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            other, other_mass, other_count = pools.pop()
            mean = (mean * mass + other * other_mass) / (mass + other_mass)
            mass, count = mass + other_mass, count + other_count
        pools.append((mean, mass, count))
    return [mean for mean, _, count in pools for _ in range(count)]


def _column_edges(
    draft: _Draft, sizes: dict[Spot, tuple[float, float]], y: dict[Spot, float]
) -> list[tuple[float, float]]:
    """Columns as wide as their widest spot; gaps wider where edges are steep."""
    edges, x = [], 0.0
    for column in draft.columns:
        right = x + max((sizes[spot][0] for spot in column), default=0.0)
        edges.append((x, right))
        rise = max((abs(y[a] - y[b]) for a in column for b in draft.after[a]), default=0.0)
        x = right + min(LEAST_GAP + GAP_PER_RISE * rise, MOST_GAP)
    return edges
