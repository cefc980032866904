"""Search strategies: how a space is searched. Built on `bnas`; they know no space."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bnas.registry import Registry
from bnas.strategy import SearchTask, Strategy
from strategies.abandon import Abandon, AbandonOptions
from strategies.child_parent import ChildParent, ChildParentOptions
from strategies.darts import Darts
from strategies.darts_options import DartsOptions
from strategies.evolution import Evolution
from strategies.evolution_options import EvolutionOptions
from strategies.random_search import RandomSearch, RandomSearchOptions
from strategies.successive_halving import SuccessiveHalving, SuccessiveHalvingOptions


@dataclass(frozen=True)
class StrategyEntry:
    """A strategy, the dataclass of its options, all of which have defaults, and the scheme that it searches under.

    `scheme`: where a job says `auto`.
    """

    make: Callable[[SearchTask, Any], Strategy]
    options: type[Any]
    scheme: str = "binary-activations"


STRATEGIES: Registry[StrategyEntry] = Registry(
    "strategy",
    {
        "darts": StrategyEntry(Darts, DartsOptions),
        "evolution": StrategyEntry(Evolution, EvolutionOptions),
        "child_parent": StrategyEntry(ChildParent, ChildParentOptions, scheme="xnor"),
        "abandon": StrategyEntry(Abandon, AbandonOptions, scheme="xnor"),
        "random": StrategyEntry(RandomSearch, RandomSearchOptions),
        "successive_halving": StrategyEntry(SuccessiveHalving, SuccessiveHalvingOptions),
    },
)
