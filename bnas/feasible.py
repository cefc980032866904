"""Architectures within a budget: drawn, cheapest, repaired. With bounded effort, and a message when there are none."""

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from bnas import seeding
from bnas.budget import Budget, Cost, Costs
from bnas.cost import BINARY_MACS_PER_REAL
from bnas.errors import BnasError
from bnas.genotype import ABSENT, Genotype
from bnas.latency import TableLatency
from bnas.space import Gates, NetSpec, Scores, SearchSpace
from bnas.strategy import SearchTask

# Draws in a row that may miss the budget before architectures are reached from the cheapest one instead.
RETRIES = 50
# Mutations of the cheapest architecture, each kept where it stays within the budget.
WALK = 20
# Networks that are measured while looking for the cheapest one.
MEASUREMENTS = 150


def neighbours(space: SearchSpace, genotype: Genotype) -> Iterator[Genotype]:
    """Every genotype with one choice changed, or with one kept decision of a competing group replaced by another."""
    chosen = dict(genotype.choices)
    for unit in space.units():
        for old in unit:
            if genotype.choice(old.name) == ABSENT:
                continue
            rest = {name: choice for name, choice in chosen.items() if name != old.name}
            for new in unit:
                if new is old or genotype.choice(new.name) == ABSENT:
                    for choice in space.drawable(new):
                        if (new.name, choice) not in genotype.choices:
                            yield space.genotype({**rest, new.name: choice})


def prices(space: SearchSpace, spec: NetSpec) -> Scores:
    """What each choice costs (real + binary / 64 MACs) in one and the same architecture, without those it competes with.

    Where the costs of decisions add up, as in cells, their differences are exact; where they multiply, as with widths,
    each choice's order is what matters, and it is kept.
    """
    with seeding.borrowed(0, "extremes"):
        net = space.supernet(spec)
    base = space.gates(space.reference())
    found: dict[str, list[float]] = {}
    for unit in space.units():
        without = {**base.active, **{decision.name: () for decision in unit}}
        for decision in unit:
            found[decision.name] = []
            for choice in decision.choices:
                real, binary = net.expected_cost(Gates({**without, decision.name: (choice,)}))
                found[decision.name].append(float(real) + float(binary) / BINARY_MACS_PER_REAL)
    return found


def extremes(space: SearchSpace, spec: NetSpec) -> tuple[Genotype, Genotype]:
    """The genotypes of least and of most cost by the `prices` of their choices."""
    found = prices(space, spec)
    cheapest = space.derive({name: [-price for price in each] for name, each in found.items()})
    return cheapest, space.derive(found)


class Feasible:
    """The architectures of a task's space that keep `budget`, as the network that the task says will be deployed."""

    def __init__(self, task: SearchTask, budget: Budget) -> None:
        self.budget = budget
        self._task, self._space = task, task.space
        spec = task.spec if task.deployed is None else task.deployed
        latency = None if budget.latency_table is None else TableLatency(budget.latency_table, spec)
        self.costs = Costs(task.space, spec, latency)
        self._cheapest: Genotype | None = None

    def cost(self, genotype: Genotype) -> Cost:
        return self.costs.of(genotype)

    def allows(self, genotype: Genotype) -> bool:
        """Whether the genotype keeps every limit; without limits nothing is measured."""
        return not self.budget.limits or self.budget.allows(self.cost(genotype))

    def random(self, rng: np.random.Generator) -> Genotype:
        """A genotype drawn uniformly from those within the budget, or, where hardly any are, near the cheapest."""
        return self.proposed(lambda: self._space.random(rng), rng)

    def proposed(self, propose: Callable[[], Genotype], rng: np.random.Generator) -> Genotype:
        """The first of `RETRIES` proposals within the budget; if none is, the end of a walk from the cheapest."""
        for _ in range(RETRIES):
            genotype = propose()
            if self.allows(genotype):
                return genotype
        genotype = self.cheapest()
        for _ in range(WALK if self._space.count() > 1 else 0):
            changed = self._space.mutate(genotype, rng)
            genotype = changed if self.allows(changed) else genotype
        return genotype

    def cheapest(self) -> Genotype:
        """The least loaded architecture found, the same in every process; `BnasError` where it is over the budget."""
        if self._cheapest is None:
            found, _ = extremes(self._space, self._task.spec)
            self._cheapest = found if self.allows(found) else self._descended(found)
        if not self.allows(self._cheapest):
            self._refuse(self._cheapest)
        return self._cheapest

    def _refuse(self, cheapest: Genotype) -> None:
        choices = ", ".join(f"{name}: {choice}" for name, choice in cheapest.choices)
        raise BnasError(
            f"no architecture of space {self._space.name} was found within the budget ({self.budget}). "
            f"The cheapest found costs {self.cost(cheapest)}. It is {choices}. Raise the budget, or make the network of "
            f"the retraining smaller (its size)"
        )

    def _descended(self, genotype: Genotype) -> Genotype:
        """Greedy descent of the load: the first change that lowers it is taken, until none does."""
        load = self.budget.load(self.cost(genotype))
        measured, improved = 0, True
        while improved and load > 1:
            improved = False
            for changed in neighbours(self._space, genotype):
                measured += 1
                if measured > MEASUREMENTS:
                    return genotype
                lighter = self.budget.load(self.cost(changed))
                if lighter < load:
                    genotype, load, improved = changed, lighter, True
                    break
        return genotype

    def repaired(self, genotype: Genotype, scores: Scores) -> Genotype:
        """The genotype if it keeps the budget; else changed step by step until it does.

        Each step is a single change that lowers the load: of those, the one that loses the least score for the price
        that it saves (`prices`, so that not every change has to be measured). `scores` as for `SearchSpace.derive`.
        Where no change lowers the load, the cheapest architecture is the answer.
        """
        while not self.allows(genotype):
            lighter = self._lighter(genotype, scores)
            if lighter is None:
                return self.cheapest()
            genotype = lighter
        return genotype

    def _lighter(self, genotype: Genotype, scores: Scores) -> Genotype | None:
        score, price = self._sum(genotype, scores), self._sum(genotype, self._prices)

        def order(changed: Genotype) -> tuple[bool, float]:
            lost, saved = score - self._sum(changed, scores), price - self._sum(changed, self._prices)
            return saved <= 0, lost / saved if saved > 0 else lost

        load = self.budget.load(self.cost(genotype))
        in_order = sorted(neighbours(self._space, genotype), key=order)
        return next((changed for changed in in_order if self.budget.load(self.cost(changed)) < load), None)

    @cached_property
    def _prices(self) -> Scores:
        return prices(self._space, self._task.spec)

    def _sum(self, genotype: Genotype, scores: Scores) -> float:
        return sum(scores[name][self._space.decision(name).choices.index(choice)] for name, choice in genotype.choices)
