"""Cell spaces of the literature: published parameter counts, skips, gamma, partial channels."""

from typing import Any

import numpy as np
import pytest
import torch

from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.space import Gates, NetSpec, SearchSpace, soft_gates
from search_spaces import make_space
from search_spaces.bnas_gist import CONFIGURATIONS

# Nodes are parted by "|", an edge is operation:source (DARTS, gistvision/bnas, PC-DARTS as published).
GIST_A = (
    "zeroise:1 dil_conv_3x3:0 | conv_3x3:1 zeroise:2 | zeroise:2 zeroise:3 | zeroise:3 zeroise:4",
    "max_pool_3x3:0 zeroise:1 | max_pool_3x3:0 zeroise:2 | zeroise:3 zeroise:2 | zeroise:3 zeroise:4",
)
GIST_IMAGENET = (
    "conv_3x3:1 dil_conv_3x3:0 | conv_3x3:1 conv_3x3:2 | conv_3x3:2 dil_conv_3x3:1 | dil_conv_3x3:1 conv_3x3:0",
    "max_pool_3x3:0 max_pool_3x3:1 | max_pool_3x3:0 conv_3x3:2 | max_pool_3x3:0 dil_conv_3x3:3 |"
    " max_pool_3x3:0 dil_conv_3x3:4",
)
DARTS_V2 = (
    "sep_conv_3x3:0 sep_conv_3x3:1 | sep_conv_3x3:0 sep_conv_3x3:1 | sep_conv_3x3:1 skip_connect:0 |"
    " skip_connect:0 dil_conv_3x3:2",
    "max_pool_3x3:0 max_pool_3x3:1 | skip_connect:2 max_pool_3x3:1 | max_pool_3x3:0 skip_connect:2 |"
    " skip_connect:2 max_pool_3x3:1",
)
PC_DARTS_CIFAR = (
    "sep_conv_3x3:1 skip_connect:0 | sep_conv_3x3:0 dil_conv_3x3:1 | sep_conv_5x5:0 sep_conv_3x3:1 |"
    " avg_pool_3x3:0 dil_conv_3x3:1",
    "sep_conv_5x5:1 max_pool_3x3:0 | sep_conv_5x5:1 sep_conv_5x5:2 | sep_conv_3x3:0 sep_conv_3x3:3 |"
    " sep_conv_3x3:1 sep_conv_3x3:2",
)


def genotype(space: SearchSpace, cells: tuple[str, str]) -> Genotype:
    choices = {}
    for kind, text in zip(("normal", "reduction"), cells, strict=True):
        for node, pair in enumerate(text.split("|")):
            for edge in pair.split():
                op, source = edge.split(":")
                choices[f"{kind}.edge_{source}_{node + 2}"] = op
    return space.genotype(choices)


def parameters(space: SearchSpace, cells: tuple[str, str], spec: NetSpec) -> float:
    with torch.device("meta"):
        network = space.build(genotype(space, cells), spec)
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary")) / 1e6


@pytest.mark.parametrize(
    ("name", "cells", "shape", "classes", "millions"),
    [
        ("A", GIST_A, (3, 32, 32), 10, 5.5783),
        ("C", GIST_A, (3, 32, 32), 10, 42.36),
        ("D", GIST_IMAGENET, (3, 224, 224), 1000, 28.41),
        ("E", GIST_IMAGENET, (3, 224, 224), 1000, 32.00),
        ("F", GIST_IMAGENET, (3, 224, 224), 1000, 39.781),
        ("G", GIST_IMAGENET, (3, 224, 224), 1000, 37.34),
        ("H", GIST_IMAGENET, (3, 224, 224), 1000, 160.02),
    ],
)
def test_parameters_of_the_published_bnas_networks(
    name: str, cells: tuple[str, str], shape: tuple[int, int, int], classes: int, millions: float
) -> None:
    size = {**CONFIGURATIONS[name], "real_preprocess": False, "pool_norm": False}
    found = parameters(make_space("bnas_gist"), cells, NetSpec(shape, classes, "xnor", {}, size))
    digits = len(str(millions).split(".")[1])
    assert round(found, digits) == millions


@pytest.mark.parametrize(("cells", "millions"), [(DARTS_V2, 3.3), (PC_DARTS_CIFAR, 3.6)])
def test_parameters_of_the_published_darts_networks(cells: tuple[str, str], millions: float) -> None:
    """Real-valued, 20 cells, C = 36, without the auxiliary head: 3.3 M and 3.6 M in the papers' tables."""
    size = {"cells": 20, "channels": 36, "pool_norm": False}
    found = parameters(make_space("darts"), cells, NetSpec((3, 32, 32), 10, "real", {}, size))
    assert round(found, 1) == millions


def small(name: str, **size: Any) -> NetSpec:
    return NetSpec((3, 8, 8), 10, "xnor", {}, {"cells": 5, "channels": 4, **size})


@pytest.mark.parametrize(
    ("skips", "expected"),
    [("none", {}), ("one", {1: (1,), 2: (1,), 3: (1,), 4: (1,)}), ("both", {1: (1,), 2: (0, 1), 3: (0, 1), 4: (0, 1)})],
)
def test_skips_around_cells(skips: str, expected: dict[int, tuple[int, ...]]) -> None:
    """Five cells, reductions at 1 and 3: the first cell has no skip, the stem is never skipped from."""
    space = make_space("bnas_gist")
    network = space.build(space.random(np.random.default_rng(0)), small("bnas_gist", skips=skips))
    found = {i: tuple(sorted(int(k) for k in cell.skips)) for i, cell in enumerate(network.cells) if len(cell.skips)}
    assert found == expected
    if skips == "both":
        kinds = {i: [len(cell.skips[k]) for k in sorted(cell.skips)] for i, cell in enumerate(network.cells) if i > 1}
        # Identity where the shape is kept; BN and 2x2 convolution for each halving.
        assert kinds == {2: [2, 0], 3: [2, 2], 4: [2, 0]}
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_gamma_lowers_the_score_of_zeroise_only() -> None:
    plain, transferred = make_space("bnas_gist"), make_space("bnas_gist", {"zeroise_gamma": 3})
    scores = {d.name: [0.5, 0.0, 0.0, 0.3, 0.2, 0.0, 0.0] for d in plain.decisions}
    assert {choice for _, choice in plain.derive(scores).choices} == {"zeroise"}
    assert {choice for _, choice in transferred.derive(scores).choices} == {"conv_3x3"}
    assert transferred.args == plain.args


def test_node_order_matters_in_bnas_gist() -> None:
    space = make_space("bnas_gist", {"nodes": 2})
    a = genotype(space, ("conv_3x3:0 conv_5x5:1 | zeroise:0 zeroise:1",) * 2)
    b = genotype(space, ("zeroise:0 zeroise:1 | conv_3x3:0 conv_5x5:1",) * 2)
    assert space.digest(a) != space.digest(b)


@pytest.mark.parametrize(
    ("name", "size"), [("bats", {"groups": 2, "shuffle_groups": 2}), ("cp_nas", {}), ("darts", {})]
)
def test_partial_channels_search_a_part_and_pass_the_rest_by(name: str, size: dict[str, Any]) -> None:
    space = make_space(name, {"nodes": 2})
    spec = NetSpec((3, 8, 8), 5, "binary-activations", {}, {"cells": 3, "channels": 8, "partial_channels": 2, **size})
    net = space.supernet(spec).train()
    x = torch.randn(4, 3, 8, 8)
    weights = {d.name: torch.full((len(d.choices),), 1 / len(d.choices), requires_grad=True) for d in space.decisions}
    net(x, soft_gates(space.decisions, weights)).square().sum().backward()
    assert all(w.grad is not None and w.grad.abs().max() > 1e-5 for w in weights.values())
    whole = space.supernet(
        NetSpec((3, 8, 8), 5, "binary-activations", {}, {"cells": 3, "channels": 8, **size, "partial_channels": 1})
    )
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in whole.parameters())
    gates = space.gates(space.random(np.random.default_rng(0)))
    assert [float(c) for c in net.expected_cost(gates)] == [float(c) for c in whole.expected_cost(gates)]
    with pytest.raises(BnasError, match="has no weights of whole networks"):
        net.state_for(space.random(np.random.default_rng(0)))
    with pytest.raises(BnasError, match="partial_channels is for the search"):
        space.build(space.random(np.random.default_rng(0)), spec)


def test_the_channels_that_pass_by_carry_the_edge_s_weight() -> None:
    """With every gate at 0 nothing passes; with Zeroise alone at 1 the rest of the channels passes whole."""
    space = make_space("cp_nas", {"nodes": 1})
    spec = NetSpec((3, 8, 8), 5, "real", {}, {"cells": 3, "channels": 8, "partial_channels": 2})
    net = space.supernet(spec).eval()
    cell = net.cells[0]
    s = torch.randn(2, 24, 8, 8)
    active = {d.name: d.choices for d in space.decisions}
    zeros = {d.name: torch.zeros(len(d.choices)) for d in space.decisions}
    assert cell(s, s, Gates(active, zeros)).abs().max() == 0
    none_only = {d.name: torch.tensor([float(c == "none") for c in d.choices]) for d in space.decisions}
    passed = cell(s, s, Gates(active, none_only))
    expected = cell.preprocess[0](s)[:, 4:] + cell.preprocess[1](s)[:, 4:]
    assert torch.equal(passed.abs().sum(), expected.abs().sum()) or torch.allclose(
        passed.reshape(2, -1).sum(1), expected.reshape(2, -1).sum(1), atol=1e-3
    )
    assert (passed.abs().amax((0, 2, 3)) == 0).sum() == 4


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("bats", {"channels": 24, "partial_channels": 4}, r"groups x partial_channels \(4\) = 48: channels of 48"),
        ("cp_nas", {"channels": 6, "partial_channels": 2}, "divided by the halves = 4: channels of 4 or 8"),
        ("darts", {"channels": 10, "partial_channels": 4}, "divided by partial_channels = 4: channels of 8 or 12"),
        ("darts", {"channels": 8, "partial_channels": 0}, "partial_channels is 0"),
        ("bnas_gist", {"skips": "two"}, "no skips named 'two'"),
        ("bnas_gist", {"channels": 5, "stem": "imagenet"}, "divided by the stem's halves = 2"),
    ],
)
def test_sizes_that_do_not_fit(name: str, size: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_space(name).size(NetSpec((3, 32, 32), 10, "bats", {}, size))
