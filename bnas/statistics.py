"""What a few numbers allow to be said: mean and spread, the interval of a paired difference, rank correlation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnas import seeding

# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom (any statistics textbook); beyond, the last one, which
# is a little wide.
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
# With fewer pairs no interval is worth a word.
FEWEST_PAIRS = 4
PERMUTATIONS = 2000


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1); the deviation of a single number is NaN."""

    mean: float
    deviation: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation of at least one number."""
    array = np.asarray(values, dtype=np.float64)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    return Spread(float(array.mean()), deviation, len(array))


@dataclass(frozen=True)
class Difference:
    """Mean of a[i] - b[i] and its 95 % interval; `verdict`: better, worse, not told apart, or too few pairs."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def verdict(self) -> str:
        if self.count < FEWEST_PAIRS:
            return "too few seeds"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not told apart"


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference of paired numbers (same seed, same data, same recipe): mean +- t deviation / sqrt(n).

    Pairs take out what both members share, so that the interval is narrower than that of two separate means. The interval
    of a single pair is infinite. Differences that are all equal have an interval of width 0.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"pairs are needed; found {len(a)} and {len(b)} numbers")
    found = spread([x - y for x, y in zip(a, b, strict=True)])
    if found.count == 1:
        return Difference(found.mean, -math.inf, math.inf, 1)
    quantile = _T_975[min(found.count - 1, len(_T_975)) - 1]
    half = quantile * found.deviation / math.sqrt(found.count)
    return Difference(found.mean, found.mean - half, found.mean + half, found.count)


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b and the share of random orders that are as far from 0 (two-sided)."""

    tau: float
    p_value: float
    count: int


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b: (concordant - discordant pairs) / sqrt(pairs untied in a * pairs untied in b); NaN where one is 0.

    Kendall 1945: the form for ties. 1: the same order; 0: no relation; -1: the reverse.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"at least two pairs are needed; found {len(a)} and {len(b)} numbers")
    upper = np.triu_indices(len(a), 1)
    signs = [np.sign(np.subtract.outer(values, values))[upper] for values in (np.asarray(a), np.asarray(b))]
    untied = math.sqrt(float(np.abs(signs[0]).sum()) * float(np.abs(signs[1]).sum()))
    return float((signs[0] * signs[1]).sum()) / untied if untied else math.nan


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> RankCorrelation:
    """`kendall_tau` with a permutation test of 2,000 orders from a fixed seed."""
    tau = kendall_tau(a, b)
    if math.isnan(tau):
        return RankCorrelation(tau, math.nan, len(a))
    rng = seeding.numpy_generator(0, "rank-correlation")
    as_far = sum(abs(kendall_tau(a, rng.permutation(b).tolist())) >= abs(tau) - 1e-12 for _ in range(PERMUTATIONS))
    return RankCorrelation(tau, (as_far + 1) / (PERMUTATIONS + 1), len(a))
