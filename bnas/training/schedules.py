"""Learning rate, drop-path and annealed scalars as pure functions of the step.

One convention for all: step s of a training of T steps has made the share s / T of its way. The value that a schedule
arrives at belongs to step T, one after the last update; the last update itself is one step short of it, so that a
cosine to 0 spends no update on a learning rate of 0.
"""

import math

from bnas.training.recipe import Recipe

SHAPES = ("constant", "linear", "cosine", "exponential")


def progress(step: int, total_steps: int) -> float:
    """step / total_steps, in [0, 1]; `ValueError` outside."""
    if not 0 <= step <= total_steps or total_steps < 1:
        raise ValueError(f"step {step} of {total_steps}")
    return step / total_steps


def anneal(share: float, start: float, end: float, shape: str) -> float:
    """From `start` at share 0 to `end` at share 1, in one of `SHAPES`.

    linear: start + (end - start) p; cosine: end + (start - end) (1 + cos(pi p)) / 2; exponential:
    start (end / start)^p, for values above 0; constant: start.
    """
    if shape == "constant":
        return start
    if shape == "linear":
        return start + (end - start) * share
    if shape == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
    if shape != "exponential":
        raise ValueError(f"no shape of a schedule named {shape!r}; there are: {', '.join(SHAPES)}")
    if start <= 0 or end <= 0:
        raise ValueError(f"an exponential schedule needs values above 0; found {start} and {end}")
    return float(start * (end / start) ** share)


def warmup_steps(recipe: Recipe, total_steps: int) -> int:
    """Number of steps before the learning rate reaches its peak; at least one is left for the schedule."""
    return min(round(recipe.warmup_fraction * total_steps), total_steps - 1)


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """The learning rate of update `step` (from 0).

    Warm-up of w steps: peak (s + 1) / (w + 1), so that the line starts from 0 just before the first update and reaches
    the peak at step w. Then `recipe.schedule` over the remaining steps.
    """
    progress(step, total_steps)
    warmup = warmup_steps(recipe, total_steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / (total_steps - warmup)
    return anneal(share, recipe.learning_rate, recipe.learning_rate_end, recipe.schedule)


def drop_path(recipe: Recipe, step: int, total_steps: int) -> float:
    """The drop-path probability of update `step`: linear from 0 to `recipe.drop_path`."""
    return anneal(progress(step, total_steps), 0.0, recipe.drop_path, "linear")
