"""What a search space holds: how many architectures, which decisions, what stays real, the cheapest and the dearest."""

from typing import Any

from bnas import seeding
from bnas.cost import NetworkCost, measure
from bnas.genotype import Genotype
from bnas.space import Gates, NetSpec, SearchSpace


def extremes(space: SearchSpace, spec: NetSpec) -> tuple[Genotype, Genotype]:
    """The genotypes of least and of most cost (real + binary / 64 MACs), found choice by choice.

    Each choice is priced by putting it into one and the same architecture. Where the costs of decisions add up, as in
    cells, the two are exact; where they multiply, as with widths, each choice's order is what matters, and it is kept.
    """
    net = space.supernet(spec)
    base = space.gates(space.random(seeding.numpy_generator(0, "extremes")))
    prices: dict[str, list[float]] = {}
    for decision in space.decisions:
        prices[decision.name] = []
        for choice in decision.choices:
            real, binary = net.expected_cost(Gates({**base.active, decision.name: (choice,)}))
            prices[decision.name].append(float(real) + float(binary) / 64)
    cheapest = space.derive({name: [-price for price in each] for name, each in prices.items()})
    return cheapest, space.derive(prices)


def _place(layer: str) -> str:
    """cells.6.skips.1.1 -> cells.*.skips; stem.body.0 -> stem"""
    parts = layer.split(".")
    return ".".join([parts[0], "*", parts[2]]) if len(parts) > 2 and parts[1].isdigit() else parts[0]


def describe_space(space: SearchSpace, search: NetSpec, retrain: NetSpec) -> dict[str, Any]:
    """The page of `bnas space` as plain values; costs are those of the network that `retrain` describes."""
    costs: dict[str, NetworkCost] = {}
    for name, genotype in zip(("cheapest", "dearest"), extremes(space, search), strict=True):
        costs[name] = measure(space.build(genotype, retrain), retrain.input_shape)
    real = sorted({_place(layer.name) for layer in costs["dearest"].layers if layer.macs_real})
    groups: dict[str, int] = {}
    for decision in space.decisions:
        if decision.group is not None:
            groups[decision.group] = groups.get(decision.group, 0) + 1
    return {
        "space": space.name,
        "arguments": dict(space.args),
        "architectures": space.count(),
        "decisions": [
            {
                "name": decision.name,
                "choices": list(decision.choices),
                "group": decision.group,
                "keeps": None if decision.group is None else f"{decision.keep} of {groups[decision.group]}",
            }
            for decision in space.decisions
        ],
        "never_derived": sorted(space.never_derived),
        "real_layers": real,
        "size": dict(retrain.size),
        "costs": {name: cost.totals() for name, cost in costs.items()},
    }
