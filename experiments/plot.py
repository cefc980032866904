"""Pictures of genotypes: cells drawn left to right, with the operation written on every edge."""

import contextlib
import io
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import networkx as nx
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Polygon
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath

from bnas.atomic import write_bytes
from bnas.errors import BnasError, unknown
from bnas.genotype import Genotype
from bnas.space import NetSpec, SearchSpace
from experiments.edge_notes import annotate
from experiments.graph_layout import Layout, Spot, lay_out, parts
from experiments.graph_words import (
    FAMILIES,
    UNSEARCHED_COLOR,
    Drawable,
    Family,
    edge_lines,
    graphs_of,
    operation_family,
)

# The node that makes a graph a cell.
OUTPUT = "c_k"
SUFFIXES = (".png", ".svg", ".pdf")
DOTS_PER_INCH = 150
# A longer chain is continued on the next row.
MOST_LAYERS = 7
# Inches: the rim of the picture, the height of a heading and of the legend, the sides of a node, of an operation's text.
MARGIN, HEADING, LEGEND = 0.25, 0.4, 0.45
NODE_SIDE, LABEL_HEIGHT, PORT_SPACING = 0.42, 0.27, 0.1
LABEL_POINTS, NOTE_POINTS, NODE_POINTS, HEADING_POINTS = 9.5, 7.5, 11.0, 12.0
# Inches a line of notes below the name of an operation.
NOTE_HEIGHT = 0.14
INK, NOTE_COLOR = "#1A1A1A", "#3C3C3C"


def draw_genotype(
    space: SearchSpace | Drawable, genotype: Genotype, title: str | None = None, spec: NetSpec | None = None
) -> Figure:
    """A picture of a genotype: its graphs one above the other, with a legend of the operations that occur.

    `title`: by default the space, the genotype's digest and the spec's scheme; an empty one is left out. `spec`: the
    network whose kernels, dilations, groups and bits stand on the edges; without it only the names of operations do.
    """
    graphs = graphs_of(space, genotype)
    if spec is not None and isinstance(space, SearchSpace):
        annotate(graphs, space, genotype, spec)
    if title is None:
        title = f"{genotype.space} {genotype.content_digest}" + (f", scheme {spec.scheme}" if spec else "")
    with _settings():
        panels = []
        for name, graph in graphs.items():
            for number, part in enumerate(parts(graph, MOST_LAYERS)):
                heading = f"{name} cell" if OUTPUT in graph else name
                panels.append((f"{heading}, continued" if number else heading, part, _lay_out(part)))
        width = max([layout.width for _, _, layout in panels] + [_text_width(title, HEADING_POINTS + 1)]) + 2 * MARGIN
        heights = [layout.extent[1] - layout.extent[0] + HEADING + MARGIN for _, _, layout in panels]
        height = sum(heights) + MARGIN + LEGEND + (HEADING if title else 0.0)
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        top = MARGIN
        if title:
            _heading(axes, title, top, HEADING_POINTS + 1)
            top += HEADING
        for (heading, graph, layout), panel_height in zip(panels, heights, strict=True):
            _heading(axes, heading, top, HEADING_POINTS)
            _Panel(axes, heading, graph, layout, (MARGIN, top + HEADING - layout.extent[0])).draw()
            top += panel_height
        _legend(axes, [graph for _, graph, _ in panels])
    return figure


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """The figure in the format of that suffix (one of `SUFFIXES`); the same figure gives the same bytes."""
    if suffix not in SUFFIXES:
        raise unknown("picture format", suffix, SUFFIXES)
    metadata: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix, {})
    buffer = io.BytesIO()
    with _settings():
        figure.savefig(buffer, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure in the format that the suffix of `path` names; `BnasError` for a suffix without one."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BnasError(f"{path}: a picture is written as {', '.join(SUFFIXES)}; this name ends in '{suffix}'")
    write_bytes(path, figure_bytes(figure, suffix))


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """matplotlib's own settings, whatever the user's; text in SVG stays text, and ids do not change."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bnas", "pdf.fonttype": 42})
        yield


def _node_text(node: object) -> str:
    """`c_{k-2}` is set as a formula; any other name stands as it is."""
    text = str(node)
    return f"${text}$" if re.fullmatch(r"c_(k|\{k-\d+\})", text) else text.replace("$", r"\$")


@lru_cache(maxsize=1024)
def _text_width(text: str, points: float) -> float:
    """Inches, from the outlines of the font."""
    # matplotlib cannot make outlines of nothing.
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, size=points).get_extents().width) / 72


def _plain(text: str) -> str:
    """Not to be read as a formula."""
    return text.replace("$", r"\$")


def _lay_out(graph: nx.DiGraph) -> Layout:
    def size(spot: Spot) -> tuple[float, float]:
        if spot.kind == "label":
            name, *notes = edge_lines(graph.edges[spot.node, spot.target])
            widths = [_text_width(_plain(name), LABEL_POINTS), *(_text_width(_plain(n), NOTE_POINTS) for n in notes)]
            return max(widths) + 0.2, LABEL_HEIGHT + NOTE_HEIGHT * len(notes)
        ports = max(graph.in_degree(spot.node), graph.out_degree(spot.node))
        return (
            max(NODE_SIDE, _text_width(_node_text(spot.node), NODE_POINTS) + 0.16),
            max(NODE_SIDE, PORT_SPACING * (ports + 1)),
        )

    return lay_out(graph, lambda a, b: "choice" in graph.edges[a, b], size)


def _heading(axes: Axes, text: str, top: float, points: float) -> None:
    axes.text(MARGIN, top, text, fontsize=points, weight="bold", va="top", parse_math=False)


def _legend(axes: Axes, graphs: list[nx.DiGraph]) -> None:
    """Below the panels: the families that occur, and what a grey line means."""
    choices = [choice for graph in graphs for _, _, choice in graph.edges.data("choice")]
    present = {None if choice is None else operation_family(choice) for choice in choices}
    handles: list[Any] = [
        Patch(facecolor=family.tint, edgecolor=family.color, linewidth=1.3, label=family.legend)
        for key, family in FAMILIES.items()
        if key in present
    ]
    if None in present:
        handles.append(Line2D([], [], color=UNSEARCHED_COLOR, linewidth=1.3, label="fixed, not searched"))
    height = axes.get_ylim()[0]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(MARGIN, height - MARGIN),
        bbox_transform=axes.transData,
        borderpad=0.0,
        borderaxespad=0.0,
        ncols=len(handles) or 1,
        frameon=False,
        fontsize=LABEL_POINTS,
    )


class _Panel:
    """One graph on the axes; `origin` is where the layout's (0, 0) goes."""

    def __init__(self, axes: Axes, name: str, graph: nx.DiGraph, layout: Layout, origin: tuple[float, float]) -> None:
        self.axes, self.name, self.graph, self.layout = axes, name, graph, layout
        self.x0, self.y0 = origin

    def draw(self) -> None:
        leaving = self._ports([(route, 0, 1) for route in self.layout.routes.values()])
        entering = self._ports([(route, -1, -2) for route in self.layout.routes.values()])
        for (a, b), route in self.layout.routes.items():
            edge = self.graph.edges[a, b]
            choice = edge.get("choice")
            family = None if choice is None else FAMILIES[operation_family(choice)]
            heights = [self.y0 + self.layout.y[spot] for spot in route]
            heights[0] += leaving[a, b]
            heights[-1] += entering[a, b]
            self._edge(route, heights, family)
            if family is not None:
                self._box(route[-2], edge_lines(edge), LABEL_POINTS, family.tint, family.color)
        for column in self.layout.columns:
            for spot in column:
                if spot.kind == "node":
                    self._box(spot, [str(spot.node)], NODE_POINTS, "white", INK)

    def _ports(self, ends: list[tuple[tuple[Spot, ...], int, int]]) -> dict[tuple[Any, Any], float]:
        """How far from the middle of its node each edge ends, in the order in which the edges arrive."""
        at_node: dict[Spot, list[tuple[float, tuple[Any, Any]]]] = {}
        for route, end, next_to_end in ends:
            edge = (route[0].node, route[-1].node)
            at_node.setdefault(route[end], []).append((self.layout.y[route[next_to_end]], edge))
        return {
            edge: PORT_SPACING * (place - (len(found) - 1) / 2)
            for found in at_node.values()
            for place, (_, edge) in enumerate(sorted(found, key=lambda entry: entry[0]))
        }

    def _edge(self, route: tuple[Spot, ...], heights: list[float], family: Family | None) -> None:
        """Level across each column, an S-curve between columns, an arrow head at the end."""
        color = UNSEARCHED_COLOR if family is None else family.color
        bounds = [(self.x0 + left, self.x0 + right) for left, right in (self.layout.x[spot.column] for spot in route)]
        middle = [sum(bound) / 2 for bound in bounds]
        start = middle[0] + self.layout.sizes[route[0]][0] / 2
        end = middle[-1] - self.layout.sizes[route[-1]][0] / 2
        points, codes = [(start, heights[0])], [Curve.MOVETO]
        for i in range(len(route) - 1):
            x1, x2 = bounds[i][1], bounds[i + 1][0]
            bend = (x1 + x2) / 2
            points += [(x1, heights[i]), (bend, heights[i]), (bend, heights[i + 1]), (x2, heights[i + 1])]
            codes += [Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
        points.append((end - 0.05, heights[-1]))
        codes.append(Curve.LINETO)
        line = PathPatch(
            Curve(points, codes),
            facecolor="none",
            edgecolor=color,
            linewidth=1.1 if family is None else 1.6,
            linestyle=(0, (3, 2)) if family is FAMILIES["zero"] else "solid",
            zorder=1 if family is None else 2,
        )
        line.set_gid(f"edge {self.name}: {route[0].node} -> {route[-1].node}")
        self.axes.add_patch(line)
        y = heights[-1]
        head = [(end, y), (end - 0.1, y - 0.04), (end - 0.1, y + 0.04)]
        self.axes.add_patch(Polygon(head, facecolor=color, edgecolor="none", zorder=3))

    def _box(self, spot: Spot, lines: list[str], points: float, fill: str, frame: str) -> None:
        width, height = self.layout.sizes[spot]
        left, right = self.layout.x[spot.column]
        x, y = self.x0 + (left + right) / 2, self.y0 + self.layout.y[spot]
        box = FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=fill,
            edgecolor=frame,
            linewidth=1.2,
            zorder=4,
        )
        self.axes.add_patch(box)
        first, *notes = lines
        y -= NOTE_HEIGHT * len(notes) / 2
        shown = _node_text(first) if spot.kind == "node" else _plain(first)
        self.axes.text(x, y, shown, fontsize=points, color=INK, ha="center", va="center_baseline", zorder=5)
        for number, note in enumerate(notes, 1):
            below = y + 0.02 + NOTE_HEIGHT * number
            style = {"fontsize": NOTE_POINTS, "color": NOTE_COLOR, "ha": "center", "va": "center_baseline"}
            self.axes.text(x, below, _plain(note), zorder=5, **style)  # type: ignore[arg-type]
