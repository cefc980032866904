"""`group_mobilenet`: a binary MobileNet whose layers choose their number of groups (Phan et al., CVPR 2020, arXiv 2005.06305).

A layer is a 3x3 binary group convolution and a 1x1 convolution, with a shortcut around each. The paper searches the
group numbers because a depthwise sum of nine bits takes too few values, and a dense one costs too much. Its code is not
published: candidates, order of the norms and the CIFAR form are ours.

Real layers: stem, classifier, and under M1 and M2 the 1x1 of every layer that changes the channels. Million MACs of one
224 x 224 image (stem imagenet, 32 channels, 1,000 classes), real / binary / real + binary/64:

    module      all groups 1               the most groups
    M1          140.3 / 4,688.4 / 213.6    140.3 / 598.9 / 149.7
    M2          140.3 / 4,688.4 / 213.6     24.7 / 598.9 /  34.1
    M3           11.9 / 4,816.9 /  87.1     11.9 / 727.4 /  23.2

So group numbers save no more than 30 % of the cost under M1, and up to 73 % under M3, which is why M3 is the default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import gcd, lcm
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from bnas import strict
from bnas.binary import make_scheme
from bnas.cost import measure
from bnas.errors import BnasError, check_choice
from bnas.genotype import Decision, Genotype
from bnas.layers.activation import ACTIVATIONS
from bnas.layers.blocks import ConvNorm
from bnas.options import check_number, option
from bnas.space import Gates, NetSpec, SearchSpace, Segment, Supernet, check_input_shape
from search_spaces.group_layers import MODULES, Layer, SharedBinaryConv2d, SharedConv2d, places

STEMS = ("cifar", "imagenet")
# Output channels of MobileNetV1's layers, in units of its stem's 32 (Howard et al. 2017, arXiv 1704.04861, table 1).
MOBILENET = (2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)
MOBILENET_CHANNELS = 32
GROUPS = (1, 2, 4, 8, 16, 32)
# 8 channels are sums of 72 bits; a depthwise sum of 9 has 10 values.
GROUP_CHANNELS = 8


@dataclass(frozen=True)
class GroupMobileNetSize:
    """How large a network is built, and of which modules."""

    channels: int = option(
        0, "channels of the stem, which every layer has multiples of; 0: the `channels` of the space", "ours"
    )
    stem: str = option(
        "cifar",
        "real 3x3. imagenet: stride 2, 32 times smaller maps in all; cifar: stride 1, 8 times",
        "ours",
        choices=STEMS,
    )
    module: str = option(
        "M3",
        "1x1 where channels change. M1: real; M2: real, in the groups of the 3x3; M3: several binary ones side by side",
        "ours",
        choices=MODULES,
    )
    activation: str = option("none", "after the norm behind a searched convolution", "ours", choices=ACTIVATIONS)

    def __post_init__(self) -> None:
        check_number("channels", self.channels, at_least=0, whole=True)
        check_choice("stem", self.stem, STEMS)
        check_choice("module", self.module, MODULES)
        check_choice("activation", self.activation, ACTIVATIONS)


class GroupNetwork(nn.Module):
    """Stem, layers, average, classifier: what super-network and fixed network share."""

    def __init__(self, space: "GroupMobileNet", spec: NetSpec, numbers: Sequence[Sequence[int]], shared: bool) -> None:
        super().__init__()
        size = space.size(spec)
        space.check_fits(size, numbers)
        where = places(space.layers, size.stem)
        stem_stride = 2 if size.stem == "imagenet" else 1
        check_input_shape(spec, sum(place.stride == 2 for place in where) + (stem_stride == 2))
        scheme = make_scheme(spec.scheme, spec.scheme_options)
        channels = space.stem_channels(size)
        self.stem = ConvNorm(spec.input_shape[0], channels, stride=stem_stride, relu=False)
        self.body = nn.ModuleList(
            Layer(
                channels,
                place,
                scheme,
                of_layer,
                module=size.module,
                activation=size.activation,
                shared=shared,
            )
            for place, of_layer in zip(where, numbers, strict=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels * where[-1].c_out, spec.num_classes)


class FixedGroupNetwork(GroupNetwork):
    """The network of one genotype."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.body:
            x = layer(x)
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class GroupSupernet(GroupNetwork, Supernet):
    """One weight a convolution, that of the fewest groups, of which every group number is a slice.

    A single active number runs as the grouped convolution that it is. Several are one convolution in the fewest of their
    groups, with the gate-weighted sum of their slices, each binarized and scaled by itself. Norms are shared by all
    numbers: score one architecture after `recalibrate`, or with the statistics of the batch.
    """

    def __init__(self, space: "GroupMobileNet", spec: NetSpec) -> None:
        super().__init__(space, spec, space.numbers, shared=True)
        self.space, self.spec = space, spec
        self._costs: tuple[tuple[int, int], dict[tuple[int, int], tuple[int, int]]] | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Stem, layers, average, classifier."""
        names = [decision.name for decision in self.space.decisions]
        layers = [Segment(partial(self._layer, i), (layer,), (names[i],)) for i, layer in enumerate(self.body)]
        return (
            Segment(lambda x, gates: self.stem(x), (self.stem,), ()),
            *layers,
            Segment(lambda x, gates: self.pool(x).flatten(1), (), ()),
            Segment(lambda x, gates: self.classifier(x), (self.classifier,), ()),
        )

    def _layer(self, index: int, x: Tensor, gates: Gates) -> Tensor:
        chosen = gates.of(self.space.decisions[index].name)
        out: Tensor = self.body[index](x, [(int(choice), gate) for choice, gate in chosen])
        return out

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        for segment in self.segments[:-1]:
            x = segment.run(x, gates)
        return x

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        logits: Tensor = self.classifier(self.features(x, gates))
        return logits

    def _shared(self) -> dict[str, tuple[int, SharedBinaryConv2d | SharedConv2d]]:
        """The convolutions with several group numbers, by name, and which layer they are in."""
        return {
            name: (int(name.split(".")[1]), module)
            for name, module in self.named_modules()
            if isinstance(module, SharedBinaryConv2d | SharedConv2d)
        }

    def _measured_costs(self) -> tuple[tuple[int, int], dict[tuple[int, int], tuple[int, int]]]:
        """((real, binary) MACs outside the searched convolutions, the same per (layer, group number) inside them)."""
        if self._costs is None:
            fewest = self.space.genotype({d.name: d.choices[0] for d in self.space.decisions})
            # Without memory, and without a draw from the process's generators.
            with torch.device("meta"):
                built = self.space.build(fewest, self.spec)
            network = measure(built, self.spec.input_shape, as_deployed=True)
            shared = self._shared()
            fixed, searched = (0, 0), dict[tuple[int, int], tuple[int, int]]()
            for cost in network.layers:
                if cost.name not in shared:
                    fixed = (fixed[0] + cost.macs_real, fixed[1] + cost.macs_binary)
                    continue
                index = shared[cost.name][0]
                first, *_ = numbers = self.space.numbers[index]
                for groups in numbers:
                    real, binary = searched.get((index, groups), (0, 0))
                    real, binary = real + cost.macs_real * first // groups, binary + cost.macs_binary * first // groups
                    searched[index, groups] = real, binary
            self._costs = fixed, searched
        return self._costs

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        fixed, searched = self._measured_costs()
        real, binary = (torch.tensor(m, dtype=torch.float64, device=self.classifier.weight.device) for m in fixed)
        for index, decision in enumerate(self.space.decisions):
            for choice, weight in gates.of(decision.name):
                macs = searched[index, int(choice)]
                gate = 1.0 if weight is None else weight.double()
                real, binary = real + macs[0] * gate, binary + macs[1] * gate
        return real, binary

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        chosen = self.space.chosen(genotype)
        shared = self._shared()
        state = {
            key: tensor.clone()
            for key, tensor in self.state_dict().items()
            if not any(key.startswith(f"{name}.") for name in shared)
        }
        for name, (index, module) in shared.items():
            state |= {f"{name}.{key}": tensor.clone() for key, tensor in module.state_of(chosen[index]).items()}
        return state


class GroupMobileNet(SearchSpace):
    """One number of groups a layer, `layer_00.groups` and so on.

    `layers`: output channels of each, in units of the stem's. `groups`: the numbers to choose from; a layer has those
    that leave at least `group_channels` channels a group when the stem has `channels`. A network may have another size,
    if that leaves the groups as many. What the paper retrains has the size of what it searches.
    """

    name = "group_mobilenet"
    size_class: type[GroupMobileNetSize] = GroupMobileNetSize

    def __init__(
        self,
        layers: tuple[int, ...] = MOBILENET,
        groups: tuple[int, ...] = GROUPS,
        group_channels: int = GROUP_CHANNELS,
        channels: int = MOBILENET_CHANNELS,
    ) -> None:
        _check_multiples("layers", layers, MOBILENET, may_repeat=True)
        _check_multiples("groups", groups, GROUPS, may_repeat=False)
        check_number("group_channels", group_channels, at_least=1, whole=True)
        check_number("channels", channels, at_least=1, whole=True)
        self.layers, self.group_channels, self.channels = layers, group_channels, channels
        self.args: Mapping[str, Any] = {
            "layers": layers,
            "groups": groups,
            "group_channels": group_channels,
            "channels": channels,
        }
        entering = [channels * multiple for multiple in (1, *layers[:-1])]
        self.numbers = [tuple(g for g in groups if c % g == 0 and c // g >= group_channels) for c in entering]
        # What layer 0 can have, all can: their channels are multiples of its.
        if not self.numbers[0]:
            raise BnasError(
                f"layer_00 has {channels} channels, and none of the groups {list(groups)} leaves it "
                f"{group_channels} or more a group: {_near(channels, groups[0], groups[0] * group_channels)}"
            )
        self.decisions = tuple(Decision(_name(i), tuple(map(str, n))) for i, n in enumerate(self.numbers))

        self.places = {"activation": tuple(f"layer_{i:02d}" for i in range(len(layers)))}

    def place_of(self, network: nn.Module, module: str) -> str | None:
        """body.3.spatial.after.1 -> layer_03: both convolutions of a layer have the same activation."""
        parts = module.split(".")
        return f"layer_{int(parts[1]):02d}" if parts[0] == "body" and len(parts) > 2 else None

    def layer_of(self, network: nn.Module, graph: str, edge: tuple[str, str]) -> nn.Module | None:
        return network.get_submodule(f"body.{int(edge[1].removeprefix('layer_'))}.spatial")

    def size(self, spec: NetSpec) -> GroupMobileNetSize:
        """The checked size of a network."""
        return strict.build(GroupMobileNetSize, spec.size, f"size of a {self.name} network")

    def stem_channels(self, size: GroupMobileNetSize) -> int:
        return size.channels or self.channels

    def check_fits(self, size: GroupMobileNetSize, numbers: Sequence[Sequence[int]]) -> None:
        """`BnasError` where a layer of that size cannot have one of its numbers of groups, with channels that would do."""
        channels = self.stem_channels(size)
        # The largest is the hardest to have: it is a multiple of the others.
        hardest = [(multiple, max(each)) for multiple, each in zip((1, *self.layers[:-1]), numbers, strict=True)]
        for index, (multiple, groups) in enumerate(hardest):
            c = channels * multiple
            if c % groups == 0 and c // groups >= self.group_channels:
                continue
            left = f"leaves {c // groups} channels a group" if c % groups == 0 else "does not divide them"
            step = lcm(*(g // gcd(g, m) for m, g in hardest))
            fewest = max(-(-g * self.group_channels // m) for m, g in hardest)
            raise BnasError(
                f"channels {channels}: layer_{index:02d} has {c} channels, and group number {groups} {left} (at least "
                f"{self.group_channels} are allowed; the space was made for {self.channels}): {_near(channels, step, fewest)}"
            )

    def chosen(self, genotype: Genotype) -> list[int]:
        """The number of groups of each layer."""
        self.check(genotype)
        return [int(genotype.choice(decision.name)) for decision in self.decisions]

    def supernet(self, spec: NetSpec) -> Supernet:
        return GroupSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        return FixedGroupNetwork(self, spec, [(groups,) for groups in self.chosen(genotype)], shared=False)

    def facts(self, genotype: Genotype) -> dict[str, float]:
        """`depth`: convolutions in a row between stem and classifier, two a layer; under M3 all of them are binary."""
        return {"depth": 2.0 * len(self.layers), "parameter_free": 0.0}

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        """One chain from the image to the classes; the edge into a layer is its searched 3x3 convolution."""
        graph = nx.DiGraph()
        graph.add_edge("image", before := "stem")
        for index, groups in enumerate(self.chosen(genotype)):
            name = _name(index).partition(".")[0]
            graph.add_edge(before, name, choice=f"conv_3x3_{groups}_group{'s' * (groups > 1)}", place=name)
            before = name
        graph.add_edge(before, "classes")
        return {self.name: graph}


def _name(index: int) -> str:
    return f"layer_{index:02d}.groups"


def _near(channels: int, step: int, fewest: int) -> str:
    """The multiples of `step`, `fewest` or more, next to `channels`."""
    least = -(-fewest // step) * step
    below = max(channels // step * step, least)
    return f"channels of {below} or {below + step} would do"


def _check_multiples(what: str, numbers: tuple[int, ...], example: tuple[int, ...], *, may_repeat: bool) -> None:
    """`BnasError` unless each number is a multiple of the one before it (`may_repeat`: or the same)."""
    for number in numbers:
        check_number(f"each of the {what}", number, at_least=1, whole=True)
    if not numbers or any(b % a or (a == b and not may_repeat) for a, b in pairwise(numbers)):
        same = (
            "the same as the one before it or a multiple of it" if may_repeat else "a larger multiple of the one before"
        )
        raise BnasError(f"{what} are one or more numbers, each {same}, such as {list(example)}; got {list(numbers)}")
