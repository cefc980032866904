"""Pictures: every edge and every text is there, nothing overlaps, and the same genotype gives the same bytes."""

import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import networkx as nx
import numpy as np
import pytest

from bnas.errors import BnasError
from bnas.genotype import Genotype
from experiments import graph_words, plot
from experiments.graph_layout import Layout, lay_out, parts
from search_spaces import make_space

SPACE = make_space("bats")
CHAIN = {2: (0, 1), 3: (1, 2), 4: (2, 3), 5: (3, 4)}
ALL_FROM_INPUTS = dict.fromkeys(range(2, 6), (0, 1))


class Graphs:
    """A stand-in for a space: whatever the genotype, these graphs."""

    def __init__(self, **graphs: nx.DiGraph) -> None:
        self.shown = graphs

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        return self.shown


ANY = Genotype.make("stand-in", {}, {})


def cell(kind, sources, op="dil_group_conv_5x5"):
    return {f"{kind}.edge_{a}_{target}": op for target, pair in sources.items() for a in pair}


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def random_graph(seed: int) -> nx.DiGraph:
    rng = np.random.default_rng(seed)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(9))
    for a, b in itertools.combinations(range(9), 2):
        if rng.random() < 0.4:
            graph.add_edge(a, b, **({"choice": "sep_conv_3x3"} if rng.random() < 0.6 else {}))
    return graph


def boxes(layout: Layout) -> list[tuple[object, float, float, float, float]]:
    found = []
    for spot, (width, height) in layout.sizes.items():
        left, right = layout.x[spot.column]
        middle, y = (left + right) / 2, layout.y[spot]
        if spot.kind == "pass":
            # An edge is level across the whole column that it passes.
            width = right - left
        found.append((spot, middle - width / 2, middle + width / 2, y - height / 2, y + height / 2))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_in_any_graph_no_two_boxes_touch_and_every_edge_goes_from_left_to_right(seed):
    graph = random_graph(seed)
    layout = lay_out(graph, lambda a, b: "choice" in graph.edges[a, b], lambda spot: (0.3 + 0.1 * spot.column, 0.3))
    for (p, l1, r1, t1, b1), (q, l2, r2, t2, b2) in itertools.combinations(boxes(layout), 2):
        assert r1 <= l2 or r2 <= l1 or b1 < t2 or b2 < t1, (p, q)
    assert set(layout.routes) == set(graph.edges)
    for (a, b), route in layout.routes.items():
        assert (route[0].node, route[-1].node) == (a, b)
        assert [spot.column for spot in route] == list(range(route[0].column, route[-1].column + 1))
        assert [spot.kind for spot in route].count("label") == ("choice" in graph.edges[a, b])
    assert sum(map(len, layout.columns)) == len(layout.sizes)


def test_nodes_stand_in_columns_by_longest_path():
    graph = nx.DiGraph([("in", "a"), ("in", "b"), ("a", "b"), ("b", "out"), ("in", "out")])
    layout = lay_out(graph, lambda a, b: False, lambda spot: (0.4, 0.4))
    columns = {spot.node: spot.column for spot in layout.sizes if spot.kind == "node"}
    assert columns == {"in": 0, "a": 1, "b": 2, "out": 3}


def test_two_edges_that_can_be_untangled_do_not_cross():
    graph = nx.DiGraph()
    graph.add_nodes_from("abxy")
    graph.add_edges_from([("a", "y"), ("b", "x")])
    layout = lay_out(graph, lambda a, b: False, lambda spot: (0.4, 0.4))
    y = {spot.node: layout.y[spot] for spot in layout.sizes}
    assert (y["a"] < y["b"]) == (y["y"] < y["x"])


def test_an_edge_that_passes_columns_is_level_where_there_is_room():
    graph = SPACE.graphs(SPACE.genotype(cell("normal", CHAIN) | cell("reduction", CHAIN)))["normal"]
    layout = lay_out(graph, lambda a, b: "choice" in graph.edges[a, b], lambda spot: (0.4, 0.4))
    route = layout.routes["0", "c_k"]
    assert len(route) == 8
    assert len({layout.y[spot] for spot in route[1:-1]}) == 1


def test_a_long_chain_goes_on_in_the_next_part_from_the_node_it_ended_with():
    chain = nx.path_graph(12, create_using=nx.DiGraph)
    assert [list(part) for part in parts(chain, 5)] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11]]
    chain.add_edge(0, 11)
    assert len(parts(chain, 5)) == 1


def test_the_picture_has_every_edge_and_every_text_of_both_cells():
    choices = cell("normal", CHAIN) | cell("reduction", ALL_FROM_INPUTS, op="avg_pool_3x3")
    figure = plot.draw_genotype(SPACE, SPACE.genotype(choices), title="found <first>")
    svg = plot.figure_bytes(figure, ".svg")
    found = texts(svg)
    assert found.count("dilated group conv 5x5") == 8
    assert found.count("average pool 3x3") == 8
    assert {"found <first>", "normal cell", "reduction cell"} <= set(found)
    assert {"dilated convolution", "pooling", "fixed, not searched"} <= set(found)
    assert "identity" not in found
    assert [found.count(str(node)) for node in range(4)] == [2, 2, 2, 2]
    drawn = {gid for p in figure.axes[0].patches if (gid := p.get_gid()) is not None}
    graphs = SPACE.graphs(SPACE.genotype(choices))
    assert drawn == {f"edge {name} cell: {a} -> {b}" for name, graph in graphs.items() for a, b in graph.edges}
    assert len(drawn) == 24


def test_every_text_lies_inside_the_picture_and_none_on_another():
    genotype = SPACE.random(np.random.default_rng(3))
    figure = plot.draw_genotype(SPACE, genotype)
    renderer = figure.canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(extents) == 3 + 16 + 2 * 7
    assert all(e.x0 >= 0 and e.y0 >= 0 and e.x1 <= figure.bbox.x1 and e.y1 <= figure.bbox.y1 for e in extents)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(extents, 2))


def test_equal_genotypes_give_equal_bytes_whatever_the_settings_of_the_user():
    genotype = SPACE.random(np.random.default_rng(0))
    pictures = []
    for family, color in (("sans-serif", "black"), ("monospace", "red")):
        with matplotlib.rc_context({"font.family": family, "text.color": color, "svg.fonttype": "path"}):
            pictures.append(plot.figure_bytes(plot.draw_genotype(SPACE, genotype), ".svg"))
    assert pictures[0] == pictures[1]
    assert re.search(rb"<dc:date>", pictures[0]) is None


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_suffix_decides_the_format(tmp_path: Path, name, start):
    graph = nx.DiGraph()
    graph.add_edge("in", "out", choice="w_$0.5$")
    figure = plot.draw_genotype(Graphs(net=graph), ANY, title="")
    plot.save_figure(figure, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_another_suffix_is_an_error_that_lists_these(tmp_path: Path):
    figure = plot.draw_genotype(Graphs(net=nx.DiGraph([(0, 1)])), ANY)
    with pytest.raises(
        BnasError, match=r"a\.jpg: a picture is written as \.png, \.svg, \.pdf; this name ends in '\.jpg'"
    ):
        plot.save_figure(figure, tmp_path / "a.jpg")
    with pytest.raises(BnasError, match=r"no picture format named '\.jpg'.*\.png, \.svg, \.pdf"):
        plot.figure_bytes(figure, ".jpg")


def test_a_long_chain_is_drawn_on_several_rows_with_names_that_are_not_formulas():
    chain = nx.DiGraph()
    for layer in range(9):
        chain.add_edge(f"$layer {layer}$", f"$layer {layer + 1}$", choice="width_0.5")
    found = texts(plot.figure_bytes(plot.draw_genotype(Graphs(network=chain), ANY), ".svg"))
    assert found.count("width 0.5") == 9
    assert {"network", "network, continued", "other choice", "$layer 0$", "$layer 9$"} <= set(found)
    assert "fixed, not searched" not in found


def test_a_space_without_graphs_is_an_error():
    with pytest.raises(BnasError, match="search space stand-in has no graphs, so there is nothing to draw"):
        plot.draw_genotype(object(), ANY)


@pytest.mark.parametrize(
    ("choice", "text", "family"),
    [
        ("group_conv_3x3", "group conv 3x3", "convolution"),
        ("dil_group_conv_5x5", "dilated group conv 5x5", "dilated"),
        ("sep_conv_3x3", "separable conv 3x3", "convolution"),
        ("max_pool_3x3", "max pool 3x3", "pooling"),
        ("identity", "identity", "identity"),
        ("skip_connect", "skip connect", "identity"),
        ("zero", "zero", "zero"),
        ("none", "none", "zero"),
        ("width_0.5", "width 0.5", "other"),
    ],
)
def test_operations_by_name(choice, text, family):
    assert (graph_words.operation_text(choice), graph_words.operation_family(choice)) == (text, family)
