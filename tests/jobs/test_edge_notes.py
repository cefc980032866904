"""What a picture says of an operation's convolutions: kernels, dilation, groups, bits."""

from typing import Any

import numpy as np
import pytest

from bnas.space import NetSpec
from experiments import graph_words, plot
from experiments.edge_notes import annotate
from search_spaces import make_space

CELL = {"cells": 3, "channels": 8, "groups": 4, "shuffle_groups": 2}


def notes(
    name: str, size: dict[str, Any], scheme: str, choices: dict[str, str], **args: Any
) -> dict[str, dict[str, str]]:
    space = make_space(name, args)
    drawn = space.random(np.random.default_rng(0))
    genotype = space.genotype({**dict(drawn.choices), **choices})
    graphs = space.graphs(genotype)
    annotate(graphs, space, genotype, NetSpec((3, 32, 32), 10, scheme, {}, size))
    return {
        kind: {f"{a}>{b}": e.get("note", "") for a, b, e in graph.edges(data=True)} for kind, graph in graphs.items()
    }


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("bats", "W1 A1"), ("binary-activations", "W32 A1"), ("binary-weights", "W1 A32"), ("real", "W32 A32")],
)
def test_a_cell_tells_dilation_groups_and_bits(scheme: str, bits: str) -> None:
    chosen = {
        f"{kind}.edge_{i}_2": op
        for kind in ("normal", "reduction")
        for i, op in enumerate(("dil_group_conv_5x5", "identity"))
    }
    found = notes("bats", CELL, scheme, chosen, nodes=1)
    assert found["normal"] == {"c_{k-2}>0": f"dilation 2, 2 groups of 4, {bits}", "c_{k-1}>0": "", "0>c_k": ""}
    assert found["reduction"]["c_{k-2}>0"] == f"stride 2, dilation 2, 4 groups of 4, {bits}"
    assert found["reduction"]["c_{k-1}>0"] == f"1x1, stride 2, {bits}"


def test_several_convolutions_are_a_sum() -> None:
    chosen = {"normal.edge_0_2": "dil_conv_3x3", "normal.edge_1_2": "max_pool_3x3"}
    found = notes("cp_nas", {"cells": 3, "channels": 8}, "xnor", chosen, nodes=1)
    assert found["normal"] == {"c_{k-2}>0": "3x3 dilation 2 depthwise + 1x1, W1 A1", "c_{k-1}>0": "", "0>c_k": ""}


def test_chains_tell_theirs() -> None:
    found = notes("widths", {"downsample": "real"}, "bnn", {})["resnet20"]
    assert found["image>stage_0"] == "3x3, W32 A32"
    assert found["stage_0>block_0_0"] == "3x3, W1 A1"
    assert found["stage_1>block_1_0"] == "3x3 stride 2 W1 A1 + 3x3 W1 A1 + 1x1 W32 A32"
    assert found["block_0_2>stage_1"] == ""
    groups = notes("group_mobilenet", {}, "bnn", {"layer_00.groups": "4"})["group_mobilenet"]
    assert groups["stem>layer_00"] == "4 groups of 8, W1 A1"


def test_notes_and_what_is_opened_stand_in_the_picture() -> None:
    space = make_space("bats", {"nodes": 1, "open": ["activation"]})
    edges = {f"{kind}.edge_{i}_2": "group_conv_3x3" for kind in ("normal", "reduction") for i in (0, 1)}
    opened = {d.name: "rprelu" for d in space.decisions if d.group is None}
    spec = NetSpec((3, 32, 32), 10, "bats", {}, CELL)
    drawing = plot.figure_bytes(
        plot.draw_genotype(space, space.genotype({**edges, **opened}), spec=spec), ".svg"
    ).decode()
    assert ">2 groups of 4, W1 A1<" in drawing
    assert ">rprelu<" in drawing
    assert "scheme bats<" in drawing
    assert graph_words.operation_family("zeroise") == "zero"
