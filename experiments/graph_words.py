"""The graphs of genotypes in words and colours, for pictures and texts alike; drawing them is `experiments.plot`."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import networkx as nx

from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.space import SearchSpace

WORDS = {"dil": "dilated", "sep": "separable", "avg": "average"}


class Family(NamedTuple):
    """What kind of operation an edge has: its name in the legend, the colour of its line, the tint behind its text."""

    legend: str
    color: str
    tint: str


# Colours of Okabe and Ito (2008), which colour-blind readers can tell apart.
FAMILIES = {
    "convolution": Family("convolution", "#0072B2", "#E3F1FA"),
    "dilated": Family("dilated convolution", "#D55E00", "#FCEBDD"),
    "pooling": Family("pooling", "#009E73", "#E0F5EE"),
    "identity": Family("identity", "#4D4D4D", "#EDEDED"),
    "zero": Family("zero", "#999999", "#FFFFFF"),
    "other": Family("other choice", "#A0568C", "#F8EBF4"),
}
# Of an edge that is not searched.
UNSEARCHED_COLOR = "#B8B8B8"


def operation_text(choice: str) -> str:
    """`dil_group_conv_5x5` -> `dilated group conv 5x5`."""
    return " ".join(WORDS.get(word, word) for word in choice.split("_"))


def edge_lines(edge: Mapping[str, Any]) -> list[str]:
    """What is written on an edge: its operation; then, where they are known, its convolutions and what is opened there."""
    more = (edge.get("note"), edge.get("opened") if edge.get("note") else None)
    return [operation_text(edge["choice"]), *(line for line in more if line)]


def operation_family(choice: str) -> str:
    """The key in `FAMILIES` of an operation, by the words of its name."""
    words = set(choice.split("_"))
    if "conv" in words:
        return "dilated" if words & {"dil", "dilated"} else "convolution"
    if "pool" in words:
        return "pooling"
    if words & {"identity", "skip"}:
        return "identity"
    return "zero" if words & {"zero", "zeroise", "none"} else "other"


@runtime_checkable
class Drawable(Protocol):
    """A space whose genotypes are acyclic graphs; an edge that was searched has the attribute `choice`."""

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]: ...


def graphs_of(space: SearchSpace | Drawable, genotype: Genotype) -> dict[str, nx.DiGraph]:
    """The graphs of a genotype by name; `BnasError` where its space has none."""
    if not isinstance(space, Drawable):
        raise BnasError(f"search space {genotype.space} has no graphs, so there is nothing to draw")
    return space.graphs(genotype)
