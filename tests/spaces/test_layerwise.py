"""The base for spaces of one's own, on the example that ships with the project."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnas.cost import measure
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.space import Gates, NetSpec, soft_gates

_file = Path(__file__).parents[2] / "examples/own_space.py"
_spec = importlib.util.spec_from_file_location("own_space_example", _file)
assert _spec is not None
assert _spec.loader is not None
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)

SPEC = NetSpec((1, 8, 8), 5, "bats")


def images() -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_example_is_a_space_like_any_other() -> None:
    space: Any = example.OwnSpace()
    assert space.count() == 64
    rng = np.random.default_rng(0)
    genotype = space.random(rng)
    space.check(space.mutate(genotype, rng))
    assert space.facts(genotype)["depth"] == 3
    assert [d["choice"] for _, _, d in space.graphs(genotype)["layers"].edges(data=True) if d] == [
        choice for _, choice in genotype.choices
    ]


@pytest.mark.parametrize("training", [True, False])
def test_one_hot_gates_are_the_built_network(training: bool) -> None:
    space: Any = example.OwnSpace()
    net = space.supernet(SPEC).train()
    x = images()
    for seed in range(3):
        genotype = space.random(np.random.default_rng(seed))
        net(x, space.gates(genotype))
        built = space.build(genotype, SPEC)
        built.load_state_dict(net.state_for(genotype))
        net.train(training)
        built.train(training)
        assert torch.equal(net(x, space.gates(genotype)), built(x))
        net.train()


def test_soft_gates_reach_every_layer_and_costs_add_up() -> None:
    space: Any = example.OwnSpace()
    net = space.supernet(SPEC).train()
    weights = {d.name: torch.full((len(d.choices),), 0.25, requires_grad=True) for d in space.decisions}
    net(images(), soft_gates(space.decisions, weights)).square().sum().backward()
    assert all(w.grad is not None and w.grad.abs().max() > 1e-4 for w in weights.values())
    genotype = space.random(np.random.default_rng(1))
    cost = measure(space.build(genotype, SPEC), SPEC.input_shape, as_deployed=True)
    assert [float(c) for c in net.expected_cost(space.gates(genotype))] == [cost.macs_real, cost.macs_binary]
    half = Gates({d.name: d.choices for d in space.decisions}, {k: w.detach() for k, w in weights.items()})
    assert 0 < float(net.expected_cost(half)[1]) < 3 * 64 * 16 * 16 * 25


def test_it_packs_and_verifies() -> None:
    space: Any = example.OwnSpace()
    network = space.build(space.genotype({d.name: "conv_3x3" for d in space.decisions}), SPEC)
    network.train()(images())
    packed = export(network.eval(), input_shape=(1, 8, 8), classes=list("abcde"), mean=[0.5], std=[0.5])
    report = verify(network, PackedNetwork(packed), images())
    assert report.ok
    assert len(report.layers) == 6


def test_a_size_is_refused() -> None:
    with pytest.raises(BnasError, match="size of a own network: unknown key 'cells'"):
        example.OwnSpace().supernet(NetSpec((1, 8, 8), 5, "bats", {}, {"cells": 3}))
