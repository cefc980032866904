"""`fixed`: which of the networks of the literature it is. One decision, so that all that works on spaces works on them."""

from collections.abc import Mapping
from typing import Any

import networkx as nx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas import strict
from bnas.cost import measure
from bnas.errors import BnasError
from bnas.genotype import Decision, Genotype
from bnas.space import Gates, NetSpec, SearchSpace, Supernet
from search_spaces.fixed_networks import NETWORKS, FixedNetwork, FixedSize

DECISION = "network"
ALL_READ = ("channels", "stem")


class Fixed(SearchSpace):
    """One decision, `network`, among `networks`: by default all of NETWORKS."""

    name = "fixed"
    size_class: type[FixedSize] = FixedSize

    def __init__(self, networks: tuple[str, ...] = tuple(NETWORKS)) -> None:
        for name in networks:
            if not isinstance(name, str):
                raise BnasError(f"networks is a list of names, such as [resnet20, vgg_small]; got {name!r}")
            NETWORKS[name]
        if not networks or len(set(networks)) < len(networks):
            raise BnasError(f"networks is a list of one or more different names; got {list(networks)}")
        self.networks = networks
        self.args: Mapping[str, Any] = {"networks": networks}
        self.decisions = (Decision(DECISION, networks),)

    def size(self, spec: NetSpec, networks: tuple[str, ...]) -> FixedSize:
        """The checked size; `BnasError` for an option that none of these networks has a use for."""
        size = strict.build(FixedSize, spec.size, f"size of a {self.name} network")
        for key in size.changed():
            if key not in ALL_READ and not any(key in NETWORKS[name].reads for name in networks):
                readers = [name for name, network in NETWORKS.items() if key in network.reads]
                raise BnasError(
                    f"{key} is {getattr(size, key)}, but {' and '.join(networks)} cannot be built with it: leave it out. "
                    f"It is read by {', '.join(readers)}"
                )
        return size

    def read_by(self, genotype: Genotype) -> tuple[str, ...]:
        """The options of the size that this network has a use for."""
        return (*ALL_READ, *self.network(genotype).reads)

    def network(self, genotype: Genotype) -> FixedNetwork:
        self.check(genotype)
        return NETWORKS[genotype.choice(DECISION)]

    def supernet(self, spec: NetSpec) -> Supernet:
        return FixedSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        network = self.network(genotype)
        return network.build(spec, self.size(spec, (genotype.choice(DECISION),)))

    def facts(self, genotype: Genotype) -> dict[str, float]:
        """`depth`: binary convolutions in a row between stem and classifier, as published."""
        network = self.network(genotype)
        return {"depth": float(network.convolutions * sum(network.stages)), "parameter_free": 0.0}

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        """One chain from the image to the classes; the edge into a stage says what it consists of."""
        network = self.network(genotype)
        graph = nx.DiGraph()
        before = "image"
        for index, count in enumerate(network.stages):
            graph.add_edge(before, f"stage_{index}", choice=f"{count} {network.unit}", place=f"stage_{index}")
            before = f"stage_{index}"
        graph.add_edge(before, "classes")
        return {genotype.choice(DECISION): graph}


class FixedSupernet(Supernet):
    """All networks beside each other, with nothing shared; only the active ones run, and gates weigh their answers."""

    def __init__(self, space: Fixed, spec: NetSpec) -> None:
        super().__init__()
        self.space, self.spec = space, spec
        size = space.size(spec, space.networks)
        self.networks = nn.ModuleDict({name: NETWORKS[name].build(spec, size) for name in space.networks})
        self._costs: dict[str, tuple[int, int]] | None = None

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        """What the classifiers read, weighed; shorter vectors are filled up with zeros."""
        found = []
        for name, gate in gates.of(DECISION):
            network: Any = self.networks[name]
            read: list[Tensor] = []
            handle = network.classifier.register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0]))
            try:
                network(x)
            finally:
                handle.remove()
            found.append(read[0] if gate is None else gate * read[0])
        longest = max(part.shape[1] for part in found)
        padded = [F.pad(part, (0, longest - part.shape[1])) for part in found]
        return sum(padded[1:], padded[0])

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        parts = [
            self.networks[name](x) if gate is None else gate * self.networks[name](x)
            for name, gate in gates.of(DECISION)
        ]
        total: Tensor = sum(parts[1:], parts[0])
        return total

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        if self._costs is None:
            costs = {n: measure(m, self.spec.input_shape, as_deployed=True) for n, m in self.networks.items()}
            self._costs = {name: (cost.macs_real, cost.macs_binary) for name, cost in costs.items()}
        device = next(self.parameters()).device
        real, binary = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        for name, weight in gates.of(DECISION):
            gate = 1.0 if weight is None else weight.double()
            real, binary = real + self._costs[name][0] * gate, binary + self._costs[name][1] * gate
        return real, binary

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        self.space.check(genotype)
        state = self.networks[genotype.choice(DECISION)].state_dict()
        return {key: tensor.clone() for key, tensor in state.items()}
