"""Opened positions: what may be opened, symmetries, what is refused, and what one costs and learns."""

import numpy as np
import pytest
import torch
from torch import nn

from bnas.binary import make_scheme
from bnas.binary.scales import FORMS, Learned, MeanAbs, Scale, make_form
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.layers import BinaryConv2d, RPReLU
from bnas.layers.activation import ACTIVATIONS, Activation
from bnas.space import NetSpec, SearchSpace, soft_gates
from search_spaces import make_space, space_of

SIZE = {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}
CELL = {
    "edge_0_2": "group_conv_3x3",
    "edge_1_2": "identity",
    "edge_0_3": "group_conv_5x5",
    "edge_1_3": "max_pool_3x3",
    "edge_0_4": "max_pool_3x3",
    "edge_1_4": "avg_pool_3x3",
}


def bats(*parts: str) -> SearchSpace:
    return make_space("bats", {"nodes": 3, "open": list(parts)})


def genotype(space: SearchSpace, cell: dict[str, str] | None = None, **normal: str) -> Genotype:
    """The same edges in both cells; `normal` overrides what is chosen at nodes of the normal cell."""
    edges = {f"{kind}.{edge}": op for kind in ("normal", "reduction") for edge, op in (cell or CELL).items()}
    opened = {d.name: d.choices[0] for d in space.decisions if d.group is None}
    named = {f"normal.{node}.activation": choice for node, choice in normal.items()}
    return space.genotype({**edges, **opened, **named})


def test_rprelu_is_its_formula() -> None:
    layer = RPReLU(2)
    x = torch.tensor([[-1.0, 2.0], [3.0, -4.0]]).view(2, 2, 1, 1)
    torch.testing.assert_close(layer(x), nn.functional.prelu(x, torch.full((2,), 0.25)))
    with torch.no_grad():
        layer.before.copy_(torch.tensor([2.0, -3.0]))
        layer.after.copy_(torch.tensor([10.0, 20.0]))
    torch.testing.assert_close(layer(x).flatten(1), torch.tensor([[11.0, 19.75], [15.0, 18.25]]))


def test_decisions_are_named_by_place() -> None:
    names = [d.name for d in bats("activation", "scale").decisions if d.group is None]
    at_nodes = [f"{kind}.node_{node}" for kind in ("normal", "reduction") for node in (2, 3, 4)]
    inputs = ["normal.inputs", "reduction.inputs"]
    assert names == [f"{p}.activation" for p in (*inputs, *at_nodes)] + [f"{p}.scale" for p in at_nodes]
    widths = make_space("widths", {"network": "vgg_small", "open": ["activation"]})
    assert [d.name for d in widths.decisions[6:]] == [f"conv_{i}.activation" for i in range(1, 6)]
    assert widths.count() == 6**6 * 5**5


def test_every_choice_is_built_where_it_was_chosen() -> None:
    space = bats("activation", "scale")
    spec = NetSpec((3, 8, 8), 4, "xnor", {}, SIZE)
    choices = dict(genotype(space).choices)
    for activation in ACTIVATIONS:
        for form, kind in zip(FORMS, (Scale, MeanAbs, Learned), strict=True):
            chosen = {**choices, "normal.node_2.activation": activation, "normal.node_2.scale": form}
            network = space.build(space.genotype(chosen), spec)
            normal = [cell.edges["edge_0_2"]["group_conv_3x3"] for cell in network.cells if cell.kind == "normal"]
            assert normal
            for op in normal:
                assert op.activation.kind == activation
                assert type(op.conv.binarizer.scale) is kind
            others = [m.kind for name, m in network.named_modules() if isinstance(m, Activation) and "_3." in name]
            assert set(others) == {"none"}


def test_a_scheme_keeps_its_own_form_of_a_scale() -> None:
    conv = BinaryConv2d(4, 4, 1, make_scheme("bireal"))
    own = conv.binarizer.scale
    assert make_form("mean_abs", conv.weight, own) is own
    learned = make_form("learned", conv.weight, own)
    torch.testing.assert_close(learned.value(conv.weight), own.value(conv.weight))


def test_nodes_take_what_is_chosen_at_them_along() -> None:
    space = bats("activation")
    swapped = {**CELL, "edge_0_2": CELL["edge_0_3"], "edge_1_2": CELL["edge_1_3"]}
    swapped |= {"edge_0_3": CELL["edge_0_2"], "edge_1_3": CELL["edge_1_2"]}
    a = genotype(space, node_2="relu", node_3="prelu")
    edges_swapped = {f"normal.{edge}": op for edge, op in swapped.items()}
    b = space.genotype({**dict(genotype(space, node_2="prelu", node_3="relu").choices), **edges_swapped})
    c = space.genotype({**dict(genotype(space, node_2="relu", node_3="prelu").choices), **edges_swapped})
    assert space.digest(a) == space.digest(b) != space.digest(c)
    assert space.canonical(space.canonical(b)) == space.canonical(b)


def test_what_is_chosen_at_a_node_without_convolutions_does_not_count() -> None:
    space = bats("activation")
    assert space.digest(genotype(space, node_4="relu")) == space.digest(genotype(space))
    assert space.digest(genotype(space, node_2="relu")) != space.digest(genotype(space))
    assert space.digest(genotype(space, inputs="relu")) != space.digest(genotype(space))


def test_no_activation_can_be_derived_where_no_operation_is_not() -> None:
    space = make_space("cp_nas", {"open": ["activation"]})
    drawn = space.random(np.random.default_rng(0))
    scores = {d.name: [float(choice == "none") for choice in d.choices] for d in space.decisions}
    derived = space.derive(scores)
    assert derived.choice("normal.node_2.activation") == "none"
    assert "none" not in {choice for name, choice in derived.choices if ".edge_" in name}
    assert space_of(Genotype.from_json(drawn.to_json())).args == space.args


def test_what_cannot_be_opened_is_refused() -> None:
    for name in ("darts", "cp_nas", "widths", "group_mobilenet"):
        with pytest.raises(
            BnasError, match=f"space {name} cannot open scale: a norm follows .* It can open activation"
        ):
            make_space(name, {"open": ["scale"]})
    with pytest.raises(BnasError, match=r"named 'activations'.*Did you mean 'activation'"):
        make_space("bats", {"open": ["activations"]})
    with pytest.raises(BnasError, match="open names a part twice"):
        make_space("bats", {"open": ["scale", "scale"]})
    with pytest.raises(BnasError, match="open is a list of activation and scale, got 'scale'"):
        make_space("bats", {"open": "scale"})


def test_a_supernet_without_what_was_opened_is_refused() -> None:
    space = bats("scale")
    with pytest.raises(BnasError, match=r"normal\.node_2\.scale: scheme binary-activations gives weights no sign"):
        space.supernet(NetSpec((3, 8, 8), 4, "binary-activations", {}, SIZE))
    chain = make_space("widths", {"open": ["activation"]})
    with pytest.raises(
        BnasError, match="activation is relu in the size of the network, but each place decides its own"
    ):
        chain.supernet(NetSpec((3, 8, 8), 4, "bireal", {}, {"channels": 4, "activation": "relu"}))


def test_a_pass_leaves_no_gates_behind() -> None:
    space = bats("activation", "scale")
    net = space.supernet(NetSpec((3, 8, 8), 4, "bats", {}, SIZE))
    weights = {d.name: torch.ones(len(d.choices), requires_grad=True) for d in space.decisions}
    net(torch.randn(2, 3, 8, 8), soft_gates(space.decisions, weights))
    # Copies the network, which it cannot where a module holds a part of a graph.
    net.expected_cost(soft_gates(space.decisions, weights))
