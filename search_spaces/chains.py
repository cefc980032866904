"""Chain networks whose layers' widths are given: VGG-small and ResNets, in CIFAR and in ImageNet form.

First convolution and classifier are real, as is a `real` down-sampling shortcut; all other convolutions are binary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from bnas.binary import Scheme, make_scheme
from bnas.errors import check_choice
from bnas.layers.activation import ACTIVATIONS
from bnas.layers.residual import BLOCKS, DOWNSAMPLES, BinaryUnit, BlockGates, ResidualBlock, scale_channels
from bnas.options import check_number, option
from bnas.registry import Registry
from bnas.space import NetSpec, check_input_shape
from search_spaces.width_gates import Place, WidthGates

STEMS = ("cifar", "imagenet")
Widths = Mapping[str, int]


@dataclass(frozen=True)
class ChainSize:
    """How large a chain network is built, and of which blocks."""

    channels: int = option(
        0, "channels of the first layer at ratio 1; 0: as published (vgg_small 128, resnet18 64, resnet20 16)", "paper"
    )
    stem: str = option("cifar", "cifar: 3x3, stride 1; imagenet: 7x7, stride 2, max pooling", "ours", choices=STEMS)
    block: str = option(
        "basic", "of a ResNet: basic, a shortcut around two convolutions; bireal, around each", "code", choices=BLOCKS
    )
    downsample: str = option(
        "binary",
        "shortcut where a ResNet's map is halved: binary 1x1; real: 2x2 average pooling, real 1x1",
        "code",
        choices=DOWNSAMPLES,
    )
    activation: str = option("none", "after the norm behind a binary convolution", "code", choices=ACTIVATIONS)

    def __post_init__(self) -> None:
        check_number("channels", self.channels, at_least=0, whole=True)
        check_choice("stem", self.stem, STEMS)
        check_choice("block", self.block, BLOCKS)
        check_choice("downsample", self.downsample, DOWNSAMPLES)
        check_choice("activation", self.activation, ACTIVATIONS)


class Chain(Protocol):
    """The shape of a chain network, whatever its widths.

    `channels`: of the first layer, as published. `multiples`: for each width that can be chosen, by name and in the
    order of published codes, its multiple of `channels`. `path`: the same names from the image to the classifier. `first`
    is the stem's width, `last` the classifier's. `units`: what each of the blocks of `body` is called. `depth`: binary
    convolutions in a row. `has_blocks`: residual ones.
    """

    channels: int
    multiples: Mapping[str, int]
    path: tuple[str, ...]
    first: str
    last: str
    units: tuple[str, ...]
    depth: int
    halvings: int
    has_blocks: bool

    def body(self, widths: Widths, scheme: Scheme, size: ChainSize, affine: bool) -> list[tuple[nn.Module, Place]]:
        """The blocks between stem and classifier: `block(x, gates)`."""
        ...

    def pixels(self, height: int, width: int) -> int | None:
        """Pixels a channel that the classifier sees, of a map of that size behind the stem; None: their average."""
        ...


class PlainBlock(nn.Module):
    """A `BinaryUnit` with gates around it."""

    def __init__(self, unit: BinaryUnit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor, gates: BlockGates | None = None) -> Tensor:
        if gates is None:
            out: Tensor = self.unit(x)
            return out
        return scale_channels(self.unit(x, gates.entering), gates.outer)


class VggSmall:
    """Six 3x3 convolutions of C, C, 2C, 2C, 4C, 4C channels, 2x2 max pooling after every second one, one linear layer.

    Order: convolution, max pooling, BN, sign (Shen et al. 2019, arXiv 1909.07378, code). One width each.
    """

    channels = 128
    multiples: Mapping[str, int] = {f"conv_{i}": 2 ** (i // 2) for i in range(6)}
    path = tuple(multiples)
    units = path[1:]
    first, last = "conv_0", "conv_5"
    depth = 5
    halvings = 3
    has_blocks = False

    def body(self, widths: Widths, scheme: Scheme, size: ChainSize, affine: bool) -> list[tuple[nn.Module, Place]]:
        blocks: list[tuple[nn.Module, Place]] = []
        for before, name in zip(self.path, self.path[1:], strict=False):
            unit = BinaryUnit(
                widths[before],
                widths[name],
                scheme,
                pool=len(blocks) % 2 == 0,
                # The next unit's norm follows at once, but for the last one's or where an activation is in between.
                norm_after=name == self.last or size.activation != "none",
                activation=size.activation,
                affine=affine,
            )
            blocks.append((PlainBlock(unit), Place(before, None, name)))
        return blocks

    def pixels(self, height: int, width: int) -> int | None:
        return (height // 8) * (width // 8)


class ResNet:
    """Stages of residual blocks with two 3x3 convolutions (He et al. 2016); from the second on, each halves the map.

    Widths: `stage_S` of a stage's stream (that of the first is the stem's too), `block_S_B` between the two
    convolutions of a block, all at 2^S times the first stage's channels.
    """

    has_blocks = True

    def __init__(self, channels: int, blocks: tuple[int, ...]) -> None:
        self.channels, self.blocks = channels, blocks
        stages = range(len(blocks))
        inner = [(stage, f"block_{stage}_{block}") for stage in stages for block in range(blocks[stage])]
        self.multiples: Mapping[str, int] = {
            **{f"stage_{stage}": 2**stage for stage in stages},
            **{name: 2**stage for stage, name in inner},
        }
        self.path = tuple(
            name for stage in stages for name in (f"stage_{stage}", *(block for s, block in inner if s == stage))
        )
        self.units = tuple(name for _, name in inner)
        self.first, self.last = "stage_0", f"stage_{len(blocks) - 1}"
        self.depth = 2 * sum(blocks)
        self.halvings = len(blocks) - 1

    def body(self, widths: Widths, scheme: Scheme, size: ChainSize, affine: bool) -> list[tuple[nn.Module, Place]]:
        found: list[tuple[nn.Module, Place]] = []
        stream = self.first
        for stage, count in enumerate(self.blocks):
            for number in range(count):
                inner, outer = f"block_{stage}_{number}", f"stage_{stage}"
                block = ResidualBlock(
                    widths[stream],
                    widths[inner],
                    widths[outer],
                    scheme,
                    block=size.block,
                    downsample=size.downsample if stage and number == 0 else None,
                    activation=size.activation,
                    affine=affine,
                )
                found.append((block, Place(stream, inner, outer)))
                stream = outer
        return found

    def pixels(self, height: int, width: int) -> int | None:
        return None


CHAINS: Registry[Chain] = Registry(
    "network",
    {"vgg_small": VggSmall(), "resnet18": ResNet(64, (2, 2, 2, 2)), "resnet20": ResNet(16, (3, 3, 3))},
)


def make_stem(c_in: int, channels: int, kind: str, affine: bool) -> nn.Module:
    """Real convolution and BN; x -> a map of the same size (cifar) or of a quarter of each side (imagenet)."""
    if kind == "imagenet":
        conv = nn.Conv2d(c_in, channels, 7, 2, 3, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(channels, affine=affine), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(nn.Conv2d(c_in, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels, affine=affine))


# How a network runs one of its parts: (name, module, inputs) -> output.
Call = Callable[..., Tensor]


def _plain_call(name: str, module: nn.Module, *inputs: Any) -> Tensor:
    out: Tensor = module(*inputs)
    return out


class ChainNetwork(nn.Module):
    """Stem, blocks, classifier: what super-network and fixed network share. `affine` off: norms without slope and offset."""

    def __init__(self, chain: Chain, spec: NetSpec, size: ChainSize, widths: Widths, *, affine: bool = True) -> None:
        super().__init__()
        imagenet = size.stem == "imagenet"
        check_input_shape(spec, chain.halvings + 2 * imagenet)
        scheme = make_scheme(spec.scheme, spec.scheme_options)
        self.stem = make_stem(spec.input_shape[0], widths[chain.first], size.stem, affine)
        blocks = chain.body(widths, scheme, size, affine)
        self.body = nn.ModuleList(block for block, _ in blocks)
        self.chain = chain
        self.places = [place for _, place in blocks]
        # The stem's padded layers round sides up.
        height, width = (-(-side // 4) if imagenet else side for side in spec.input_shape[1:])
        pixels = chain.pixels(height, width)
        self.pool = nn.AdaptiveAvgPool2d(1) if pixels is None else nn.Identity()
        self.classifier = nn.Linear(widths[chain.last] * (pixels or 1), spec.num_classes)

    def run(self, x: Tensor, gates: WidthGates | None = None, call: Call = _plain_call) -> Tensor:
        """x [N, C, H, W] -> the vector in front of the classifier, [N, F]."""
        x = self.run_stem(x, gates, call)
        for index in range(len(self.body)):
            x = self.run_block(index, x, gates, call)
        return self.pooled(x)

    def run_stem(self, x: Tensor, gates: WidthGates | None, call: Call) -> Tensor:
        x = call("stem", self.stem, x)
        return x if gates is None else scale_channels(x, gates.gate(self.chain.first))

    def run_block(self, index: int, x: Tensor, gates: WidthGates | None, call: Call) -> Tensor:
        around = None if gates is None else gates.around(self.places[index])
        return call(f"body.{index}", self.body[index], x, around)

    def pooled(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(x)
        return pooled.flatten(1)


class FixedChainNetwork(ChainNetwork):
    """The network of given widths."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.run(x))
        return logits
