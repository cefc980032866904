"""The latency term of DARTS against sums over a table of made-up times, and the hard budget of its answer."""

import numpy as np
import pytest
import torch

from bnas import seeding
from bnas.budget import Budget
from bnas.errors import BnasError
from bnas.feasible import Feasible
from bnas.latency import LatencyTable, TableLatency, Timing, operations, packed_for
from bnas.space import Gates, NetSpec, soft_gates
from search_spaces import make_space
from strategies.darts_options import DartsOptions
from strategies.expected_cost import ExpectedLatency
from tests.search.test_darts_options import contract, darts

SPACE = make_space("bats", {"nodes": 1})
SPEC = NetSpec((1, 8, 8), 3, "bats", {}, {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def feasible(tmp_path_factory: pytest.TempPathFactory) -> Feasible:
    """Every operation that some genotypes need, timed by the numbers in its tensors."""
    rows = {}
    generator = np.random.default_rng(0)
    for choice in SPACE.ops[:-1]:
        genotype = SPACE.genotype({decision.name: choice for decision in SPACE.decisions})
        with seeding.borrowed(0, "network"):
            packed = packed_for(SPACE.build(genotype, SPEC), SPEC)
        for key, _ in operations(packed):
            rows.setdefault(key, Timing(float(generator.integers(1, 100)), 0.0, 3))
    path = tmp_path_factory.mktemp("table") / "table.json"
    LatencyTable(rows, {}).save(path)
    train, val = (
        contract.Batches(
            contract.image_set(16, 1), 8, seed=0, normalization=contract.Normalization.of(contract.image_set(16, 1))
        )
        for _ in range(2)
    )
    task = contract.SearchTask(SPACE, SPEC, train, val, 0, CPU)
    return Feasible(task, Budget(latency_table=str(path)))


def test_one_architecture_is_expected_to_take_what_the_table_says(feasible: Feasible) -> None:
    expected = ExpectedLatency(SPACE, feasible, CPU, 1.0, Gates({}))
    assert feasible.budget.latency_table is not None
    table = TableLatency(feasible.budget.latency_table, SPEC)
    for seed in range(3):
        genotype = SPACE.random(np.random.default_rng(seed))
        with seeding.borrowed(0, "network"):
            network = SPACE.build(genotype, SPEC)
        assert expected(SPACE.gates(genotype)).item() == pytest.approx(table(network), abs=0.01)


def test_gates_weigh_it_and_get_its_gradient(feasible: Feasible) -> None:
    even = {d.name: torch.full((len(d.choices),), 1 / len(d.choices), requires_grad=True) for d in SPACE.decisions}
    expected = ExpectedLatency(SPACE, feasible, CPU, 0.0, soft_gates(SPACE.decisions, even))
    value = expected(soft_gates(SPACE.decisions, even))
    assert value.item() == pytest.approx(1.0)
    value.backward()
    decision = SPACE.decisions[0]
    gradient = even[decision.name].grad
    assert gradient is not None
    times = []
    for choice in ("group_conv_3x3", "max_pool_3x3"):
        gates = SPACE.gates(SPACE.reference())
        times.append(expected(Gates({**gates.active, decision.name: (choice,)})).item())
    assert (gradient[0] - gradient[5]).item() == pytest.approx(times[0] - times[1], rel=1e-4)
    assert gradient[decision.choices.index("zero")].item() == 0.0


def test_latency_needs_a_table() -> None:
    with pytest.raises(BnasError, match=r"cost latency needs budget.latency_table, a file that `bnas profile` writes"):
        DartsOptions(cost="latency")
    with pytest.raises(BnasError, match="cost"):
        DartsOptions(cost="joules")


def test_an_impossible_budget_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(BnasError, match="no architecture of space widths was found within the budget"):
        darts("widths", budget=Budget(macs_effective=1))
