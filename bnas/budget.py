"""Hard budgets of a search, and what a genotype costs as the network that it will be deployed as."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bnas import seeding
from bnas.cost import BINARY_MACS_PER_REAL, measure_made
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.options import check_number
from bnas.space import NetSpec, SearchSpace

# What budgets limit and costs are weighed by. Of one image, in these units.
COSTS = ("macs_real", "macs_binary", "macs_effective", "weight_bytes", "latency_us")


@dataclass(frozen=True)
class Cost:
    """What one network costs, for one image.

    Multiply-accumulates with real and with binary weights, bytes of its weights as packed (one bit a binary weight),
    and, where there is a table of measured steps, microseconds.
    """

    macs_real: int
    macs_binary: int
    weight_bytes: float
    latency_us: float | None = None

    @property
    def macs_effective(self) -> float:
        """real + binary / 64."""
        return self.macs_real + self.macs_binary / BINARY_MACS_PER_REAL

    def of(self, name: str) -> float:
        """The cost of that name, one of `COSTS`."""
        value = getattr(self, name)
        if value is None:
            raise BnasError(f"{name} is known only with a table of measured steps (latency_table)")
        return float(value)

    def to_dict(self) -> dict[str, float]:
        """By name, without what is not known."""
        return {name: getattr(self, name) for name in COSTS if getattr(self, name) is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name} {_shown(value)}" for name, value in self.to_dict().items())


def _limit(help: str) -> Any:
    return field(default=None, metadata={"help": help})


@dataclass(frozen=True)
class Budget:
    """Upper limits for one image through the network that the found architecture is deployed as; null: no limit."""

    macs_real: float | None = _limit("real multiply-accumulates")
    macs_binary: float | None = _limit("binary multiply-accumulates")
    macs_effective: float | None = _limit("real + binary / 64 multiply-accumulates")
    weight_bytes: float | None = _limit("bytes of the weights, one bit a binary weight")
    latency_us: float | None = _limit("microseconds, summed from latency_table")
    latency_table: str | None = _limit("a file that `bnas profile` writes: measured steps")

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            check_number(f"budget.{name}", limit, above=0)
        if self.latency_us is not None and self.latency_table is None:
            raise BnasError("budget.latency_us needs budget.latency_table, a file that `bnas profile` writes")

    @property
    def limits(self) -> dict[str, float]:
        """What is limited, by name."""
        return {name: getattr(self, name) for name in COSTS if getattr(self, name) is not None}

    def load(self, cost: Cost) -> float:
        """The largest ratio of a cost to its limit: at most 1 within the budget, 0 without limits."""
        return max((cost.of(name) / limit for name, limit in self.limits.items()), default=0.0)

    def allows(self, cost: Cost) -> bool:
        return all(cost.of(name) <= limit for name, limit in self.limits.items())

    def check(self, cost: Cost, what: str) -> None:
        """Raise `BnasError` that names every limit that `what` exceeds."""
        over = [
            f"{name} {_shown(cost.of(name))}, allowed are {_shown(limit)}"
            for name, limit in self.limits.items()
            if cost.of(name) > limit
        ]
        if over:
            raise BnasError(f"{what} is over the budget: {'; '.join(over)}")

    def __str__(self) -> str:
        return ", ".join(f"{name} <= {_shown(limit)}" for name, limit in self.limits.items()) or "no limit"


# The metadata of the field `budget: Budget = field(default_factory=Budget, ...)` of a strategy's options.
ABOUT_BUDGET = {"help": "upper limits for one image through the network that is deployed"}

Latency = Callable[[Any], float]
"""Microseconds of one image through a built network."""


class Costs:
    """Costs of genotypes of a space as the networks of `spec`, each measured once however often it is asked for.

    Every binarizable layer counts as binary, as in `Supernet.expected_cost`. `latency`: of a built network.
    """

    def __init__(self, space: SearchSpace, spec: NetSpec, latency: Latency | None = None) -> None:
        self._space, self._spec, self._latency = space, spec, latency
        self._known: dict[str, Cost] = {}

    def of(self, genotype: Genotype) -> Cost:
        digest = self._space.digest(genotype)
        if digest not in self._known:
            self._known[digest] = self._measured(genotype)
        return self._known[digest]

    def _measured(self, genotype: Genotype) -> Cost:
        latency = None
        # Some layers draw their weights on the host, whatever the device.
        with seeding.borrowed(0, "cost"):
            with torch.device("meta"):
                network = self._space.build(genotype, self._spec)
            if self._latency is not None:
                latency = self._latency(self._space.build(genotype, self._spec))
        total = measure_made(network, self._spec.input_shape, as_deployed=True)
        return Cost(total.macs_real, total.macs_binary, total.weight_bytes, latency)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
