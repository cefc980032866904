"""Every estimator against the same formula in NumPy, on a grid that holds the edges of each window."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bnas.binary.anneal import Annealed
from bnas.binary.annealed_estimators import ErrorDecay, Fourier, Power
from bnas.binary.basis import Basis, BelowTop
from bnas.binary.estimators import Box, Estimator, Identity, Polynomial, Range, SignSwish, Triangle, passed, surrogate

EDGES = [0.0, 0.1, 0.3, 0.5, 1.0, 1.25, 1.3, 1.349, 1.5, 1.614, 2.0, 20.0]
GRID = np.unique(
    [s * np.nextafter(e, t) if n else s * e for e in EDGES for s in (-1, 1) for n in (0, 1) for t in (-30, 30)]
)


def ede(u: Any, share: float) -> Any:
    t = 10 ** (-1 + 2 * share)
    return max(1 / t, 1) * t / np.cosh(np.clip(t * u, -300, 300)) ** 2


def power(u: Any, share: float) -> Any:
    o = 1 + 2 * (1 - math.cos(math.pi * share / 2))
    size = np.abs(u)
    middle = 0.1 ** (1 / o) / 0.1
    with np.errstate(divide="ignore"):
        return np.where(size > 1.5, 0, np.where(size <= 0.1, middle, size ** (1 / o - 1) / o))


def fourier(u: Any, share: float) -> Any:
    terms = np.arange(round(9 + 9 * share) + 1)
    return np.where(np.abs(u) > 1, 0, 0.4 / math.pi * np.cos(np.outer(u, 0.1 * (2 * terms + 1))).sum(axis=1))


def swish(u: Any, share: float) -> Any:
    logistic = 1 / (1 + np.exp(-5 * u))
    # The second derivative form: d/du of 2 s (1 + 5 u (1 - s)) - 1.
    return 2 * 5 * logistic * (1 - logistic) * (2 + 5 * u * (1 - 2 * logistic))


CASES: dict[str, tuple[Callable[[], Estimator], Callable[[Any, float], Any]]] = {
    "identity": (Identity, lambda u, share: np.ones_like(u)),
    "box": (Box, lambda u, share: (np.abs(u) <= 1) * 1.0),
    "strict box": (lambda: Box(1.0, strict=True), lambda u, share: (np.abs(u) < 1) * 1.0),
    "wide box": (lambda: Box(1.3), lambda u, share: (np.abs(u) <= 1.3) * 1.0),
    "range": (lambda: Range(0.0, 1.0), lambda u, share: ((u >= 0) & (u <= 1)) * 1.0),
    "open range": (lambda: Range(0.0, 1.614, open_low=True), lambda u, share: ((u > 0) & (u <= 1.614)) * 1.0),
    "polynomial": (Polynomial, lambda u, share: np.maximum(0, 2 - 2 * np.abs(u))),
    "triangle": (Triangle, lambda u, share: np.maximum(0, 1 - np.abs(u))),
    "swish": (SignSwish, swish),
    "error decay": (ErrorDecay, ede),
    "power": (Power, power),
    "fourier": (Fourier, fourier),
    "below top": (
        lambda: BelowTop(Basis(1, None, signed=False, ridge=0.0)),
        lambda u, share: (u < np.float32(1.349)) * 1.0,
    ),
}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_numpy_at_and_beside_every_edge(name: str, share: float) -> None:
    made, formula = CASES[name]
    estimator = made()
    if isinstance(estimator, Annealed):
        estimator.set_progress(share)
    u = torch.tensor(GRID, dtype=torch.float64, requires_grad=True)
    value = torch.zeros_like(u)
    surrogate(u, value, estimator).backward(torch.full_like(u, 2.0))
    assert u.grad is not None
    np.testing.assert_allclose(u.grad.numpy(), 2 * formula(GRID, share), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "box", [Box(1.3, strict) for strict in (True, False)] + [Box(0.1), Box(1.0, strict=True)], ids=str
)
def test_the_box_in_one_pass_is_its_formula_in_every_type(box: Box, dtype: torch.dtype) -> None:
    limit = torch.tensor(box.limit, dtype=dtype)
    ends = (
        [torch.nextafter(limit, torch.tensor(end, dtype=dtype)) for end in (0.0, 9.0)] if dtype != torch.float16 else []
    )
    u = torch.stack([limit, limit / 2, limit * 2, torch.zeros_like(limit), *ends])
    u = torch.cat([u, -u])
    g = torch.arange(1, len(u) + 1, dtype=dtype)
    assert torch.equal(passed(g, u, box), g * box.derivative(u))
