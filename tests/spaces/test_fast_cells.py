"""The super-networks of cells as they run, against their plain form: every candidate by itself."""

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bnas import seeding
from bnas.space import Gates, NetSpec, SearchSpace
from experiments.plain_cells import plain_forward
from search_spaces import make_space

SIZES: dict[str, dict[str, Any]] = {
    "bats": {"channels": 8, "groups": 2, "shuffle_groups": 2},
    "bats number_of_groups": {"channels": 8, "groups": 2, "groups_are": "number_of_groups", "pool_norm": True},
    "bats partial": {"channels": 16, "groups": 2, "shuffle_groups": 2, "partial_channels": 2},
    "bats+ scale": {"channels": 4, "groups": 1, "shuffle_groups": 2},
    "bats+ activation": {"channels": 4, "groups": 1, "shuffle_groups": 2},
    "bnas_gist": {"channels": 4, "skips": "both"},
    "bnas_gist partial": {"channels": 8, "partial_channels": 4},
    "cp_nas": {"channels": 4},
    "cp_nas+ activation": {"channels": 4},
    "bnas_beihang": {"channels": 8},
    "darts": {"channels": 4},
}


def made(case: str, scheme: str = "binary-activations") -> tuple[SearchSpace, Any]:
    """The space and its super-network in float64, in training."""
    name, *words = case.split()
    # Three nodes, where two edges read one node of the cell; two where a case differs in something else.
    nodes = 3 if case in ("bats", "bnas_gist", "cp_nas", "bnas_beihang", "darts") else 2
    space = make_space(name.strip("+"), {"nodes": nodes, "open": tuple(words) if "+" in name else ()})
    spec = NetSpec((2, 8, 8), 3, scheme, {}, {"cells": 3, **SIZES[case]})
    with seeding.borrowed(0, "fast cells"):
        net = space.supernet(spec)
        # Norms and slopes that are all equal would hide that they are mixed up.
        for parameter in net.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    move: Any = net.double().to
    return space, move(memory_format=torch.channels_last).train()


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


def batch_mode(net: nn.Module) -> None:
    for module in net.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training, module.track_running_stats = True, False


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
    # The norms of pools; a shared input's takes note of a batch once for every candidate in the plain form.
    found |= {f"buffer {name}": b.double() for name, b in net.named_buffers() if "out_norm" in name}
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
@pytest.mark.parametrize("case", [case for case in SIZES if case != "bats+ scale"])
def test_outputs_and_gradients_are_those_of_the_plain_form(case: str, kind: str) -> None:
    assert_same(case, "binary-activations", kind)


@pytest.mark.parametrize("scheme", ["real", "binary-weights"])
def test_every_kind_of_operand(scheme: str) -> None:
    """Not +-1 by +-1: its sums are often exactly 0, where the last bit decides on which side of a kink a gradient is."""
    assert_same("bats", scheme, "soft")


@pytest.mark.parametrize("scheme", ["binary-activations", "bats"])
@pytest.mark.parametrize("prepare", [nn.Module.eval, batch_mode], ids=["evaluation", "batch statistics"])
def test_other_modes(scheme: str, prepare: Any) -> None:
    """With running statistics each norm of a pool has its own numbers; integers of an evaluation are never mixed."""
    assert_same("bnas_gist", scheme, "soft", prepare)


def test_opened_positions() -> None:
    assert_same("bats+ scale", "binary-weights", "soft")


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[getattr(func, "__name__", "")] += 1
        return func(*args, **(kwargs or {}))


def calls(forward: Any, net: Any, gates: Gates) -> Counter[str]:
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    with _Calls() as seen:
        forward(net, x, gates)
    counts: Counter[str] = seen.counts
    return counts


def test_candidates_of_one_shape_are_one_convolution_and_a_node_is_pooled_once() -> None:
    """3 cells of 9 edges with 4 convolutions and 2 pools; 4 of the 5 states of a cell are read."""
    space, net = made("bnas_gist")
    fast, plain = (calls(f, net, soft(space)) for f in (lambda net, x, g: net(x, g), plain_forward))
    assert plain["conv2d"] - fast["conv2d"] == 3 * 4 * (9 - 4)
    assert (plain["max_pool2d"], fast["max_pool2d"]) == (3 * 9, 3 * 4)


def test_a_candidate_that_is_watched_runs_by_itself() -> None:
    space, net = made("bnas_gist")
    seen: list[Tensor] = []
    conv = net.cells[0].edges["edge_0_2"]["conv_3x3"].conv
    handle = conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(torch.randn(3, 2, 8, 8, dtype=torch.float64), soft(space))
    handle.remove()
    assert len(seen) == 1
    assert seen[0].shape[1] == 4
