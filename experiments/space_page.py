"""What a search space holds: how many architectures, which decisions, what stays real, the cheapest and the dearest."""

from typing import Any

from bnas.cost import NetworkCost, measure
from bnas.feasible import extremes
from bnas.space import NetSpec, SearchSpace


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
