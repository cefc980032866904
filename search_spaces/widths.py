"""`widths`: how wide each layer of a fixed network is (Shen, Han, Xu, Wang, ICCVW 2019, arXiv 1909.07378).

Every width is a ratio of the published one. The paper evolves codes and trains each by itself; the super-network here,
whose narrower layers are channel slices of the widest, is ours. `ChainSize` says how to build the released networks and others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain as chained
from itertools import pairwise
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bnas import strict
from bnas.cost import measure
from bnas.errors import BnasError
from bnas.genotype import Decision, Genotype
from bnas.layers.activation import Activation
from bnas.options import check_number
from bnas.space import Gates, NetSpec, SearchSpace, Segment, Supernet
from search_spaces.chains import CHAINS, Call, Chain, ChainNetwork, ChainSize, FixedChainNetwork
from search_spaces.width_gates import Channels, WidthGates

RATIOS: tuple[float, ...] = (0.25, 0.5, 1, 2, 3, 4)
# What a product of a ratio and a number of channels may be off by.
_ROUNDING = 1e-9

# Per axis of a tensor: (decision, factor) where its length is that many times the decision's channels; else None.
Axes = tuple[tuple[str, int] | None, ...]


def _primes_above(bound: int) -> Iterator[int]:
    number = bound
    while True:
        number += 1
        if number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1)):
            yield number


def axes_of_widths(chain: Chain, spec: NetSpec, size: ChainSize) -> dict[str, Axes]:
    """Which axes of which tensor of a network grow with which width.

    Read off a network without memory whose widths are distinct primes above every other size in it, so that the length
    of an axis tells what it depends on. The name of an activation stands for all that it has.
    """
    c, h, w = spec.input_shape
    primes = _primes_above(max(c, h * w, spec.num_classes))
    widths = {decision: next(primes) for decision in chain.multiples}
    with torch.device("meta"):
        network = ChainNetwork(chain, spec, size, widths, affine=False)

    def axis(length: int) -> tuple[str, int] | None:
        return next(((name, length // prime) for name, prime in widths.items() if length % prime == 0), None)

    found = {name: tuple(axis(length) for length in tensor.shape) for name, tensor in network.state_dict().items()}
    # Whatever stands in the place of an activation has tensors of one axis, its channels.
    return found | {
        name: (axis(module.channels),) for name, module in network.named_modules() if isinstance(module, Activation)
    }


def _narrowed(tensor: Tensor, axes: Axes, widths: Mapping[str, int]) -> Tensor:
    for dim, axis in enumerate(axes):
        if axis is not None:
            tensor = tensor.narrow(dim, 0, axis[1] * widths[axis[0]])
    return tensor


class WidthSupernet(ChainNetwork, Supernet):
    """The widest network; narrower ones are slices of its channels, the first ones of each axis.

    With one active choice a decision, the slices are what runs: scales and batch statistics are those of the slice.
    With several, the network has the widest of them and soft gates weigh its channels (`bnas.layers.residual`). Norms
    have no slope and offset, and one set of running statistics a channel, which the widths that have the channel share:
    score one architecture after `recalibrate`, or with the statistics of the batch.
    """

    def __init__(self, space: "Widths", spec: NetSpec) -> None:
        size = space.size(spec)
        self.channels = space.channels(size)
        widest = {decision: max(of_choice.values()) for decision, of_choice in self.channels.items()}
        super().__init__(space.chain, spec, size, widest, affine=False)
        self.space, self.spec = space, spec
        self._axes = axes_of_widths(space.chain, spec, size)
        self._costs: list[tuple[int, int, tuple[str, ...]]] | None = None

    def _gates(self, gates: Gates) -> WidthGates:
        return WidthGates(gates, self.channels, self.classifier.weight.device)

    def _axes_of(self, tensor: str) -> Axes:
        while tensor not in self._axes:
            tensor = tensor.rpartition(".")[0]
        return self._axes[tensor]

    def _run_slice(self, widths: Mapping[str, int], name: str, module: nn.Module, *inputs: Any) -> Tensor:
        tensors = {
            key: _narrowed(tensor, self._axes_of(f"{name}.{key}"), widths)
            for key, tensor in chained(module.named_parameters(), module.named_buffers())
        }
        out: Tensor = functional_call(module, tensors, inputs)
        return out

    def _sliced(self, gates: WidthGates) -> Call:
        return partial(self._run_slice, gates.widest())

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        read = self._gates(gates)
        return self.run(x, read, self._sliced(read))

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        read = self._gates(gates)
        call = self._sliced(read)
        return call("classifier", self.classifier, self.run(x, read, call))

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Stem, blocks, classifier; each depends on the widths around it."""

        def stem(x: Tensor, gates: Gates) -> Tensor:
            read = self._gates(gates)
            return self.run_stem(x, read, self._sliced(read))

        def block(index: int, x: Tensor, gates: Gates) -> Tensor:
            read = self._gates(gates)
            return self.run_block(index, x, read, self._sliced(read))

        def head(x: Tensor, gates: Gates) -> Tensor:
            return self._sliced(self._gates(gates))("classifier", self.classifier, self.pooled(x))

        blocks = [
            Segment(partial(block, index), (self.body[index],), tuple(name for name in place if name is not None))
            for index, place in enumerate(self.places)
        ]
        first, last = self.chain.first, self.chain.last
        return (Segment(stem, (self.stem,), (first,)), *blocks, Segment(head, (self.classifier,), (last,)))

    def _cost_terms(self) -> list[tuple[int, int, tuple[str, ...]]]:
        """For each layer with MACs: (real, binary) MACs at one channel of each of the widths that it grows with."""
        if self._costs is None:
            # Ratios ascend.
            widest = {decision: list(of_choice)[-1] for decision, of_choice in self.channels.items()}
            whole = Gates({decision: (choice,) for decision, choice in widest.items()})
            network = measure(self, self.spec.input_shape, forward=lambda net, x: net(x, whole), as_deployed=True)
            self._costs = []
            for layer in network.layers:
                if layer.macs_real + layer.macs_binary:
                    names = tuple(axis[0] for axis in self._axes[f"{layer.name}.weight"] if axis is not None)
                    channels = math.prod(self.channels[name][widest[name]] for name in names)
                    self._costs.append((layer.macs_real // channels, layer.macs_binary // channels, names))
        return self._costs

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        read = self._gates(gates)
        expected = {decision: read.expected(decision) for decision in self.channels}
        real: float | Tensor = 0.0
        binary: float | Tensor = 0.0
        for macs_real, macs_binary, names in self._cost_terms():
            channels = math.prod((expected[name] for name in names), start=1.0)
            real, binary = real + macs_real * channels, binary + macs_binary * channels
        device = self.classifier.weight.device
        return (
            torch.as_tensor(real, dtype=torch.float64, device=device),
            torch.as_tensor(binary, dtype=torch.float64, device=device),
        )

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        widths = self._gates(self.space.gates(genotype)).widest()
        mine = self.state_dict()
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in self.space.build(genotype, self.spec).state_dict().items()}
        state = {}
        for name, shape in shapes.items():
            if name in mine:
                state[name] = _narrowed(mine[name], self._axes[name], widths).clone()
            else:
                # A norm's slope and offset exist in the fixed network only and start as 1 and 0.
                fill = 1.0 if name.endswith(".weight") else 0.0
                state[name] = torch.full(shape, fill, device=self.classifier.weight.device)
        return state


class Widths(SearchSpace):
    """One ratio a width of `network`: six of vgg_small, four stages and eight blocks of resnet18, 3 and 9 of resnet20.

    The decisions stand in the order of the published codes (see `coded`).
    """

    name = "widths"
    size_class: type[ChainSize] = ChainSize

    def __init__(self, network: str = "resnet20", ratios: tuple[float, ...] = RATIOS) -> None:
        self.chain = CHAINS[network]
        self.ratios = _checked(ratios)
        self.args = {"network": network, "ratios": tuple(self.ratios.values())}
        self.decisions = tuple(Decision(name, tuple(self.ratios)) for name in self.chain.multiples)
        self.places = {"activation": self.chain.units}

    def place_of(self, network: nn.Module, module: str) -> str | None:
        """body.0.first.after.2 -> block_0_0; a shortcut is in none: no activation follows it."""
        parts = module.split(".")
        inside = parts[0] == "body" and len(parts) > 2 and parts[2] != "shortcut"
        return self.chain.units[int(parts[1])] if inside else None

    def layer_of(self, network: nn.Module, graph: str, edge: tuple[str, str]) -> nn.Module | None:
        """The block of that name, or the stem; a stage has none of its own."""
        if edge[0] == "image":
            return network.get_submodule("stem")
        units = self.chain.units
        return network.get_submodule(f"body.{units.index(edge[1])}") if edge[1] in units else None

    def size(self, spec: NetSpec) -> ChainSize:
        """The checked size of a network."""
        size = strict.build(ChainSize, spec.size, f"size of a {self.name} network")
        if not self.chain.has_blocks:
            for key, default in (("block", ChainSize.block), ("downsample", ChainSize.downsample)):
                if getattr(size, key) != default:
                    raise BnasError(
                        f"{key} is {getattr(size, key)}, but network {self.args['network']} has no residual blocks: "
                        f"leave it out"
                    )
        return size

    def channels(self, size: ChainSize) -> Channels:
        """How many channels each choice of each decision has; `BnasError` for one that leaves none, or not its own."""
        first = size.channels or self.chain.channels
        fewest = {name: math.floor(first * ratio + _ROUNDING) for name, ratio in self.ratios.items()}
        steps = pairwise([0, *self.ratios.values()])
        enough = math.ceil(1 / min(b - a for a, b in steps) - _ROUNDING)
        for (a, n), (b, m) in pairwise([("nothing", 0), *fewest.items()]):
            if n == m:
                what = f"{b} leaves no channel" if m == 0 else f"{a} and {b} both leave {n}"
                raise BnasError(
                    f"of {first} channels, {what} in the first layer: set channels to {enough} or more, or other ratios"
                )
        return {
            decision: {name: math.floor(first * multiple * r + _ROUNDING) for name, r in self.ratios.items()}
            for decision, multiple in self.chain.multiples.items()
        }

    def coded(self, ratios: Sequence[float]) -> Genotype:
        """The genotype of a published code: one ratio a decision, in their order."""
        if len(ratios) != len(self.decisions):
            raise BnasError(
                f"a code for {self.args['network']} has {len(self.decisions)} ratios, got {len(ratios)}: {list(ratios)}"
            )
        names = (_choice(ratio) for ratio in ratios)
        return self.genotype({decision.name: name for decision, name in zip(self.decisions, names, strict=True)})

    def supernet(self, spec: NetSpec) -> Supernet:
        return WidthSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        self.check(genotype)
        size = self.size(spec)
        channels = self.channels(size)
        widths = {name: channels[name][choice] for name, choice in genotype.choices}
        return FixedChainNetwork(self.chain, spec, size, widths)

    def reference(self) -> Genotype:
        """The uniform network of the ratio nearest to 1."""
        nearest = min(self.ratios, key=lambda choice: abs(self.ratios[choice] - 1))
        return self.genotype({decision.name: nearest for decision in self.decisions})

    def canonical(self, genotype: Genotype) -> Genotype:
        """The same choices with this space's own arguments: a file may say 1.0 for the ratio 1."""
        return self.genotype(dict(genotype.choices))

    def facts(self, genotype: Genotype) -> dict[str, float]:
        return {"depth": float(self.chain.depth), "parameter_free": 0.0}

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        """One chain from the image to the classes; the edge into a node is the choice of the decision of that name."""
        self.check(genotype)
        graph = nx.DiGraph()
        before = "image"
        for name in self.chain.path:
            graph.add_edge(before, name, choice=genotype.choice(name), place=name)
            before = name
        graph.add_edge(before, "classes")
        return {self.args["network"]: graph}


def _choice(ratio: float) -> str:
    """0.25 -> x0.25, 2.0 -> x2."""
    return f"x{ratio:g}"


def _checked(ratios: Sequence[float]) -> dict[str, float]:
    """Choice -> ratio, whole ratios as integers; `BnasError` unless they are positive and ascend."""
    for ratio in ratios:
        check_number("each of the ratios", ratio, above=0)
    found = {_choice(ratio): int(ratio) if ratio == int(ratio) else ratio for ratio in ratios}
    if not found or len(found) < len(ratios) or any(a >= b for a, b in pairwise(ratios)):
        raise BnasError(f"ratios are one or more numbers that ascend, such as {list(RATIOS)}; got {list(ratios)}")
    return found
