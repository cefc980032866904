"""A population of architectures: fitness, mutants, selection by deap's operators, the front of accuracy and cost, its knee."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from deap import base, tools

from bnas import seeding
from bnas.genotype import Genotype
from bnas.space import SearchSpace

SELECTIONS = ("tournament", "best")
SURVIVALS = ("elite", "ageing")


class _Fitness(base.Fitness):  # type: ignore[misc]
    """Larger is better: objective values in the order in which they decide."""

    weights = (1.0,)


class _FrontFitness(base.Fitness):  # type: ignore[misc]
    """Accuracy, to be large, and cost, to be small."""

    weights = (1.0, -1.0)


@dataclass(frozen=True)
class Scored:
    """An evaluated architecture. `accuracy` from 0 to 1; `cost` in units; `value`: the objective, where it is one number."""

    genotype: Genotype
    accuracy: float
    cost: float
    value: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "choices": dict(self.genotype.choices),
            "accuracy": self.accuracy,
            "cost": self.cost,
            "value": self.value,
        }


class Member:
    """What deap's operators take: something with a `fitness`."""

    def __init__(self, scored: Scored, front: bool) -> None:
        self.scored = scored
        values = (scored.accuracy, scored.cost) if front else (scored.value,)
        self.fitness: Any = _FrontFitness(values) if front else _Fitness(values)


def members(scored: Sequence[Scored], front: bool) -> list[Member]:
    return [Member(one, front) for one in scored]


def parents(
    population: Sequence[Scored], count: int, *, selection: str, size: int, front: bool, seed: int, generation: int
) -> list[Scored]:
    """`count` parents, drawn with replacement: winners of tournaments of `size`, or evenly from the `size` best.

    With a front, a tournament compares accuracies first, and the best are those of `survivors`.
    """
    with seeding.borrowed(seed, "evolution", "parents", generation):
        if selection == "tournament":
            chosen = tools.selTournament(members(population, front), count, tournsize=size)
        else:
            chosen = tools.selRandom(members(survivors(population, size, front=front), front), count)
    return [member.scored for member in chosen]


def mutant(space: SearchSpace, genotype: Genotype, chance: float, rng: np.random.Generator) -> Genotype:
    """Each unit of decisions drawn anew with that chance, at least one."""
    for _ in range(max(1, int(rng.binomial(len(space.units()), chance)))):
        genotype = space.mutate(genotype, rng)
    return genotype


def survivors(scored: Sequence[Scored], count: int, *, front: bool) -> list[Scored]:
    """The `count` best; with a front by NSGA-II (Deb et al. 2002): whole fronts, then the least crowded of the next."""
    if len(scored) <= count:
        return list(scored)
    select = tools.selNSGA2 if front else tools.selBest
    return [member.scored for member in select(members(scored, front), count)]


def pareto_front(scored: Sequence[Scored]) -> list[Scored]:
    """Those that no other one beats in accuracy without costing more, cheapest first; one of each equal pair."""
    best: list[Scored] = []
    for one in sorted(scored, key=lambda s: (s.cost, -s.accuracy)):
        if not best or one.accuracy > best[-1].accuracy:
            best.append(one)
    return best


def knee(front: Sequence[Scored]) -> Scored:
    """The point of the front farthest above the line from its cheapest to its most accurate point, axes scaled to 0..1.

    The most accurate one where the front has fewer than three points, or none above the line.
    """
    first, last = front[0], front[-1]
    if len(front) < 3:
        return last

    def above(one: Scored) -> float:
        x = (one.cost - first.cost) / (last.cost - first.cost)
        y = (one.accuracy - first.accuracy) / (last.accuracy - first.accuracy)
        return y - x

    best = max(front, key=above)
    return best if above(best) > 0 else last
