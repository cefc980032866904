"""Random search: distinct candidates, the best one wins, bad options."""

import numpy as np
import pytest

from bnas.errors import BnasError
from bnas.strategy import distinct_genotypes
from search_spaces import make_space
from strategies.random_search import RandomSearchOptions


def test_candidates_are_distinct_under_the_symmetries_and_fixed_by_the_seed() -> None:
    space = make_space("bats", {"nodes": 2})
    drawn = distinct_genotypes(space, 50, 3, "x")
    assert len({space.digest(genotype) for genotype in drawn}) == 50
    assert drawn == distinct_genotypes(space, 50, 3, "x")
    assert drawn != distinct_genotypes(space, 50, 4, "x")
    assert drawn[:20] == distinct_genotypes(space, 20, 3, "x")


@pytest.mark.parametrize("name", ["samples", "epochs", "learning_rate"])
def test_bad_options(name: str) -> None:
    with pytest.raises(BnasError, match=f"{name} is 0"):
        RandomSearchOptions(**{name: 0})  # type: ignore[arg-type]


def test_drawn_genotypes_are_spread() -> None:
    space = make_space("bats", {"nodes": 2})
    first = [genotype.choices[0][1] for genotype in distinct_genotypes(space, 200, 0)]
    counts = np.array([first.count(op) for op in space.drawable(space.decisions[0])])
    assert counts.min() > 10
