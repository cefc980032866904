"""The small interface between a search space and everything that searches it: NetSpec, Gates, Supernet, SearchSpace."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bnas.errors import BnasError, nearest, unknown
from bnas.genotype import ABSENT, Decision, Genotype

Scores = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class NetSpec:
    """What a network is for, whatever its architecture.

    `input_shape` is (C, H, W); `scheme` and its options say how it is binarized; `size` holds what the space leaves to
    the network (cells, channels, stem, auxiliary head). Search and retraining have a spec each.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    scheme: str
    scheme_options: Mapping[str, Any] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "scheme": self.scheme,
            "scheme_options": dict(self.scheme_options),
            "size": dict(self.size),
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "NetSpec":
        c, h, w = content["input_shape"]
        return NetSpec(
            (int(c), int(h), int(w)),
            int(content["num_classes"]),
            str(content["scheme"]),
            dict(content["scheme_options"]),
            dict(content["size"]),
        )


@dataclass(frozen=True)
class Gates:
    """Which choices of each decision run, and with which weight: all that couples a strategy to a super-network.

    `active[decision]` names the choices that run, on the host; empty means an absent decision. `weights[decision]` is
    an optional vector with one entry per active choice, on the device; a decision without one has weights of 1.
    Weights need not sum to 1.
    """

    active: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, decision: str) -> list[tuple[str, Tensor | None]]:
        """The active choices of a decision with their weights (None means 1)."""
        active = self.active[decision]
        weights = self.weights.get(decision)
        if weights is None:
            return [(choice, None) for choice in active]
        return list(zip(active, weights.unbind(), strict=True))


@dataclass(frozen=True)
class Segment:
    """A part of a super-network's forward: `run(state, gates)` gives the state behind it from that in front of it.

    What it gives follows from the state, the gates of the decisions `reads` (None: of all) and the weights and buffers of
    `modules`, which no other segment runs. States are tensors, or tuples of them.
    """

    run: Callable[[Any, Gates], Any]
    modules: tuple[nn.Module, ...]
    reads: tuple[str, ...] | None = None


class Supernet(nn.Module, ABC):
    """Shared weights of all architectures of a space. It owns weights and nothing else."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """`forward` cut into parts that run one after the other, from images to logits.

        Paths that are scored together share what they agree in up to a cut (`bnas.shared_forward`). Here: one segment, a
        network that is not cut, of which only equal paths have anything in common.
        """
        return (Segment(self, (self,)),)

    @abstractmethod
    def features(self, x: Tensor, gates: Gates) -> Tensor:
        """x [N, C, H, W] -> the vector in front of the classifier, [N, F]."""

    @abstractmethod
    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """x [N, C, H, W] -> logits [N, classes]."""

    @abstractmethod
    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        """(real MACs, binary MACs) of one image as scalars, weighted by the gates and differentiable in them.

        Binarizable layers count as binary whatever the scheme of the search: the cost is that of the network to come.
        """

    @abstractmethod
    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        """The state dict of `space.build(genotype, spec)` with this super-network's weights."""


class SearchSpace(ABC):
    """The rules of a space. `decisions` is all that a strategy needs to know of it.

    Subclasses give `name`, `args` (those that change the decisions), `decisions`, the networks and `facts`; what
    follows from the decisions alone is written here: checking, drawing, deriving, counting.
    """

    name: str
    args: Mapping[str, Any]
    decisions: tuple[Decision, ...]
    # Choices that a super-network offers but that no derived or drawn genotype takes (Zeroise in a DARTS cell).
    never_derived: frozenset[str] = frozenset()
    # The frozen dataclass that `NetSpec.size` is checked against.
    size_class: type[Any]
    # The size of the network that the papers retrain, where a job does not say otherwise.
    retrain_size: ClassVar[Mapping[str, Any]] = {}
    # What besides the space's own decisions may be opened, and where: part of a binary layer -> names of places.
    places: Mapping[str, tuple[str, ...]] = {}

    @abstractmethod
    def supernet(self, spec: NetSpec) -> Supernet: ...

    @abstractmethod
    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        """The network of one genotype, without gates; `torch.fx` traces it in evaluation mode."""

    @abstractmethod
    def facts(self, genotype: Genotype) -> dict[str, float]:
        """`depth` (operations on the longest path of a block) and `parameter_free` (share of the kept operations)."""

    def canonical(self, genotype: Genotype) -> Genotype:
        """One representative of all genotypes that the space's symmetries make equal; here: no symmetry."""
        return genotype

    def place_of(self, network: nn.Module, module: str) -> str | None:
        """Which of `places` the module of that dotted name is in, in a network of this space; None: in none."""
        return None

    def layer_of(self, network: nn.Module, graph: str, edge: tuple[str, str]) -> nn.Module | None:
        """What an edge of `graphs` stands for in a built network (the first such layer); None: nothing of its own."""
        return None

    def canonical_with(self, genotype: Genotype, at: Mapping[str, str]) -> tuple[Genotype, dict[str, str]]:
        """`canonical` of a genotype together with what is chosen at places, place -> choice.

        A symmetry that moves places moves what is chosen there; what is chosen where it has no effect is left out.
        """
        return self.canonical(genotype), dict(at)

    def digest(self, genotype: Genotype) -> str:
        """Equal for architectures that are the same network up to the space's symmetries."""
        return self.canonical(genotype).content_digest

    def genotype(self, choices: Mapping[str, str]) -> Genotype:
        """The checked genotype with these choices."""
        made = Genotype.make(self.name, self.args, choices)
        self.check(made)
        return made

    def decision(self, name: str) -> Decision:
        for decision in self.decisions:
            if decision.name == name:
                return decision
        raise unknown(f"decision of space {self.name}", name, [d.name for d in self.decisions])

    def units(self) -> list[tuple[Decision, ...]]:
        """What is decided together: each competing group, each decision without a group; in order."""
        groups: dict[str, list[Decision]] = {}
        for decision in self.decisions:
            groups.setdefault(decision.group or decision.name, []).append(decision)
        return [tuple(members) for members in groups.values()]

    def drawable(self, decision: Decision) -> tuple[str, ...]:
        """The choices that a drawn or derived genotype may take."""
        return tuple(choice for choice in decision.choices if choice not in self.never_derived)

    def check(self, genotype: Genotype) -> None:
        """Raise `BnasError` unless the genotype is one of this space: its name, arguments, decisions and choices."""
        if genotype.space != self.name:
            raise BnasError(f"a genotype of space '{genotype.space}' was given to space '{self.name}'")
        mine = Genotype.make(self.name, self.args, {})
        if genotype.space_args != mine.space_args:
            raise BnasError(
                f"genotype of {self.name} with arguments {dict(genotype.space_args)}; "
                f"this space was made with {dict(mine.space_args)}"
            )
        by_name = {decision.name: decision for decision in self.decisions}
        for name, choice in genotype.choices:
            if name not in by_name:
                raise BnasError(f"space {self.name} has no decision '{name}'.{nearest(name, by_name)}")
            if choice not in by_name[name].choices:
                raise unknown(f"choice of decision {name}", choice, by_name[name].choices)
        for unit in self.units():
            kept = [decision.name for decision in unit if genotype.choice(decision.name) != ABSENT]
            wanted = unit[0].keep or 1
            if len(kept) != wanted:
                what = f"group {unit[0].group}" if unit[0].group else f"decision {unit[0].name}"
                raise BnasError(f"{what} keeps {wanted} of {len(unit)}, the genotype has {len(kept)}: {kept}")

    def gates(self, genotype: Genotype) -> Gates:
        """The gates under which the super-network computes exactly this genotype."""
        self.check(genotype)
        chosen = {decision.name: genotype.choice(decision.name) for decision in self.decisions}
        return Gates({name: () if choice == ABSENT else (choice,) for name, choice in chosen.items()})

    def _draw_unit(self, unit: tuple[Decision, ...], rng: np.random.Generator) -> dict[str, str]:
        kept = rng.choice(len(unit), size=unit[0].keep or 1, replace=False)
        drawn = {}
        for index in sorted(kept):
            options = self.drawable(unit[index])
            drawn[unit[index].name] = options[int(rng.integers(len(options)))]
        return drawn

    def random(self, rng: np.random.Generator) -> Genotype:
        """A genotype drawn uniformly: for each group which decisions survive, and for each survivor its choice."""
        choices: dict[str, str] = {}
        for unit in self.units():
            choices |= self._draw_unit(unit, rng)
        return self.genotype(choices)

    def _part(self, unit: tuple[Decision, ...], genotype: Genotype) -> dict[str, str]:
        return {d.name: genotype.choice(d.name) for d in unit if genotype.choice(d.name) != ABSENT}

    def mutate(self, genotype: Genotype, rng: np.random.Generator) -> Genotype:
        """One unit drawn anew until it differs (in a cell: both edges into one node); the rest is kept."""
        self.check(genotype)
        units = [unit for unit in self.units() if len(unit) > (unit[0].keep or 1) or len(self.drawable(unit[0])) > 1]
        if not units:
            raise BnasError(f"space {self.name} has a single architecture: there is nothing to mutate")
        unit = units[int(rng.integers(len(units)))]
        old = self._part(unit, genotype)
        new = old
        while new == old:
            new = self._draw_unit(unit, rng)
        return self.genotype({name: c for name, c in genotype.choices if name not in old} | new)

    def crossover(self, a: Genotype, b: Genotype, rng: np.random.Generator) -> Genotype:
        """Each unit from one parent or the other with equal probability."""
        self.check(a)
        self.check(b)
        choices: dict[str, str] = {}
        for unit in self.units():
            choices |= self._part(unit, a if rng.random() < 0.5 else b)
        return self.genotype(choices)

    def derive(self, scores: Scores) -> Genotype:
        """The genotype of the highest scores: of each group the `keep` decisions with the best best choice.

        `scores[decision]` has one number per choice, in the decision's order. Choices in `never_derived` count neither
        for the ranking nor as the choice, as `none` in DARTS (Liu et al. 2019, arXiv 1806.09055, released code). Ties
        go to what is listed first.
        """
        choices: dict[str, str] = {}
        for unit in self.units():
            best: list[tuple[float, int, str]] = []
            for position, decision in enumerate(unit):
                values = list(scores[decision.name])
                if len(values) != len(decision.choices) or not np.isfinite(values).all():
                    raise ValueError(f"decision {decision.name}: scores {values} for choices {decision.choices}")
                allowed = [(v, -i) for i, v in enumerate(values) if decision.choices[i] in self.drawable(decision)]
                value, index = max(allowed)
                best.append((value, -position, decision.choices[-index]))
            for _value, position, choice in sorted(best, reverse=True)[: unit[0].keep or 1]:
                choices[unit[-position].name] = choice
        return self.genotype(choices)

    def reference(self) -> Genotype:
        """The genotype whose cost is one unit where costs are weighed; here: whatever is listed first, everywhere."""
        return self.derive({decision.name: [0.0] * len(decision.choices) for decision in self.decisions})

    def count(self) -> int:
        """How many genotypes can be drawn (symmetric ones counted apart)."""
        total = 1
        for unit in self.units():
            sizes = [len(self.drawable(decision)) for decision in unit]
            total *= sum(int(np.prod(kept, dtype=object)) for kept in combinations(sizes, unit[0].keep or 1))
        return total


def soft_gates(decisions: Sequence[Decision], weights: Mapping[str, Tensor]) -> Gates:
    """Gates with every choice of every decision active, weighted by the given vectors (DARTS)."""
    return Gates({decision.name: decision.choices for decision in decisions}, dict(weights))


def check_input_shape(spec: NetSpec, halvings: int) -> None:
    """Raise `BnasError` when the image is too small to be halved that often."""
    _, h, w = spec.input_shape
    smallest = 2**halvings
    if min(h, w) < smallest:
        raise BnasError(
            f"an image of {h} x {w} is too small: the network halves it {halvings} times, "
            f"so each side needs at least {smallest} pixels (another stem or fewer reductions halve it less often)"
        )


def argmax_scores(weights: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Device vectors of scores as plain lists, for `derive`."""
    return {name: torch.as_tensor(vector).detach().double().cpu().tolist() for name, vector in weights.items()}
