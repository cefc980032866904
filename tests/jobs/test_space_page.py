"""What `bnas space` says of a space."""

import numpy as np
import pytest

from bnas.cost import measure
from bnas.feasible import extremes
from bnas.space import NetSpec
from experiments.space_page import describe_space
from search_spaces import make_space

SPEC = NetSpec((3, 8, 8), 5, "bats", {}, {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2})


def total(space_args: dict[str, int], genotype: object) -> float:
    space = make_space("bats", space_args)
    return measure(space.build(genotype, SPEC), SPEC.input_shape).macs_effective  # type: ignore[arg-type]


def test_extremes_bound_every_drawn_architecture() -> None:
    space = make_space("bats", {"nodes": 2})
    cheapest, dearest = (total({"nodes": 2}, genotype) for genotype in extremes(space, SPEC))
    rng = np.random.default_rng(0)
    drawn = [total({"nodes": 2}, space.random(rng)) for _ in range(20)]
    assert cheapest <= min(drawn)
    assert dearest >= max(drawn)
    assert cheapest < dearest


def test_the_page_holds_counts_decisions_and_costs() -> None:
    space = make_space("bats")
    page = describe_space(space, SPEC, SPEC)
    assert page["architectures"] == space.count()
    assert len(page["decisions"]) == 28
    assert page["decisions"][0]["keeps"] == "2 of 2"
    assert page["never_derived"] == ["zero"]
    assert page["real_layers"] == ["classifier", "stem"]
    assert page["costs"]["cheapest"]["macs_effective"] < page["costs"]["dearest"]["macs_effective"]
    assert page["costs"]["cheapest"]["macs_effective"] == pytest.approx(total({}, extremes(space, SPEC)[0]))
