"""Positions may differ: any space with the activation, or the form of the scale, of its binary layers left open as well.

    space: {name: bats, args: {open: [activation, scale]}}

opens, besides what the space decides, `normal.node_2.activation` (what follows the binary convolutions that lead into
node 2 of the normal cells: none, relu, prelu, rprelu or hardtanh) and `normal.node_2.scale` (what multiplies their
filters: none, mean_abs, learned). Places are coarser than edges, because what an edge carries is decided already:

    cells       activation: each node of each kind of cell, and the two inputs of a kind together; scale: each node
    widths      activation: each block of a ResNet, each layer of VGG-small; no shortcut
    group_mobilenet  activation: each layer
    of one's own (`LayerwiseSpace`)  both: each layer

A scale is open only in spaces that have no norm behind their convolutions: a norm divides it out, so that its gates
would have no gradient. `mean_abs` and `learned` start equal and part as weights are trained. Both need a scheme that
binarizes weights; a super-network of real weights has no scale to choose. The rest of a super-network is shared by all
choices, and each choice has what it learns for itself.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from bnas.binary.scales import FORMS, MixedScale, make_form
from bnas.errors import BnasError, unknown
from bnas.genotype import Decision, Genotype
from bnas.layers import BinaryConv2d
from bnas.layers.activation import ACTIVATIONS, Activation, MixedActivation
from bnas.space import Gates, NetSpec, SearchSpace, Segment, Supernet

CHOICES: Mapping[str, tuple[str, ...]] = {"activation": ACTIVATIONS, "scale": FORMS}


class OpenedSpace(SearchSpace):
    """`inner` with more decisions: for each of `parts` (keys of CHOICES) one `PLACE.PART` a place."""

    def __init__(self, inner: SearchSpace, parts: tuple[str, ...]) -> None:
        _check_parts(inner, parts)
        self.inner, self.parts = inner, parts
        self.name, self.size_class = inner.name, inner.size_class
        self.never_derived = inner.never_derived
        self.args = {**inner.args, "open": parts}
        self.opened = {f"{place}.{part}": (place, part) for part in parts for place in inner.places[part]}
        added = (Decision(name, CHOICES[part]) for name, (_, part) in self.opened.items())
        self.decisions = (*inner.decisions, *added)

    @property
    def retrain_size(self) -> Mapping[str, Any]:  # type: ignore[override]
        return self.inner.retrain_size

    def drawable(self, decision: Decision) -> tuple[str, ...]:
        # `none` is an activation here and, in some spaces, an operation that is never derived.
        return decision.choices if decision.name in self.opened else self.inner.drawable(decision)

    def within(self, genotype: Genotype) -> Genotype:
        """The part of a genotype that the inner space decides."""
        self.check(genotype)
        return self.inner.genotype({name: choice for name, choice in genotype.choices if name not in self.opened})

    def spec_within(self, spec: NetSpec) -> NetSpec:
        """The spec for the inner space: of a size that names one activation for all places, the one with every norm."""
        if "activation" not in self.parts:
            return spec
        default = {field.name: field.default for field in fields(self.size_class)}
        if "activation" not in default:
            return spec
        if spec.size.get("activation", default["activation"]) != default["activation"]:
            raise BnasError(
                f"activation is {spec.size['activation']} in the size of the network, but each place decides its own "
                f"(open: {list(self.parts)}): leave one of the two out"
            )
        return replace(spec, size={**spec.size, "activation": "prelu"})

    def supernet(self, spec: NetSpec) -> Supernet:
        return OpenedSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        network = self.inner.build(self.within(genotype), self.spec_within(spec))
        for name, decision, part in self.positions(network):
            choice = genotype.choice(decision)
            if part == "activation":
                replaced = Activation(choice, network.get_submodule(name).channels)  # type: ignore[arg-type]
                network.set_submodule(name, replaced)
            else:
                layer = network.get_submodule(name)
                layer.binarizer.scale = make_form(choice, layer.weight, layer.binarizer.scale)  # type: ignore
        return network

    def positions(self, network: nn.Module) -> Iterator[tuple[str, str, str]]:
        """(module, decision, part) of whatever the opened decisions decide in a network of the inner space."""
        for name, module in list(network.named_modules()):
            part = _part_of(module)
            place = self.inner.place_of(network, name) if part in self.parts else None
            if part is not None and f"{place}.{part}" in self.opened:
                yield name, f"{place}.{part}", part

    def canonical(self, genotype: Genotype) -> Genotype:
        """The inner space's form; what is chosen where nothing depends on it becomes the first choice."""
        of_place: dict[str, list[str]] = {}
        for name, (place, _) in self.opened.items():
            of_place.setdefault(place, []).append(name)
        at = {place: "/".join(genotype.choice(name) for name in names) for place, names in of_place.items()}
        form, at = self.inner.canonical_with(self.within(genotype), at)
        choices = {name: CHOICES[part][0] for name, (_, part) in self.opened.items()}
        for place, chosen in at.items():
            choices |= zip(of_place[place], chosen.split("/"), strict=True)
        return self.genotype({**dict(form.choices), **choices})

    def facts(self, genotype: Genotype) -> dict[str, float]:
        return self.inner.facts(self.within(genotype))

    def layer_of(self, network: nn.Module, graph: str, edge: tuple[str, str]) -> nn.Module | None:
        return self.inner.layer_of(network, graph, edge)

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        """Those of the inner space; an edge with a choice also has `opened`, what is chosen at its place."""
        graphs: dict[str, nx.DiGraph] = self.inner.graphs(self.within(genotype))  # type: ignore[attr-defined]
        for graph in graphs.values():
            for _, _, edge in graph.edges(data=True):
                here = [name for name, (place, _) in self.opened.items() if place == edge.get("place")]
                edge["opened"] = ", ".join(_spoken(self.opened[name][1], genotype.choice(name)) for name in here)
        return graphs


class OpenedSupernet(Supernet):
    """The inner super-network (`net`) with every choice in every opened position."""

    def __init__(self, space: OpenedSpace, spec: NetSpec) -> None:
        super().__init__()
        self.space, self.spec = space, spec
        self.net = space.inner.supernet(space.spec_within(spec))
        self._positions = list(space.positions(self.net))
        for name, _, part in self._positions:
            module = self.net.get_submodule(name)
            if part == "activation":
                mixed = MixedActivation(ACTIVATIONS, module.channels)  # type: ignore[arg-type]
                self.net.set_submodule(name, mixed)
            else:
                module.binarizer.scale = MixedScale(module.weight, module.binarizer.scale)  # type: ignore
        missing = space.opened.keys() - {decision for _, decision, _ in self._positions}
        if missing:
            raise BnasError(_nothing_there(sorted(missing), spec))

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those of the inner super-network; each reads what is opened within it, too."""
        found = []
        for segment in self.net.segments:
            within = {part for module in segment.modules for part in module.modules()}
            opened = dict.fromkeys(d for name, d, _ in self._positions if self.net.get_submodule(name) in within)
            reads = None if segment.reads is None else (*segment.reads, *opened)
            found.append(Segment(partial(self._run_segment, segment), segment.modules, reads))
        return tuple(found)

    def _run_segment(self, segment: Segment, state: Any, gates: Gates) -> Any:
        with self._choosing(gates):
            return segment.run(state, gates)

    @contextmanager
    def _choosing(self, gates: Gates) -> Iterator[None]:
        """What the gates choose in every position, for the block: no gate's graph stays behind in a module."""
        before = {}
        for name, decision, part in self._positions:
            module: Any = self.net.get_submodule(name)
            mixed = module if part == "activation" else module.binarizer.scale
            before[mixed] = mixed.chosen
            mixed.chosen = gates.of(decision)
        try:
            yield
        finally:
            for mixed, chosen in before.items():
                mixed.chosen = chosen

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        with self._choosing(gates):
            return self.net.features(x, gates)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        with self._choosing(gates):
            logits: Tensor = self.net(x, gates)
        return logits

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        """That of the inner super-network: neither an activation nor a scale has MACs, so these gates get zeros."""
        real, binary = self.net.expected_cost(gates)
        weights = [gates.weights[name] for name in self.space.opened if name in gates.weights]
        nothing = 0.0 * torch.cat(weights).sum() if weights else 0.0
        return real + nothing, binary + nothing

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        state = self.net.state_for(self.space.within(genotype))
        found: dict[str, Tensor] = {}
        chosen = self._chosen(genotype)
        for key, start in self.space.build(genotype, self.spec).state_dict().items():
            prefix = next((p for p in chosen if key.startswith(p)), None)
            if prefix is None:
                found[key] = state[key]
            else:
                # Where channels are a slice, they are the first ones.
                whole = chosen[prefix].state_dict()[key.removeprefix(prefix)]
                found[key] = whole[: len(start)].clone()
        return found

    def _chosen(self, genotype: Genotype) -> dict[str, nn.Module]:
        """Prefix of the keys in the built network -> the module here that has them."""
        found: dict[str, nn.Module] = {}
        for name, decision, part in self._positions:
            module, choice = self.net.get_submodule(name), genotype.choice(decision)
            if part == "activation":
                found[f"{name}.body."] = module.bodies[choice]  # type: ignore
            else:
                found[f"{name}.binarizer.scale."] = module.binarizer.scale.forms[choice]  # type: ignore
        return found


def _part_of(module: nn.Module) -> str | None:
    if isinstance(module, Activation):
        return "activation"
    if isinstance(module, BinaryConv2d) and module.binarizer.packs:
        return "scale"
    return None


def _check_parts(inner: SearchSpace, parts: Any) -> None:
    if not isinstance(parts, tuple) or not all(isinstance(part, str) for part in parts):
        raise BnasError(f"space {inner.name}: open is a list of {' and '.join(CHOICES)}, got {parts!r}")
    for part in parts:
        if part not in CHOICES:
            raise unknown("part of a binary layer that can be opened", part, CHOICES)
        if part not in inner.places:
            allowed = ", ".join(inner.places)
            why = "a norm follows its binary convolutions and divides a scale out: its gates would have no gradient"
            raise BnasError(
                f"space {inner.name} cannot open {part}"
                + (f": {why}" if part == "scale" and allowed else ": it names no places")
                + (f". It can open {allowed}" if allowed else "")
            )
    if len(set(parts)) < len(parts):
        raise BnasError(f"space {inner.name}: open names a part twice: {list(parts)}")


def _nothing_there(missing: list[str], spec: NetSpec) -> str:
    scales = [name for name in missing if name.endswith(".scale")]
    if scales:
        return (
            f"open: scale has nothing to choose at {scales[0]}: scheme {spec.scheme} gives weights no sign with one scale. "
            f"Search with a scheme that binarizes weights (bnn, xnor, bireal, bats), or do not open scale"
        )
    return f"open: no network of this size has a binary convolution with an activation at {missing[0]}"


def _spoken(part: str, choice: str) -> str:
    return f"scale {choice}" if part == "scale" else "no activation" if choice == "none" else choice
