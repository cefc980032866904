"""The gradient of every PRE against the same formula in NumPy, at, beside and between the edges of its windows."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnas.binary import pre

EDGES = [0.0, 0.5, 1.0, 2.5]
LINE = np.unique(
    [s * v for s in (-1, 1) for e in EDGES for v in (e, np.nextafter(e, 9), np.nextafter(e, -9), e + 0.21)]
)
# Filters [O, I, kh, kw] whose weights are no edge.
WEIGHTS = np.random.default_rng(5).normal(size=(3, 4, 3, 2))
FILTER = (1, 2, 3)


def standardized(x: Any, g: Any, less: int, eps: float) -> Any:
    n = x[0].size
    away = x - x.mean(FILTER, keepdims=True)
    s = np.sqrt((away**2).sum(FILTER, keepdims=True) / (n - less) + eps)
    return (g - g.mean(FILTER, keepdims=True)) / s - away / s**3 / (n - less) * (g * away).sum(FILTER, keepdims=True)


def divided(x: Any, g: Any) -> Any:
    n = x[0].size
    away = x - x.mean(FILTER, keepdims=True)
    s = np.sqrt((away**2).sum(FILTER, keepdims=True) / (n - 1) + 1e-5)
    return g / s - away / s**3 / (n - 1) * (g * x).sum(FILTER, keepdims=True)


def bent(x: Any, g: Any, through_max: bool) -> Any:
    b = np.tanh(x)
    largest = np.abs(b).max()
    found = g * (1 - b**2) / largest
    if through_max:
        at = np.unravel_index(np.abs(b).argmax(), b.shape)
        found[at] -= (1 - b[at] ** 2) * np.sign(b[at]) * (g * b).sum() / largest**2
    return found


def revived(x: Any, g: Any) -> Any:
    away = x - x.mean(FILTER, keepdims=True)
    wide = 2 * math.sqrt(2) * away / np.sqrt((away**2).sum(FILTER, keepdims=True) / (x[0].size - 1) + 1e-5)
    limit = -np.abs(wide).mean() * math.log(2 - 2 * 0.85)
    assert (np.abs(wide) > limit).any()
    return 2 * math.sqrt(2) * standardized(x, g * (np.abs(wide) < limit), 1, 1e-5)


def within(low: float, high: float) -> Callable[[Any, Any], Any]:
    return lambda x, g: g * ((x >= low) & (x <= high))


CASES: dict[str, tuple[Any, Any, Callable[[Any, Any], Any]]] = {
    "unchanged": (pre.unchanged, LINE, lambda x, g: g),
    "rectify": (pre.rectify, LINE, within(0, math.inf)),
    "clip_unit": (pre.clip_unit, LINE, within(-1, 1)),
    "clip between": (pre.ClipBetween(0.0, 2.5), LINE, within(0, 2.5)),
    "clip from below": (pre.ClipBetween(-0.5), LINE, within(-0.5, math.inf)),
    "sharpen": (pre.Sharpen(3.0, 9.0), LINE, lambda x, g: g * 3 / np.cosh(3 * x) ** 2),
    "centre": (pre.centre, WEIGHTS, lambda x, g: g - g.mean(1, keepdims=True)),
    "standardize": (pre.standardize, WEIGHTS, lambda x, g: standardized(x, g, 1, 0.0)),
    "standardize, biased": (pre.standardize_biased, WEIGHTS, lambda x, g: standardized(x, g, 0, 0.0)),
    "divide": (pre.divide_by_deviation, WEIGHTS, divided),
    "tanh over a constant": (pre.TanhOverMax(False), WEIGHTS, lambda x, g: bent(x, g, False)),
    "tanh over max": (pre.TanhOverMax(True), WEIGHTS, lambda x, g: bent(x, g, True)),
    "revive": (pre.Revive(), WEIGHTS, revived),
}


def gradients(function: Any, x: Any, g: Any) -> Any:
    """That of x; those of the function's parameters are in them."""
    leaf = torch.tensor(x, requires_grad=True)
    function(leaf).backward(torch.tensor(g))
    assert leaf.grad is not None
    return leaf.grad.numpy()


def drawn(x: Any) -> Any:
    return np.random.default_rng(6).normal(size=x.shape)


@pytest.mark.parametrize("name", CASES)
def test_to_x(name: str) -> None:
    function, x, formula = CASES[name]
    function = function.double() if isinstance(function, nn.Module) else function
    g = drawn(x)
    np.testing.assert_allclose(gradients(function, x, g), formula(x, g), rtol=1e-9, atol=1e-12)


def test_of_a_learned_clip_to_x_and_to_its_end() -> None:
    clip, g = pre.ClipTo(2.5).double(), drawn(LINE)
    np.testing.assert_array_equal(gradients(clip, LINE, g), g * ((LINE >= 0) & (LINE < 2.5)))
    np.testing.assert_allclose(clip.high.grad, g[LINE >= 2.5].sum(), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_of_soft_stairs_to_x_and_to_all_that_they_learn(steps: int) -> None:
    low, high, a = -0.5, 2.5, 0.25
    stairs = pre.SoftStairs(steps, low, high, a).double()
    x, g = LINE, drawn(LINE)
    width, steep, inside = (high - low) / steps, math.log(2 / a - 1), np.clip(x, low, high)
    interval = np.clip(np.floor((inside - low) / width), 0, steps - 1)
    middle = low + (interval + 0.5) * width
    z = steep / width * (inside - middle)
    phi, bell = np.tanh(z) / (1 - a), 1 / np.cosh(z) ** 2 / (1 - a)
    to_inside = width / 2 * bell * steep / width
    np.testing.assert_allclose(gradients(stairs, x, g), g * to_inside * ((x >= low) & (x <= high)), atol=1e-12)
    # By the width, which low and high change by -1 / steps and 1 / steps; by the place of the first step; by the bound itself.
    to_width = interval + (phi + 1) / 2 - bell * (z / 2 + steep / 2 * (interval + 0.5))
    to_low = 1 - to_inside - to_width / steps + (x < low) * to_inside
    to_high = to_width / steps + (x > high) * to_inside
    to_a = width / 2 * (np.tanh(z) / (1 - a) ** 2 - bell * (inside - middle) / width * (2 / a**2) / (2 / a - 1))
    for learned, formula in ((stairs.low, to_low), (stairs.high, to_high), (stairs.sharpness, to_a)):
        np.testing.assert_allclose(learned.grad, (g * formula).sum(), rtol=1e-9)


def test_every_pre_is_here() -> None:
    here = {id(function) for function, _, _ in CASES.values()} | {type(function) for function, _, _ in CASES.values()}
    # Shift adds a constant, Rotate moves numbers (test_binary_part_vectors), a protocol is nothing that runs.
    others = {pre.Shift, pre.Rotate, pre.ClipTo, pre.SoftStairs, pre.Pre}
    functions = [f for f in pre.FORMULAS if f is not pre.centre_and_clip]
    classes = [v for v in vars(pre).values() if isinstance(v, type) and v.__module__ == pre.__name__]
    assert all(id(function) in here for function in functions)
    assert set(classes) - others <= here
