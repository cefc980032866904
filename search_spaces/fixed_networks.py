"""NETWORKS: fixed networks that found ones are compared with, each binarized by any scheme.

First convolution and classifier are real; so are the transitions of dense networks and the `real` down-sampling of
ResNets. All other convolutions are binary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from torch import Tensor, nn

from bnas.binary import Scheme, make_scheme
from bnas.errors import check_choice
from bnas.layers.activation import ACTIVATIONS
from bnas.layers.blocks import ConvNorm
from bnas.layers.dense import DenseBlock, Transition
from bnas.layers.improvement import MeliusBlock
from bnas.layers.react_block import ReActBlock
from bnas.layers.residual import BLOCKS, DOWNSAMPLES, BinaryUnit
from bnas.options import check_number, option
from bnas.registry import Registry
from bnas.space import NetSpec, check_input_shape
from search_spaces.chains import STEMS, Chain, ChainSize, FixedChainNetwork, ResNet, VggSmall
from search_spaces.group_layers import places
from search_spaces.group_mobilenet import MOBILENET_CHANNELS


@dataclass(frozen=True)
class FixedSize:
    """How large a fixed network is built, and of which blocks."""

    channels: int = option(
        0, "channels of the first layer, which all others have multiples of; 0: as published", "ours"
    )
    blocks: int = option(0, "most blocks of a stage; 0: as published", "ours")
    stem: str = option(
        "cifar",
        "cifar: one convolution that keeps the size; imagenet: as published for 224 x 224",
        "ours",
        choices=STEMS,
    )
    block: str = option(
        "bireal", "of a ResNet: basic, a shortcut around two convolutions; bireal, around each", "ours", choices=BLOCKS
    )
    downsample: str = option(
        "real",
        "shortcut where a ResNet's map is halved: binary 1x1; real: 2x2 average pooling, real 1x1",
        "ours",
        choices=DOWNSAMPLES,
    )
    activation: str = option("none", "after the norm behind a binary convolution", "ours", choices=ACTIVATIONS)

    def __post_init__(self) -> None:
        check_number("channels", self.channels, at_least=0, whole=True)
        check_number("blocks", self.blocks, at_least=0, whole=True)
        check_choice("stem", self.stem, STEMS)
        check_choice("block", self.block, BLOCKS)
        check_choice("downsample", self.downsample, DOWNSAMPLES)
        check_choice("activation", self.activation, ACTIVATIONS)

    def changed(self) -> tuple[str, ...]:
        """The options that are not at their defaults."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)

    def limited(self, stages: Sequence[int]) -> tuple[int, ...]:
        """Blocks of each stage, at most `blocks`."""
        return tuple(min(count, self.blocks or count) for count in stages)


@dataclass(frozen=True)
class FixedNetwork:
    """One fixed network. `stages`: blocks of each as published, called `unit`; `convolutions`: of a block, in a row.

    `reads`: the options of `FixedSize` besides channels and stem that it has a use for. `scheme`: of its authors, or the
    one that it is compared under most; `paper` is where the network is from.
    """

    build: Callable[[NetSpec, FixedSize], nn.Module]
    stages: tuple[int, ...]
    unit: str
    convolutions: int
    reads: tuple[str, ...]
    scheme: str
    paper: str


class Stacked(nn.Module):
    """Stem, body, average, classifier."""

    def __init__(self, stem: nn.Module, body: Sequence[nn.Module], channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.body = nn.Sequential(*body)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.body(self.stem(x))).flatten(1))
        return logits


def _chain(make: Callable[[FixedSize], Chain]) -> Callable[[NetSpec, FixedSize], nn.Module]:
    """A network of `chains.py` with every width as published."""

    def build(spec: NetSpec, size: FixedSize) -> nn.Module:
        chain = make(size)
        blocks = {"block": size.block, "downsample": size.downsample} if chain.has_blocks else {}
        channels = size.channels or chain.channels
        widths = {name: channels * multiple for name, multiple in chain.multiples.items()}
        made = ChainSize(channels, size.stem, activation=size.activation, **blocks)
        return FixedChainNetwork(chain, spec, made, widths)

    return build


def _resnet(channels: int, stages: tuple[int, ...]) -> Callable[[NetSpec, FixedSize], nn.Module]:
    return _chain(lambda size: ResNet(channels, size.limited(stages)))


def _vgg_small(size: FixedSize) -> Chain:
    return VggSmall()


DENSE_CHANNELS = 64
# Rounds the widths behind transitions; published ones are multiples of 32.
HALVES = 2


def _dense_stem(c_in: int, channels: int, stem: str, grouped: bool) -> nn.Module:
    """A 3x3 (cifar: the first norm is that of the first block), a 7x7, or MeliusNet's three 3x3; then max pooling."""
    if stem == "cifar":
        return nn.Conv2d(c_in, channels, 3, 1, 1, bias=False)
    if not grouped:
        return nn.Sequential(ConvNorm(c_in, channels, 7, stride=2), nn.MaxPool2d(3, 2, 1))
    half = channels // HALVES
    # Groups of 8 channels, of networks that are built smaller than published of fewer.
    return nn.Sequential(
        ConvNorm(c_in, half, stride=2),
        ConvNorm(half, half, groups=4 if half % 4 == 0 else 1),
        ConvNorm(half, channels, groups=4 * HALVES if half % (4 * HALVES) == 0 else 1),
        nn.MaxPool2d(2),
    )


def _dense(
    stages: tuple[int, ...],
    block: Callable[[int, int, Scheme], nn.Module],
    behind: Callable[[int, int, int], int],
    *,
    groups: int = 1,
) -> Callable[[NetSpec, FixedSize], nn.Module]:
    """Stages of blocks that add `channels` each, transitions between; `behind(stage, width, half)`: width behind one."""

    def build(spec: NetSpec, size: FixedSize) -> nn.Module:
        check_input_shape(spec, len(stages) - 1 + 2 * (size.stem == "imagenet"))
        check_number("channels", size.channels or HALVES, at_least=HALVES, whole=True)
        scheme = make_scheme(spec.scheme, spec.scheme_options)
        growth = width = size.channels or DENSE_CHANNELS
        body: list[nn.Module] = []
        for stage, count in enumerate(size.limited(stages)):
            for _ in range(count):
                body.append(block(width, growth, scheme))
                width += growth
            if stage < len(stages) - 1:
                narrower = behind(stage, width, growth // HALVES)
                body.append(Transition(width, narrower, groups))
                width = narrower
        body += [nn.BatchNorm2d(width), nn.ReLU()]
        stem = _dense_stem(spec.input_shape[0], growth, size.stem, block is MeliusBlock)
        return Stacked(stem, body, width, spec.num_classes)

    return build


def _binary_densenet(stages: tuple[int, ...], reductions: tuple[float, ...]) -> FixedNetwork:
    """`reductions`: what the width is divided by at each transition."""

    def behind(stage: int, width: int, half: int) -> int:
        return max(1, round(width // reductions[stage] / half)) * half

    paper = "Bethge et al. 2019, Back to Simplicity, arXiv 1906.08637"
    build = _dense(stages, DenseBlock, behind)
    return FixedNetwork(build, stages, "dense blocks", 1, ("blocks",), "binary-dense-net", paper)


def _meliusnet(stages: tuple[int, ...], halves: tuple[int, ...], groups: int = 1) -> FixedNetwork:
    """`halves`: widths behind the transitions, in halves of the first layer's; `groups` of their convolutions."""

    def behind(stage: int, width: int, half: int) -> int:
        return halves[stage] * half

    paper = "Bethge et al. 2020, MeliusNet, arXiv 2001.05936"
    build = _dense(stages, MeliusBlock, behind, groups=groups)
    return FixedNetwork(build, stages, "dense and improvement blocks", 2, ("blocks",), "binary-dense-net", paper)


# Layers of MobileNetV1 by stage, and the output channels of each stage in units of the stem's.
MOBILE_STAGES, MOBILE_MULTIPLES = (1, 2, 2, 6, 2), (2, 4, 8, 16, 32)


def _mobile(
    block: Callable[[int, int, int, Scheme, FixedSize], nn.Module],
) -> Callable[[NetSpec, FixedSize], nn.Module]:
    """MobileNetV1's layout: `block(c_in, c_out, stride, scheme, size)` for each layer."""

    def build(spec: NetSpec, size: FixedSize) -> nn.Module:
        counts = zip(size.limited(MOBILE_STAGES), MOBILE_MULTIPLES, strict=True)
        where = places([multiple for count, multiple in counts for _ in range(count)], size.stem)
        stem_stride = 2 if size.stem == "imagenet" else 1
        check_input_shape(spec, sum(place.stride == 2 for place in where) + (stem_stride == 2))
        scheme = make_scheme(spec.scheme, spec.scheme_options)
        channels = size.channels or MOBILENET_CHANNELS
        stem = ConvNorm(spec.input_shape[0], channels, stride=stem_stride, relu=False)
        body = [block(p.c_in * channels, p.c_out * channels, p.stride, scheme, size) for p in where]
        return Stacked(stem, body, where[-1].c_out * channels, spec.num_classes)

    return build


def _separable(c_in: int, c_out: int, stride: int, scheme: Scheme, size: FixedSize) -> nn.Module:
    """Depthwise 3x3 and 1x1, both binary, as the real-valued network has them: without a shortcut."""
    depthwise = BinaryUnit(c_in, c_in, scheme, stride=stride, groups=c_in, activation=size.activation)
    return nn.Sequential(depthwise, BinaryUnit(c_in, c_out, scheme, kernel_size=1, activation=size.activation))


def _react(c_in: int, c_out: int, stride: int, scheme: Scheme, size: FixedSize) -> nn.Module:
    return ReActBlock(c_in, c_out, scheme, stride=stride)


_RESIDUAL = ("blocks", "block", "downsample", "activation")
_HE = "He et al. 2016, Deep Residual Learning for Image Recognition, arXiv 1512.03385"

NETWORKS: Registry[FixedNetwork] = Registry(
    "fixed network",
    {
        "resnet18": FixedNetwork(
            _resnet(64, (2, 2, 2, 2)), (2, 2, 2, 2), "residual blocks", 2, _RESIDUAL, "bireal", _HE
        ),
        "resnet20": FixedNetwork(_resnet(16, (3, 3, 3)), (3, 3, 3), "residual blocks", 2, _RESIDUAL, "bireal", _HE),
        "vgg_small": FixedNetwork(
            _chain(_vgg_small),
            (2, 2, 1),
            "convolutions",
            1,
            ("activation",),
            "xnor",
            "Zhang et al. 2018, LQ-Nets, arXiv 1807.10029",
        ),
        "mobilenet_v1": FixedNetwork(
            _mobile(_separable),
            MOBILE_STAGES,
            "separable convolutions",
            2,
            ("blocks", "activation"),
            "bireal",
            "Howard et al. 2017, MobileNets, arXiv 1704.04861",
        ),
        "reactnet": FixedNetwork(
            _mobile(_react),
            MOBILE_STAGES,
            "ReActNet blocks",
            2,
            ("blocks",),
            "reactnet",
            "Liu et al. 2020, ReActNet, arXiv 2003.03488",
        ),
        "binary_densenet28": _binary_densenet((6, 6, 6, 5), (2.7, 2.7, 2.2)),
        "binary_densenet37": _binary_densenet((6, 8, 12, 6), (3.3, 3.3, 4)),
        "binary_densenet45": _binary_densenet((6, 12, 14, 8), (2.7, 3.3, 4)),
        "meliusnet22": _meliusnet((4, 5, 4, 4), (5, 7, 8)),
        "meliusnet29": _meliusnet((4, 6, 8, 6), (4, 6, 8)),
        "meliusnet42": _meliusnet((5, 8, 14, 10), (5, 8, 13)),
        "meliusnet59": _meliusnet((6, 12, 24, 12), (6, 10, 17)),
        "meliusnet_a": _meliusnet((4, 5, 5, 6), (5, 8, 9), groups=4),
        "meliusnet_b": _meliusnet((4, 6, 8, 6), (5, 7, 10), groups=2),
        "meliusnet_c": _meliusnet((3, 5, 10, 6), (4, 6, 9), groups=4),
    },
)
