"""Budgets: what is limited, what a genotype costs as deployed, and architectures within: drawn, cheapest, repaired."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch

from bnas import seeding, strict
from bnas.budget import Budget, Cost, Costs
from bnas.cost import measure
from bnas.data import Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.feasible import RETRIES, Feasible, neighbours
from bnas.space import NetSpec, SearchSpace
from bnas.strategy import SearchTask, distinct_genotypes
from search_spaces import make_space
from search_spaces.bats import Bats

SIZES: dict[str, dict[str, Any]] = {
    "bats": {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2},
    "widths": {"channels": 4},
    "group_mobilenet": {"stem": "imagenet"},
}
ARGS: dict[str, dict[str, Any]] = {
    "widths": {"network": "vgg_small", "ratios": [1, 2]},
    "group_mobilenet": {"layers": [2, 2], "groups": [1, 2, 4], "group_channels": 1, "channels": 4},
}


class Few(Bats):
    """One node, two cells, three operations: 81 architectures."""

    ops = ("identity", "max_pool_3x3", "group_conv_3x3", "zero")

    def __init__(self) -> None:
        super().__init__(nodes=1)


def space_of(name: str) -> SearchSpace:
    return Few() if name == "bats" else make_space(name, ARGS[name])


def spec_of(name: str, **size: Any) -> NetSpec:
    return NetSpec((1, 8, 8), 3, "bats", {}, {**SIZES[name], **size})


def feasible(name: str, deployed: NetSpec | None = None, **limits: float) -> Feasible:
    images = ImageSet(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 3)
    batches = Batches(images, 8, seed=0, normalization=Normalization((0.0,), (1.0,)))
    task = SearchTask(space_of(name), spec_of(name), batches, batches, 0, torch.device("cpu"), deployed=deployed)
    made = Feasible(task, Budget(**limits))  # type: ignore[arg-type]
    if deployed is None:
        # Measured once for all tests.
        made.costs = known(name)
    return made


@functools.cache
def known(name: str) -> Costs:
    return Costs(space_of(name), spec_of(name))


def costs_of_all(name: str, what: str) -> list[float]:
    drawn = distinct_genotypes(space_of(name), 200, 0, "all")
    return sorted(known(name).of(genotype).of(what) for genotype in drawn)


def test_a_cost_names_its_parts_and_what_is_not_known() -> None:
    cost = Cost(1000, 6400, 50.5)
    assert cost.macs_effective == 1100
    assert str(cost) == "macs_real 1,000, macs_binary 6,400, macs_effective 1,100, weight_bytes 50.5"
    with pytest.raises(BnasError, match="latency_us is known only with a table"):
        cost.of("latency_us")


def test_limits_hold_one_by_one_and_the_message_names_those_exceeded() -> None:
    cost = Cost(1000, 6400, 50.0)
    assert Budget(macs_effective=1100).allows(cost)
    assert Budget().allows(cost)
    tight = Budget(macs_effective=1099, weight_bytes=25, macs_binary=6400)
    assert not tight.allows(cost)
    assert tight.load(cost) == 2.0
    with pytest.raises(
        BnasError,
        match="it is over the budget: macs_effective 1,100, allowed are 1,099; weight_bytes 50, allowed are 25",
    ):
        tight.check(cost, "it")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"macs_effective": 0}, "budget.macs_effective is 0.0; it must be a finite number above 0"),
        ({"weight_bytes": float("nan")}, "budget.weight_bytes is nan"),
        ({"latency_us": 10}, "budget.latency_us needs budget.latency_table, a file that `bnas profile` writes"),
        ({"macs": 10}, "unknown key 'macs'.*Did you mean 'macs_real'"),
    ],
)
def test_bad_budgets(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        strict.build(Budget, values)


@pytest.mark.parametrize("name", SIZES)
def test_the_cost_is_that_of_the_deployed_network_measured_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = spec_of(name, channels=8)
    inside = feasible(name, deployed)
    genotype = inside._space.random(np.random.default_rng(1))
    state = torch.get_rng_state()
    cost = inside.cost(genotype)
    assert torch.equal(state, torch.get_rng_state())
    whole = measure(inside._space.build(genotype, deployed), (1, 8, 8))
    assert (cost.macs_real, cost.macs_binary, cost.weight_bytes) == (
        whole.macs_real, whole.macs_binary, whole.weight_bytes,
    )  # fmt: skip
    assert cost.macs_effective > feasible(name).cost(genotype).macs_effective
    monkeypatch.setattr(inside._space, "build", None)
    assert inside.cost(genotype) == cost


@pytest.mark.parametrize("name", SIZES)
def test_a_genotype_drawn_keeps_the_budget_even_where_hardly_any_does(name: str) -> None:
    costs = costs_of_all(name, "macs_effective")
    for limit in (costs[len(costs) // 2], costs[0]):
        inside = feasible(name, macs_effective=limit)
        drawn = [inside.random(seeding.numpy_generator(seed, "x")) for seed in range(3)]
        assert all(inside.cost(genotype).macs_effective <= limit for genotype in drawn)
    assert drawn == [inside.random(seeding.numpy_generator(seed, "x")) for seed in range(3)]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("limited", ["macs_effective", "weight_bytes"])
def test_an_impossible_budget_names_the_cheapest_and_its_cost(name: str, limited: str) -> None:
    least = costs_of_all(name, limited)[0]
    inside = feasible(name, **{limited: least - 1})
    with pytest.raises(BnasError, match=r"no architecture of space \w+ was found within the budget") as caught:
        inside.random(np.random.default_rng(0))
    assert f"{limited} {least:,.0f}" in str(caught.value)
    assert "It is " in str(caught.value)


def test_draws_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = feasible("widths", macs_effective=1)
    drawn: list[int] = []
    sample = inside._space.random(np.random.default_rng(0))
    with pytest.raises(BnasError, match="The cheapest found costs"):
        inside.proposed(lambda: drawn.append(1) or sample, np.random.default_rng(0))  # type: ignore[func-returns-value]
    assert len(drawn) == RETRIES


def test_distinct_genotypes_within_a_budget_end_with_the_budgets_architectures() -> None:
    space = space_of("widths")
    costs = costs_of_all("widths", "macs_effective")
    inside = feasible("widths", macs_effective=costs[5])
    few = distinct_genotypes(space, 100, 0, "few", draw=inside.random)
    assert 2 <= len(few) <= sum(cost <= costs[5] for cost in costs)
    assert all(inside.allows(genotype) for genotype in few)


@pytest.mark.parametrize("name", SIZES)
def test_neighbours_differ_in_one_choice_or_one_kept_decision(name: str) -> None:
    space = make_space("bats", {"nodes": 2}) if name == "bats" else space_of(name)
    genotype = space.random(np.random.default_rng(3))
    found = list(neighbours(space, genotype))
    assert len({other.content_digest for other in found} | {genotype.content_digest}) == len(found) + 1
    for other in found:
        assert len(set(genotype.choices) - set(other.choices)) == 1
    if name == "widths":
        assert len(found) == 6


def test_repair_gives_up_the_least_score_for_the_cost_saved() -> None:
    space = space_of("widths")
    widest = space.genotype({decision.name: "x2" for decision in space.decisions})
    cost = feasible("widths").cost(widest).macs_effective
    inside = feasible("widths", macs_effective=0.999 * cost)
    indifferent, *keen = (decision.name for decision in reversed(space.decisions))
    scores = {indifferent: [0.0, 0.1], **{name: [0.0, 9.0] for name in keen}}
    repaired = inside.repaired(widest, scores)
    assert inside.allows(repaired)
    assert dict(set(widest.choices) - set(repaired.choices)) == {indifferent: "x2"}
    assert feasible("widths").repaired(widest, scores) == widest


def test_the_unit_of_costs_is_stated_by_the_space() -> None:
    assert {choice for _, choice in space_of("widths").reference().choices} == {"x1"}
    assert {choice for _, choice in make_space("group_mobilenet").reference().choices} == {"1"}


def test_a_budget_is_a_frozen_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget().macs_real = 1  # type: ignore[misc]
