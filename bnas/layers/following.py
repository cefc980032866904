"""What follows a binary convolution in a candidate operation: activation, shuffle, shortcut; in one pass where bits are."""

from typing import NamedTuple

from torch import Tensor, nn

from bnas.binary.outputs import Output
from bnas.layers.activation import Activation
from bnas.layers.conv import BinaryConv2d
from bnas.layers.products import Operands
from bnas.layers.shuffle import ChannelShuffle


class Following(NamedTuple):
    """In this order; None is left out. `shortcut` is added."""

    activation: nn.Module | None = None
    shuffle: ChannelShuffle | None = None
    shortcut: Tensor | None = None

    def __call__(self, y: Tensor) -> Tensor:
        y = y if self.activation is None else self.activation(y)
        y = y if self.shuffle is None else self.shuffle(y)
        return y if self.shortcut is None else y + self.shortcut


NOTHING = Following()


def convolved(conv: BinaryConv2d, x: Tensor, then: Following) -> Tensor:
    """`then(conv(x))`."""
    plain = type(conv.output) is Output and isinstance(then.activation, Activation)
    if conv.product is None or not plain or conv.operands is not Operands.SIGNS or conv.training:
        return then(conv(x))
    (term,) = conv.binarizer.terms(conv.weight)
    return conv.product(conv, x, term, then)
