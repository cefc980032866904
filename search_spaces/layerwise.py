"""A chain of layers, each one of several modules: the shortest way to a search space of one's own.

    class Mine(LayerwiseSpace):
        name = "mine"
        layers = {"first": ("conv_3x3", "conv_5x5"), "second": ("conv_3x3", "identity")}

        def stem(self, spec, scheme): return nn.Conv2d(spec.input_shape[0], 16, 3, padding=1)
        def layer(self, name, choice, spec, scheme): return ...
        def head(self, spec, scheme): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        def features(self, spec): return 16

Every strategy searches it, and what is found is retrained, packed and verified like any other architecture.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import networkx as nx
from torch import Tensor, nn

from bnas.binary import Scheme, make_scheme
from bnas.genotype import Decision, Genotype
from bnas.layers import DropPath
from bnas.space import Gates, NetSpec, SearchSpace, Segment, Supernet
from bnas.strict import build
from search_spaces.choice_costs import ChoiceCosts


@dataclass(frozen=True)
class NoSize:
    """A space whose networks have one size."""


class LayerwiseNetwork(nn.Module):
    """Stem, the chosen module of each layer in turn, head, classifier."""

    def __init__(self, space: "LayerwiseSpace", spec: NetSpec, choices: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__()
        scheme = make_scheme(spec.scheme, spec.scheme_options)
        self.stem = space.stem(spec, scheme)
        self.layers = nn.ModuleDict(
            {
                name: nn.ModuleDict({choice: space.layer(name, choice, spec, scheme) for choice in chosen})
                for name, chosen in choices.items()
            }
        )
        self.head = space.head(spec, scheme)
        self.classifier = nn.Linear(space.features(spec), spec.num_classes)

    def run(self, x: Tensor, gates: Gates | None) -> Tensor:
        """x [N, C, H, W] -> features [N, F]."""
        x = self.stem(x)
        for name in self.layers:
            x = self.run_layer(name, x, gates)
        features: Tensor = self.head(x)
        return features

    def run_layer(self, name: str, x: Tensor, gates: Gates | None) -> Tensor:
        modules_of = dict(self.layers[name].items())  # type: ignore[operator]
        chosen = [(choice, None) for choice in modules_of] if gates is None else gates.of(name)
        terms = [
            modules_of[choice](x) if weight is None else weight * modules_of[choice](x) for choice, weight in chosen
        ]
        total: Tensor = sum(terms[1:], terms[0])
        return total


class FixedLayerwiseNetwork(LayerwiseNetwork):
    """The network of one genotype."""

    def set_drop_path(self, probability: float) -> None:
        for module in self.modules():
            if isinstance(module, DropPath):
                module.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.run(x, None))
        return logits


class LayerwiseSupernet(LayerwiseNetwork, Supernet):
    """All modules of all layers."""

    def __init__(self, space: "LayerwiseSpace", spec: NetSpec) -> None:
        super().__init__(space, spec, {d.name: d.choices for d in space.decisions})
        self.space, self.spec = space, spec
        self._costs: ChoiceCosts | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Stem, layers, head and classifier."""
        stem = Segment(lambda x, gates: self.stem(x), (self.stem,), ())
        layers = [Segment(partial(self.run_layer, name), (modules,), (name,)) for name, modules in self.layers.items()]
        head = Segment(lambda x, gates: self.classifier(self.head(x)), (self.head, self.classifier), ())
        return (stem, *layers, head)

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        return self.run(x, gates)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        logits: Tensor = self.classifier(self.run(x, gates))
        return logits

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        if self._costs is None:
            self._costs = ChoiceCosts(self, self.spec.input_shape, self.space.decisions, self._choice_of)
        return self._costs.expected(gates, self.classifier.weight.device)

    @staticmethod
    def _choice_of(parts: list[str]) -> tuple[str, str] | None:
        return (parts[1], parts[2]) if parts[0] == "layers" else None

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        mine = self.state_dict()
        return {name: mine[name].clone() for name in self.space.build(genotype, self.spec).state_dict()}


class LayerwiseSpace(SearchSpace):
    """A subclass gives `name`, `layers` (layer -> names of its candidates) and makes stem, layers and head.

    All candidates of a layer take and give maps of equal shapes. Modules with binary weights are those of `bnas.layers`.
    """

    layers: ClassVar[Mapping[str, tuple[str, ...]]]
    size_class: type[Any] = NoSize
    # What can be opened (`search_spaces.opened`): leave out scale where a norm behind each convolution divides it out.
    openable: ClassVar[tuple[str, ...]] = ("activation", "scale")

    def __init__(self) -> None:
        self.args: Mapping[str, Any] = {}
        self.decisions = tuple(Decision(name, choices) for name, choices in self.layers.items())
        self.places = {part: tuple(self.layers) for part in self.openable}

    @abstractmethod
    def stem(self, spec: NetSpec, scheme: Scheme) -> nn.Module:
        """Images [N, C, H, W] to the first map."""

    @abstractmethod
    def layer(self, name: str, choice: str, spec: NetSpec, scheme: Scheme) -> nn.Module:
        """One candidate of one layer."""

    @abstractmethod
    def head(self, spec: NetSpec, scheme: Scheme) -> nn.Module:
        """The last map to features [N, F]."""

    @abstractmethod
    def features(self, spec: NetSpec) -> int:
        """F, the number of features in front of the classifier."""

    def supernet(self, spec: NetSpec) -> Supernet:
        build(self.size_class, spec.size, f"size of a {self.name} network")
        return LayerwiseSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        self.check(genotype)
        build(self.size_class, spec.size, f"size of a {self.name} network")
        return FixedLayerwiseNetwork(self, spec, {name: (genotype.choice(name),) for name in self.layers})

    def place_of(self, network: nn.Module, module: str) -> str | None:
        """layers.first.conv_3x3.activation -> first"""
        parts = module.split(".")
        return parts[1] if parts[0] == "layers" and len(parts) > 2 else None

    def facts(self, genotype: Genotype) -> dict[str, float]:
        chosen = [choice for _, choice in genotype.choices]
        free = sum("pool" in choice or choice in ("identity", "skip_connect") for choice in chosen)
        return {"depth": float(len(chosen)), "parameter_free": free / len(chosen)}

    def layer_of(self, network: nn.Module, graph: str, edge: tuple[str, str]) -> nn.Module | None:
        return network.get_submodule(f"layers.{edge[1]}")

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        """The chain, with each layer's choice on the edge into it."""
        graph = nx.DiGraph()
        before = "image"
        for name in self.layers:
            graph.add_edge(before, name, choice=genotype.choice(name), place=name)
            before = name
        graph.add_edge(before, "classes")
        return {"layers": graph}
