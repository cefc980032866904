"""The super-networks of cells as they run, against their plain form: every candidate by itself."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas import seeding
from bnas.space import Gates, NetSpec, SearchSpace
from experiments.plain_cells import plain_forward
from search_spaces import make_space

SIZES: dict[str, dict[str, Any]] = {
    "bats": {"channels": 8, "groups": 2, "shuffle_groups": 2},
    "bats number_of_groups": {"channels": 8, "groups": 2, "groups_are": "number_of_groups", "pool_norm": True},
    "bats partial": {"channels": 16, "groups": 2, "shuffle_groups": 2, "partial_channels": 2},
    "bats+": {"channels": 4, "groups": 1, "shuffle_groups": 2},
    "bnas_gist": {"channels": 4, "skips": "both"},
    "bnas_gist partial": {"channels": 8, "partial_channels": 4},
    "cp_nas": {"channels": 4},
    "cp_nas+": {"channels": 4},
    "bnas_beihang": {"channels": 8},
    "darts": {"channels": 4},
}
SCHEMES = ("binary-activations", "bats", "real")


def made(case: str, scheme: str = "binary-activations") -> tuple[SearchSpace, Any]:
    """The space and its super-network in float64, in training."""
    name = case.split()[0]
    space = make_space(name.strip("+"), {"nodes": 3, "open": ("activation",) if "+" in name else ()})
    spec = NetSpec((2, 8, 8), 3, scheme, {}, {"cells": 3, **SIZES[case]})
    with seeding.borrowed(0, "fast cells"):
        net = space.supernet(spec)
        # Norms and slopes that are all equal would hide that they are mixed up.
        for parameter in net.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return space, net.double().to(memory_format=torch.channels_last).train()


def soft(space: SearchSpace) -> Gates:
    generator = torch.Generator().manual_seed(0)
    # Gates need be neither positive nor a distribution.
    weights = {d.name: torch.randn(len(d.choices), generator=generator, dtype=torch.float64) for d in space.decisions}
    return Gates({d.name: d.choices for d in space.decisions}, weights)


def subsets(space: SearchSpace) -> Gates:
    """Of each decision some of its choices, none for a few; half of them with weights."""
    rng = np.random.default_rng(3)
    active, weights = {}, {}
    for decision in space.decisions:
        some = tuple(choice for choice in decision.choices if rng.random() < 0.5)
        active[decision.name] = some if "edge" in decision.name else some or decision.choices[:1]
        if rng.random() < 0.5:
            weights[decision.name] = torch.tensor(rng.normal(size=len(active[decision.name])))
    return Gates(active, weights)


def path(space: SearchSpace) -> Gates:
    return space.gates(space.random(np.random.default_rng(1)))


GATES = {"soft": soft, "subsets": subsets, "path": path}


def everything(net: Any, forward: Any, gates: Gates) -> dict[str, Tensor]:
    """Logits, gradients of weights, gates and input, buffers after the pass."""
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    weights = {name: w.clone().requires_grad_() for name, w in gates.weights.items()}
    logits = forward(x, Gates(gates.active, weights))
    mixing = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    (logits * mixing).sum().backward()
    found = {"logits": logits.detach(), "x": x.grad}
    found |= {f"gate {name}": w.grad for name, w in weights.items()}
    found |= {f"weight {name}": p.grad for name, p in net.named_parameters()}
    return {name: value for name, value in found.items() if value is not None}


def assert_same(case: str, scheme: str, kind: str, prepare: Any = nn.Module.train) -> None:
    space, net = made(case, scheme)
    prepare(net)
    other = copy.deepcopy(net)
    gates = GATES[kind](space)
    fast = everything(net, net, gates)
    plain = everything(other, lambda x, g: plain_forward(other, x, g), gates)
    assert fast.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()) + 1e-12, msg=name)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("case", SIZES)
def test_outputs_and_gradients_are_those_of_the_plain_form(case: str, kind: str) -> None:
    assert_same(case, "binary-activations", kind)
