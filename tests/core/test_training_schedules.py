import math
from itertools import pairwise

import pytest

from bnas.training.recipe import Recipe
from bnas.training.schedules import SHAPES, anneal, drop_path, learning_rate, progress, warmup_steps

COSINE = Recipe(learning_rate=0.4, learning_rate_end=0.1)


def test_a_cosine_starts_at_its_peak_and_arrives_at_its_end():
    assert learning_rate(COSINE, 0, 10) == pytest.approx(0.4)
    assert learning_rate(COSINE, 5, 10) == pytest.approx(0.25)
    assert learning_rate(COSINE, 10, 10) == pytest.approx(0.1)


def test_no_update_of_a_cosine_to_zero_has_a_rate_of_zero():
    assert learning_rate(Recipe(), 599, 600) > 0
    assert learning_rate(Recipe(), 600, 600) == 0


def test_a_constant_rate_ignores_the_end():
    recipe = Recipe(learning_rate=0.4, learning_rate_end=0.1, schedule="constant")
    assert {learning_rate(recipe, step, 10) for step in range(11)} == {0.4}


def test_warm_up_rises_linearly_to_the_peak_and_the_cosine_takes_the_rest():
    recipe = Recipe(learning_rate=1.0, warmup_fraction=0.3)
    rates = [learning_rate(recipe, step, 10) for step in range(11)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx((1 + math.cos(math.pi / 7)) / 2)
    assert rates[10] == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in pairwise(rates[3:]))


def test_warm_up_leaves_a_step_for_the_schedule():
    assert warmup_steps(Recipe(warmup_fraction=0.9), 2) == 1
    assert warmup_steps(Recipe(warmup_fraction=0.9), 1) == 0
    assert learning_rate(Recipe(learning_rate=1.0, warmup_fraction=0.9), 0, 1) == 1.0


def test_drop_path_rises_linearly():
    recipe = Recipe(drop_path=0.2)
    assert [drop_path(recipe, step, 4) for step in range(5)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_starts_at_its_start_and_ends_at_its_end(shape):
    assert anneal(0.0, 2.0, 0.5, shape) == pytest.approx(2.0)
    assert anneal(1.0, 2.0, 0.5, shape) == pytest.approx(2.0 if shape == "constant" else 0.5)


def test_the_middle_tells_the_shapes_apart():
    middles = [anneal(0.25, 2.0, 0.5, shape) for shape in SHAPES]
    cosine = 0.5 + 1.5 * (1 + math.cos(math.pi / 4)) / 2
    assert middles == pytest.approx([2.0, 1.625, cosine, 2.0 * 0.25**0.25])


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="step 11 of 10"):
        progress(11, 10)
    with pytest.raises(ValueError, match="step -1 of 10"):
        learning_rate(COSINE, -1, 10)
    with pytest.raises(ValueError, match="step 0 of 0"):
        progress(0, 0)
    with pytest.raises(ValueError, match=r"needs values above 0; found 1\.0 and 0\.0"):
        anneal(0.5, 1.0, 0.0, "exponential")
    with pytest.raises(ValueError, match="no shape of a schedule named 'square'"):
        anneal(0.5, 1.0, 0.0, "square")
