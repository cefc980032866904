"""What every strategy must satisfy on every space; entries join by being in the tables."""

import copy
import functools
import random
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from bnas import checkpoint
from bnas.budget import Budget, Costs
from bnas.data import Batches, ImageSet, Normalization
from bnas.space import NetSpec, SearchSpace
from bnas.strategy import SearchTask, Strategy
from search_spaces import SPACES, make_space
from search_spaces.bats import Bats
from strategies import STRATEGIES

# A few rounds each, of a few steps.
OPTIONS: dict[str, dict[str, Any]] = {
    "darts": {"epochs": 2, "round_steps": 2, "alpha_warmup": 0.3, "alpha_learning_rate": 0.05},
    "evolution": {
        "epochs": 1,
        "round_steps": 2,
        "population": 3,
        "generations": 2,
        "selection_size": 2,
        "round_candidates": 2,
        "score_images": 8,
        "recalibration_batches": 1,
    },
    "child_parent": {"drop": 7, "repeats": 1, "draw_steps": 1, "round_steps": 1, "score_images": 8},
    "abandon": {"repeats": 1, "draw_steps": 1, "round_steps": 3, "score_images": 8, "warmup_epochs": 1},
    "random": {"samples": 2, "epochs": 1, "round_steps": 2},
    "successive_halving": {"samples": 2, "eta": 2, "epochs": 1, "round_steps": 3},
}
SIZES: dict[str, Mapping[str, Any]] = {
    "bats": {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2},
    "bnas_gist": {"cells": 3, "channels": 4},
    "cp_nas": {"cells": 3, "channels": 4},
    "bnas_beihang": {"cells": 3, "channels": 4, "partial_channels": 1},
    "darts": {"cells": 3, "channels": 4},
    "widths": {"channels": 4},
    "group_mobilenet": {"stem": "imagenet"},
    "fixed": {"channels": 2, "blocks": 1},
}
ARGS: dict[str, Mapping[str, Any]] = {name: {"nodes": 2} for name in SIZES} | {
    "widths": {"network": "vgg_small", "ratios": [0.5, 1, 2]},
    "group_mobilenet": {"layers": [2, 2], "groups": [1, 2, 4], "group_channels": 1, "channels": 4},
    "fixed": {"networks": ["resnet20", "binary_densenet28", "meliusnet_a"]},
    # Twice as many convolutions an edge; the other cells have edges that compete.
    "darts": {"nodes": 1},
}
# Their records describe the candidate at hand, not the answer so far.
BY_CANDIDATE = ("random", "successive_halving")
# More than a space of 16 architectures has.
BEYOND: dict[str, dict[str, Any]] = {
    "evolution": {"population": 20, "generations": 4},
    "random": {"samples": 100, "epochs": 1, "round_steps": 3},
    "successive_halving": {"samples": 100, "eta": 16},
}
PAIRS = [(strategy, space) for strategy in STRATEGIES for space in SPACES]


def image_set(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 3)


class Few(Bats):
    """One node and two operations to derive."""

    ops = ("identity", "max_pool_3x3", "zero")

    def __init__(self) -> None:
        super().__init__(nodes=1)


def spec_of(space: str) -> NetSpec:
    return NetSpec((1, 8, 8), 3, "binary-activations", {}, SIZES[space])


def make(strategy: str, space: str | SearchSpace, seed: int = 0, **changes: Any) -> Strategy:
    train, val = image_set(24, 1), image_set(18, 2)
    normalization = Normalization.of(train)
    batches = [
        Batches(images, 8, seed=seed, normalization=normalization, purpose=purpose)
        for images, purpose in ((train, "train"), (val, "val"))
    ]
    rules = make_space(space, ARGS[space]) if isinstance(space, str) else space
    task = SearchTask(rules, spec_of(rules.name), *batches, seed, torch.device("cpu"))
    entry = STRATEGIES[strategy]
    return entry.make(task, entry.options(**{**OPTIONS[strategy], **changes}))


def finish(search: Strategy) -> list[Mapping[str, Any]]:
    records = []
    while search.rounds_done < search.rounds_total:
        before = search.rounds_done
        records.append(search.run_round())
        assert search.rounds_done == before + 1
    return records


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_every_entry_is_covered() -> None:
    assert set(OPTIONS) == set(STRATEGIES)
    assert set(SIZES) == set(ARGS) == set(SPACES)


class Finished(NamedTuple):
    """A search that nobody changes, and whether global generators are as they were before it."""

    search: Strategy
    records: list[Mapping[str, Any]]
    untouched: bool


def global_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]


@functools.cache
def finished(strategy: str, space: str) -> Finished:
    before = global_states()
    search = make(strategy, space)
    records = finish(search)
    search.derive()
    return Finished(search, records, global_states() == before)


@pytest.mark.parametrize(("strategy", "space"), PAIRS)
def test_rounds_end_in_a_genotype_of_the_space(strategy: str, space: str) -> None:
    search, records, _ = finished(strategy, space)
    assert len(records) == search.rounds_total > 1
    rules = make_space(space, ARGS[space])
    rules.check(search.derive())
    for record in records:
        rules.genotype(record["genotype"])
        assert record["samples"] > 0
    assert dict(search.derive().choices) == records[-1]["genotype"] or strategy in BY_CANDIDATE


@pytest.mark.parametrize(("strategy", "space"), PAIRS)
def test_global_generators_are_left_as_they_were(strategy: str, space: str) -> None:
    assert finished(strategy, space).untouched


@pytest.mark.parametrize(("strategy", "space"), PAIRS)
def test_another_seed_another_path(strategy: str, space: str) -> None:
    assert make(strategy, space, seed=1).run_round() != finished(strategy, space).records[0]


@pytest.mark.parametrize(("strategy", "space"), PAIRS)
def test_same_seed_same_answer_also_when_continued_in_other_objects(strategy: str, space: str, tmp_path: Path) -> None:
    whole, records, _ = finished(strategy, space)
    last = whole.rounds_total - 1
    part, done = make(strategy, space), list[Mapping[str, Any]]()
    for stop in sorted({1, (last + 1) // 2, last}):
        while part.rounds_done < stop:
            done.append(part.run_round())
        checkpoint.save(tmp_path / "c", {"state": part.state_dict()}, kind="search")
        part = make(strategy, space)
        part.load_state_dict(checkpoint.load(tmp_path / "c", kind="search")["state"])
        assert part.rounds_done == stop
    assert [*done, *finish(part)] == records
    assert part.derive() == whole.derive()
    assert same(part.state_dict(), whole.state_dict())


GATES: dict[str, dict[str, Any]] = {
    "gumbel": {"gates": "gumbel"},
    "straight_through": {"gates": "straight-through"},
    "second_order": {"order": "second"},
}


@functools.cache
def plain_round(space: str) -> Mapping[str, Any]:
    return make("darts", space, epochs=1, round_steps=1, alpha_warmup=0.0).run_round()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", GATES)
def test_darts_goes_on_the_same_with_every_kind_of_gates(kind: str, space: str) -> None:
    competing = any(decision.group for decision in make_space(space, ARGS[space]).decisions)
    options = {**GATES[kind], "edge_normalization": competing, "epochs": 1, "round_steps": 1, "alpha_warmup": 0.0}
    whole, fresh = make("darts", space, **options), make("darts", space, **options)
    first = whole.run_round()
    assert first != plain_round(space)
    make_space(space, ARGS[space]).genotype(first["genotype"])
    fresh.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert fresh.run_round() == whole.run_round()
    assert same(fresh.state_dict(), whole.state_dict())


@pytest.mark.parametrize(("strategy", "space"), PAIRS)
def test_shared_weights_fit_the_built_network_where_there_are_any(strategy: str, space: str) -> None:
    search = finished(strategy, space).search
    weights = search.weights_for(search.derive())
    if weights is not None:
        make_space(space, ARGS[space]).build(search.derive(), spec_of(space)).load_state_dict(weights)


@pytest.mark.parametrize(("strategy", "space"), PAIRS)
def test_kinds_of_steps_are_real_steps(strategy: str, space: str) -> None:
    options = {key: value for key, value in OPTIONS[strategy].items() if key != "round_steps"}
    kinds = make(strategy, space, **options).step_kinds()
    assert sum(kind.count for kind in kinds) > 1
    for kind in kinds:
        assert set(kind.keys) <= {field.name for field in fields(STRATEGIES[strategy].options)}
        spent = make(strategy, space)
        (same_kind,) = [other for other in spent.step_kinds() if other.name == kind.name]
        for sample in range(kind.samples):
            step = same_kind.start(sample)
            # The first sample more often than the kind is done at these sizes.
            for _ in range(1 if sample else kind.count + 1):
                step()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_beyond_the_space_ends(strategy: str) -> None:
    """A space of 16 architectures and a strategy that could have 100."""
    search = make(strategy, Few(), **BEYOND.get(strategy, {}))
    assert Few().count() == 16
    if strategy == "random":
        assert search.rounds_total == 16
    finish(search)


LIMITED = [
    (strategy, space) for strategy, space in PAIRS if "budget" in {f.name for f in fields(STRATEGIES[strategy].options)}
]


@functools.cache
def costs_of(space: str) -> Costs:
    return Costs(make_space(space, ARGS[space]), spec_of(space))


@pytest.mark.parametrize(("strategy", "space"), LIMITED)
def test_a_budget_is_kept(strategy: str, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, costs = make_space(space, ARGS[space]), costs_of(space)

    def measured(rules: SearchSpace, spec: NetSpec, latency: Any) -> Costs:
        assert (spec, latency) == (spec_of(space), None)
        return costs

    # Once for all strategies.
    monkeypatch.setattr("bnas.feasible.Costs", measured)
    drawn = [rules.random(np.random.default_rng(seed)) for seed in range(4)]
    limit = sorted(costs.of(genotype).macs_effective for genotype in drawn)[1]
    weighed = {"cost_weight": 0.1} if strategy == "child_parent" else {}
    search = make(strategy, space, budget=Budget(macs_effective=limit), **weighed)
    records = finish(search)
    assert costs.of(search.derive()).macs_effective <= limit
    for record in records:
        assert costs.of(rules.genotype(record["genotype"])).macs_effective <= limit
