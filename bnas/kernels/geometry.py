"""The geometry of one binary convolution: sizes that every form of the kernel derives its loops and checks from.

A matrix product [M, K] x [O, K] is the convolution of M images of 1 x 1 pixels with K channels.
"""

from dataclasses import dataclass

from bnas.errors import BnasError
from bnas.kernels.packing import words_for
from bnas.kernels.reference import conv2d_size


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution of packed [images, height, width, groups, words] with [filters, *kernel, words].

    `padding` is (top, left, bottom, right), a negative one crops; a padded tap counts as `pad_value` in every channel.
    """

    images: int
    height: int
    width: int
    channels: int
    filters: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pad_value: int = 0

    @classmethod
    def of_matmul(cls, rows: int, length: int, filters: int) -> "Geometry":
        return cls(rows, 1, 1, length, filters)

    @property
    def out_size(self) -> tuple[int, int]:
        """(Ho, Wo); `BnasError` where the kernel does not fit into the padded input."""
        return conv2d_size((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def group_filters(self) -> int:
        return self.filters // self.groups

    @property
    def words(self) -> int:
        """Words of one tap of one filter."""
        return words_for(self.group_channels)

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        Ho, Wo = self.out_size
        return self.images * Ho * Wo

    @property
    def length(self) -> int:
        """+-1 products in one accumulator, padded taps counted: its largest absolute value."""
        return self.taps * self.group_channels

    @property
    def macs(self) -> int:
        """Binary multiply-accumulates."""
        return self.pixels * self.filters * self.length

    def check_words(self, bits: tuple[int, ...], weight: tuple[int, ...]) -> None:
        """`BnasError` unless packed tensors of these shapes are an input and the weights of this convolution."""
        if self.groups < 1 or self.channels % self.groups or self.filters % self.groups:
            raise BnasError(
                f"{self.channels} channels and {self.filters} filters do not divide into {self.groups} groups"
            )
        needed = (self.images, self.height, self.width, self.groups, self.words)
        if bits != needed:
            raise BnasError(f"{self.channels} channels in {self.groups} groups need words {needed}; found {bits}")
        needed_weight = (self.filters, *self.kernel, self.words)
        if weight != needed_weight:
            raise BnasError(f"{self.filters} filters of this convolution need words {needed_weight}; found {weight}")
        if self.pad_value not in (-1, 0, 1):
            raise BnasError(f"pad_value {self.pad_value}: allowed are -1, 0 and 1")
        if min(self.out_size) and max(self.pixels * self.filters, self.images * self.height * self.width) >= 2**31:
            raise BnasError(f"{self.pixels} pixels of {self.filters} filters are too many at once: split the batch")
