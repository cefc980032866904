"""Random search: distinct candidates, the best one wins, bad options."""

import numpy as np
import pytest
import torch

from bnas.data import Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.space import NetSpec
from bnas.strategy import SearchTask, distinct_genotypes
from search_spaces import make_space
from strategies.random_search import RandomSearch, RandomSearchOptions


def _task() -> SearchTask:
    def batches(count: int) -> Batches:
        generator = torch.Generator().manual_seed(count)
        images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        images_with_labels = ImageSet(images, torch.arange(count) % 3)
        return Batches(images_with_labels, 8, seed=0, normalization=Normalization.of(images_with_labels))

    size = {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}
    spec = NetSpec((1, 8, 8), 3, "binary-activations", {}, size)
    return SearchTask(make_space("bats", {"nodes": 2}), spec, batches(24), batches(18), 0, torch.device("cpu"))


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


def test_precision_reaches_the_training() -> None:
    options = RandomSearchOptions(precision="bfloat16", samples=1, epochs=1)
    assert RandomSearch(_task(), options)._training.trainer.recipe.precision  # type: ignore[union-attr] == "bfloat16"
    with pytest.raises(BnasError, match="no precision named 'half'"):
        RandomSearchOptions(precision="half")


def test_kinds_of_steps_count_all_candidates_and_sample_some() -> None:
    search = RandomSearch(_task(), RandomSearchOptions(samples=6, epochs=2))
    # 24 training images in batches of 8, and 18 to judge by.
    assert [(kind.name, kind.count, kind.samples) for kind in search.step_kinds()] == [
        ("training", 6 * 6, 4),
        ("scoring", 6 * 3, 4),
    ]
    networks = []
    for sample in range(4):
        search.step_kinds()[0].start(sample)()
        networks.append(search._training.trainer.model)  # type: ignore[union-attr]
    assert len({sum(p.numel() for p in network.parameters()) for network in networks}) > 1


def test_drawn_genotypes_are_spread() -> None:
    space = make_space("bats", {"nodes": 2})
    first = [genotype.choices[0][1] for genotype in distinct_genotypes(space, 200, 0)]
    counts = np.array([first.count(op) for op in space.drawable(space.decisions[0])])
    assert counts.min() > 10
