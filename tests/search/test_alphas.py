"""Gates made of logits: soft, by a Gumbel sample, straight-through."""

from typing import Any

import pytest
import torch

from bnas.space import NetSpec
from search_spaces import make_space
from strategies.alphas import Alphas, gumbel

SPACE = make_space("bats", {"nodes": 2})
EDGE = "normal.edge_0_2"


def alphas(kind: str, **more: Any) -> Alphas:
    made = Alphas(SPACE, 0, torch.device("cpu"), kind=kind, **more)
    with torch.no_grad():
        made.of_decision[EDGE].copy_(torch.linspace(-1, 1, 8))
    return made


def test_gumbel_noise_has_the_mean_and_spread_of_its_law_and_an_address() -> None:
    noise = gumbel(200_000, 0, "test")
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.std().item() == pytest.approx(torch.pi / 6**0.5, abs=0.01)
    assert torch.equal(gumbel(5, 0, "a", 1), gumbel(5, 0, "a", 1))
    assert not torch.equal(gumbel(5, 0, "a", 1), gumbel(5, 0, "a", 2))
    assert not torch.equal(gumbel(5, 0, "a", 1), gumbel(5, 1, "a", 1))


def test_soft_gates_are_the_softmax() -> None:
    made = alphas("soft")
    expected = torch.softmax(torch.linspace(-1, 1, 8) / 0.5, dim=0)
    for gates in (made.sampled_gates(0.5, 1), made.sampled_gates(0.5, 2), made.settled_gates(0.5)):
        assert torch.equal(gates.weights[EDGE], expected)
        assert gates.active[EDGE] == SPACE.decision(EDGE).choices


def test_gumbel_gates_are_a_distribution_that_changes_with_the_step() -> None:
    made = alphas("gumbel")
    first, again, other = (made.sampled_gates(1.0, step).weights[EDGE] for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.sum().item() == pytest.approx(1.0)
    assert torch.equal(made.settled_gates(1.0).weights[EDGE], alphas("soft").settled_gates(1.0).weights[EDGE])


def test_a_gumbel_sample_takes_each_choice_as_often_as_the_softmax_says() -> None:
    made = alphas("straight-through")
    counts = dict.fromkeys(SPACE.decision(EDGE).choices, 0)
    for step in range(2000):
        (choice,) = made.sampled_gates(0.3, step).active[EDGE]
        counts[choice] += 1
    expected = torch.softmax(torch.linspace(-1, 1, 8), dim=0)
    assert [count / 2000 for count in counts.values()] == pytest.approx(expected.tolist(), abs=0.03)


def test_straight_through_runs_one_choice_with_weight_one_and_the_gradient_of_the_soft_weight() -> None:
    made, soft = alphas("straight-through"), alphas("gumbel")
    gates, of_soft = made.sampled_gates(0.7, 3), soft.sampled_gates(0.7, 3)
    for name, choices in gates.active.items():
        assert len(choices) == 1
        assert gates.weights[name].tolist() == [1.0]
    (choice,) = gates.active[EDGE]
    index = SPACE.decision(EDGE).choices.index(choice)
    assert index == int(of_soft.weights[EDGE].argmax())
    gates.weights[EDGE].sum().backward()  # type: ignore[no-untyped-call]
    of_soft.weights[EDGE][index].backward()  # type: ignore[no-untyped-call]
    assert torch.equal(made.of_decision[EDGE].grad, soft.of_decision[EDGE].grad)  # type: ignore[arg-type]
    assert made.of_decision[EDGE].grad.abs().min() > 0  # type: ignore[union-attr]


def test_settled_straight_through_gates_are_those_of_the_largest_logits() -> None:
    assert alphas("straight-through").settled_gates(1.0).active[EDGE] == (SPACE.decision(EDGE).choices[-1],)


def test_straight_through_equals_the_single_path() -> None:
    """All edges of one operation each: the same numbers as gates without weights."""
    spec = NetSpec(
        (1, 8, 8), 3, "binary-activations", {}, {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}
    )
    torch.manual_seed(0)
    net = SPACE.supernet(spec)
    gates = alphas("straight-through").sampled_gates(1.0, 5)
    plain = type(gates)(gates.active)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(net(x, gates), net(x, plain))


def test_edge_shares_multiply_every_kind() -> None:
    for kind, total in (("soft", 1.0), ("gumbel", 1.0), ("straight-through", 1.0)):
        made = alphas(kind, edge_normalization=True)
        gates = made.sampled_gates(1.0, 1)
        group = [d.name for d in SPACE.decisions if d.group == "normal.node_3"]
        assert sum(gates.weights[name].sum().item() for name in group) == pytest.approx(total)


def test_state_round_trip() -> None:
    made, fresh = alphas("soft", edge_normalization=True), alphas("soft", edge_normalization=True)
    with torch.no_grad():
        made.of_group["normal.node_3"].add_(1)
        made.of_decision["normal.edge_1_2"].add_(2)
    state = made.state_dict()
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(made.logits, fresh.logits, strict=True))
    with torch.no_grad():
        made.logits[0].add_(1)
    assert not torch.equal(state["alphas"][next(iter(made.of_decision))], made.logits[0])
