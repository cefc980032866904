"""Cell spaces: symmetries, counting, positions of the reductions, sizes that do not fit, the bats operations."""

from itertools import product

import numpy as np
import pytest
import torch

from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.layers import BinaryConv2d
from bnas.layers.ops import BinaryConvOp, FactorizedReduce, Identity, Pool, Zero
from bnas.space import NetSpec
from search_spaces import make_space, space_of
from search_spaces.bats import BatsSize


def spec(**size: object) -> NetSpec:
    return NetSpec((3, 32, 32), 10, "bats", {}, size)


def cell(normal: str, reduction: str) -> dict[str, str]:
    """Edges as "source-target:operation"."""
    choices = {}
    for kind, text in (("normal", normal), ("reduction", reduction)):
        for part in text.split():
            edge, op = part.split(":")
            source, target = edge.split("-")
            choices[f"{kind}.edge_{source}_{target}"] = op
    return choices


ALL_INPUTS = "0-2:{a} 1-2:{b} 0-3:{c} 1-3:{d}"


def test_swapping_two_nodes_that_read_the_inputs_is_the_same_network() -> None:
    space = make_space("bats", {"nodes": 2})
    names = {"a": "identity", "b": "max_pool_3x3", "c": "avg_pool_3x3", "d": "group_conv_3x3"}
    swapped = {"a": names["c"], "b": names["d"], "c": names["a"], "d": names["b"]}
    plain = ALL_INPUTS.format(**names)
    one = space.genotype(cell(plain, plain))
    other = space.genotype(cell(ALL_INPUTS.format(**swapped), plain))
    assert one != other
    assert space.digest(one) == space.digest(other)
    exchanged_inputs = {"a": names["b"], "b": names["a"], "c": names["d"], "d": names["c"]}
    assert space.digest(space.genotype(cell(ALL_INPUTS.format(**exchanged_inputs), plain))) != space.digest(one)


def test_a_chain_has_one_order_only() -> None:
    space = make_space("bats", {"nodes": 2})
    chain = "0-2:identity 1-2:identity 0-3:identity 2-3:max_pool_3x3"
    genotype = space.genotype(cell(chain, chain))
    assert space.canonical(genotype) == genotype


def test_equal_digests_give_equal_functions() -> None:
    """Relabelled networks compute the same logits once the weights are relabelled: here without weights in the cells."""
    space = make_space("bats", {"nodes": 2})
    free = {"a": "identity", "b": "max_pool_3x3", "c": "avg_pool_3x3", "d": "identity"}
    swapped = {"a": "avg_pool_3x3", "b": "identity", "c": "identity", "d": "max_pool_3x3"}
    size = {"cells": 1, "channels": 4, "groups": 2, "shuffle_groups": 2}
    networks = []
    for names in (free, swapped):
        torch.manual_seed(0)
        text = ALL_INPUTS.format(**names)
        networks.append(space.build(space.genotype(cell(text, text)), spec(**size)).eval())
    # The only cell is a reduction, whose identities at stride 2 have weights: give both networks those of the first.
    states = [network.state_dict() for network in networks]
    moved = {
        key.replace("edge_0_2", "X").replace("edge_1_3", "edge_1_2").replace("X", "edge_0_3"): value
        for key, value in states[0].items()
    }
    c = 4
    moved["classifier.weight"] = torch.cat(
        [moved["classifier.weight"][:, 2 * c :], moved["classifier.weight"][:, : 2 * c]], 1
    )
    networks[1].load_state_dict(moved)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(networks[0](x), networks[1](x))


def test_count_is_that_of_the_formula_and_of_enumeration() -> None:
    """7 derivable operations; each node keeps 2 of its 2, 3, 4, 5 incoming edges; two cells."""
    assert make_space("bats").count() == ((1 * 3 * 6 * 10) * 7**8) ** 2
    small = make_space("bats", {"nodes": 1})
    names = [decision.name for decision in small.decisions]
    every = product(small.drawable(small.decisions[0]), repeat=4)
    assert len({small.genotype(dict(zip(names, ops, strict=True))) for ops in every}) == small.count() == 7**4


def test_drawing_is_uniform_over_edges() -> None:
    space = make_space("bats")
    rng = np.random.default_rng(0)
    drawn = [space.random(rng) for _ in range(600)]
    shares = [np.mean([g.choice(f"normal.edge_{i}_5") != "absent" for g in drawn]) for i in range(5)]
    assert np.abs(np.array(shares) - 0.4).max() < 0.08
    assert not any(choice == "zero" for g in drawn for _, choice in g.choices)


@pytest.mark.parametrize(("cells", "expected"), [(8, {2, 5}), (20, {6, 13}), (3, {1, 2}), (1, {0}), (2, {0, 1})])
def test_reductions_are_at_one_and_two_thirds(cells: int, expected: set[int]) -> None:
    assert BatsSize(cells=cells).reductions == expected


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            {"channels": 16},
            "channels 16 cannot be divided by groups = 12: channels of 12 or 24 would do, or .* 1, 2, 4, 8, 16",
        ),
        ({"channels": 6, "groups": 6}, "channels 6 cannot be divided by shuffle_groups = 4: channels of 4 or 8"),
        ({"channels": 9, "groups": 3, "shuffle_groups": 3}, "cannot be divided by the halves = 2"),
        ({"channels": 40, "groups": 20, "stem": "imagenet", "groups_are": "number_of_groups"}, None),
        (
            {"channels": 20, "groups": 20, "stem": "imagenet", "groups_are": "number_of_groups"},
            "twice the stem's groups = 40",
        ),
        ({"groups_are": "channels"}, "no groups_are named 'channels'"),
        ({"stem": "svhn"}, "no stem named 'svhn'"),
        ({"cells": 0}, "cells: at least 1, got 0"),
        ({"channels": 0}, "channels: at least 1, got 0"),
        ({"groups": 0}, "groups is 0; it must be an integer at least 1"),
    ],
)
def test_sizes_that_do_not_fit_name_those_that_do(size: dict[str, object], message: str | None) -> None:
    space = make_space("bats")
    if message is None:
        space.size(spec(**size))
        return
    with pytest.raises(BnasError, match=message):
        space.size(spec(**size))


def test_paper_and_code_count_groups_differently() -> None:
    assert BatsSize(channels=36).conv_groups(36) == 3
    assert BatsSize(channels=36).conv_groups(144) == 12
    assert BatsSize(channels=36, groups_are="number_of_groups").conv_groups(144) == 12


def test_arguments_of_the_space_are_checked() -> None:
    with pytest.raises(BnasError, match="nodes is 1 to 7, got 8"):
        make_space("bats", {"nodes": 8})
    with pytest.raises(BnasError, match="argument nodes takes a whole number, got '4'"):
        make_space("bats", {"nodes": "4"})
    with pytest.raises(BnasError, match="no argument of space bats named 'node'"):
        make_space("bats", {"node": 4})
    with pytest.raises(BnasError, match=r"no search space named 'bat'; there are: .*Did you mean 'bats'\?"):
        make_space("bat")


def test_auxiliary_head_in_training_only_and_not_on_small_maps() -> None:
    space = make_space("bats")
    genotype = space.random(np.random.default_rng(0))
    size = {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2, "auxiliary": True}
    network = space.build(genotype, spec(**size))
    x = torch.randn(2, 3, 32, 32)
    logits, auxiliary = network(x)
    assert logits.shape == auxiliary.shape == (2, 10)
    assert network.eval()(x).shape == (2, 10)
    with pytest.raises(BnasError, match="needs a map of at least 8 x 8 pixels and gets 2 x 2 from images of 8 x 8"):
        space.build(genotype, NetSpec((3, 8, 8), 10, "bats", {}, size))
    with pytest.raises(BnasError, match="a super-network has no auxiliary head"):
        space.supernet(spec(**size))


def test_a_supernet_has_both_kinds_of_cells() -> None:
    with pytest.raises(BnasError, match="with 2 cells there is no normal cell to search: cells must be at least 3"):
        make_space("bats").supernet(spec(cells=2, channels=12))


def test_imagenet_stem_reduces_by_eight() -> None:
    space = make_space("bats")
    genotype = space.random(np.random.default_rng(0))
    size = {"cells": 3, "channels": 40, "groups": 20, "stem": "imagenet"}
    network = space.build(genotype, NetSpec((3, 64, 64), 10, "bats", {}, size)).eval()
    s0, s1 = network.stem(torch.randn(1, 3, 64, 64))
    assert s0.shape == (1, 40, 16, 16)
    assert s1.shape == (1, 40, 8, 8)
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 10)
    with pytest.raises(BnasError, match="the network halves it 5 times, so each side needs at least 32"):
        space.build(genotype, NetSpec((3, 16, 16), 10, "bats", {}, size))


@pytest.mark.parametrize(
    ("choice", "stride", "kind"),
    [
        ("group_conv_5x5", 1, BinaryConvOp),
        ("dil_group_conv_3x3", 2, BinaryConvOp),
        ("identity", 1, Identity),
        ("identity", 2, FactorizedReduce),
        ("max_pool_3x3", 2, Pool),
        ("avg_pool_3x3", 1, Pool),
        ("zero", 2, Zero),
    ],
)
def test_operations_of_bats(choice: str, stride: int, kind: type) -> None:
    from bnas.binary import make_scheme

    op = make_space("bats").make_op(choice, 36, stride, make_scheme("bats"), BatsSize(channels=36), True)
    assert type(op) is kind
    if isinstance(op, BinaryConvOp):
        assert op.conv.groups == 3
        assert op.conv.kernel_size[0] == int(choice[-1])
        assert op.conv.dilation[0] == (2 if choice.startswith("dil") else 1)
        assert op.residual == (stride == 1)


def test_parameters_of_the_paper_network_are_in_the_range_that_the_arithmetic_allows() -> None:
    """20 cells, C = 36, 12 channels a group: 3.3 M weights with every kept edge 3x3, 6.0 M with 5x5 (auxiliary included).

    Counted by hand: 16 edges a cell at 12 k^2 weights a channel, the 1x1 convolutions in front of the cells, and the
    auxiliary head; scales, slopes and norms are a few per channel and left out.
    """
    space = make_space("bats")
    rng = np.random.default_rng(0)
    shape = space.random(rng)
    totals = {}
    for op in ("group_conv_3x3", "group_conv_5x5"):
        genotype = space.genotype({name: op for name, _ in shape.choices})
        network = space.build(genotype, spec(cells=20, channels=36, auxiliary=True))
        binary = sum(m.weight.numel() for m in network.modules() if isinstance(m, BinaryConv2d))
        totals[op] = (binary + sum(p.numel() for p in network.auxiliary.parameters())) / 1e6
    assert totals == {"group_conv_3x3": pytest.approx(3.32, abs=0.01), "group_conv_5x5": pytest.approx(5.98, abs=0.01)}


def test_drop_path_is_set_everywhere() -> None:
    space = make_space("bats")
    network = space.build(space.random(np.random.default_rng(0)), spec(cells=2, channels=12))
    network.set_drop_path(0.3)
    assert [cell.drop.probability for cell in network.cells] == [0.3, 0.3]


@pytest.mark.parametrize(
    ("edge", "why"), [("edge_3_2", "node 3, which is computed after it"), ("edge_2_2", "node 2, which")]
)
def test_a_cycle_in_a_hand_written_cell_names_the_edges_that_would_do(edge: str, why: str) -> None:
    space = make_space("bats", {"nodes": 2})
    drawn = space.random(np.random.default_rng(0))
    written = Genotype.make("bats", {"nodes": 2}, {**dict(drawn.choices), f"normal.{edge}": "identity"})
    message = (
        f"normal.{edge}: node 2 would read {why}.* a cycle; edges into node 2 are normal.edge_0_2, normal.edge_1_2"
    )
    with pytest.raises(BnasError, match=message):
        space_of(written)
