"""Search strategies: how a space is searched. Built on `bnas`; they know no space."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bnas.registry import Registry
from bnas.strategy import SearchTask, Strategy
from strategies.darts import Darts
from strategies.darts_options import DartsOptions
from strategies.evolution import Evolution, EvolutionOptions
from strategies.random_search import RandomSearch, RandomSearchOptions
from strategies.successive_halving import SuccessiveHalving, SuccessiveHalvingOptions


@dataclass(frozen=True)
class StrategyEntry:
    """A strategy and the dataclass of its options, all of which have defaults."""

    make: Callable[[SearchTask, Any], Strategy]
    options: type[Any]


STRATEGIES: Registry[StrategyEntry] = Registry(
    "strategy",
    {
        "darts": StrategyEntry(Darts, DartsOptions),
        "evolution": StrategyEntry(Evolution, EvolutionOptions),
        "random": StrategyEntry(RandomSearch, RandomSearchOptions),
        "successive_halving": StrategyEntry(SuccessiveHalving, SuccessiveHalvingOptions),
    },
)
