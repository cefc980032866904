"""Binary convolution: inputs and weights of +-1, or sums of few +-1 terms, by a scheme; scales per output channel."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.binary.terms import BitTerm
from bnas.errors import BnasError
from bnas.layers.dilated import dilated, pays
from bnas.layers.precision import without_autocast
from bnas.layers.products import Multiplying, Operands

Padding = tuple[int, int, int, int]


class BinaryConv2d(Multiplying):
    """Convolution [N, C, H, W] -> [N, O, H', W'] of an already binarized input with a binarized weight, no bias.

    Padding is applied after sign: with `pad_value` 0 (the default, as in the papers' code) a padded tap adds nothing;
    +1 and -1 are the options. `padding` is one number or (top, left, bottom, right); a negative entry crops.

    In evaluation, under a scheme that binarizes weights and activations, the accumulators are rounded to integers
    (fast convolution algorithms leave fractions) and then scaled, so that they equal the packed network's. In training
    the scale is folded into the weight: same mathematics, one elementwise pass over the output less. Operands that are
    sums of several +-1 terms are multiplied term by term, each product rounded (`layers.products`).
    """

    per_filter = (1, -1, 1, 1)
    # What multiplies signs by signs in place of a convolution of numbers, for a while (`layers.packed`).
    product: Callable[..., Tensor] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        scheme: Scheme,
        *,
        stride: int = 1,
        padding: int | Padding = 0,
        dilation: int = 1,
        groups: int = 1,
        pad_value: float = 0.0,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise BnasError(
                f"a convolution from {in_channels} to {out_channels} channels cannot have {groups} groups: "
                f"the number of groups must divide both"
            )
        if pad_value not in (0.0, 1.0, -1.0):
            raise BnasError(f"pad_value of a binary convolution is 0, 1 or -1, got {pad_value}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        self.stride, self.dilation = (stride,) * 2, (dilation,) * 2
        self.padding: Padding = (padding,) * 4 if isinstance(padding, int) else padding
        self.pad_value = float(pad_value)
        try:
            shape = scheme.weight_shape((out_channels, in_channels // groups, *self.kernel_size))
        except BnasError as error:
            size = "x".join(map(str, self.kernel_size))
            of = f" in {groups} groups" if groups > 1 else ""
            raise error.within(f"a {size} convolution from {in_channels} to {out_channels} channels{of}") from None
        self.weight = nn.Parameter(torch.empty(shape))
        scheme.weight_start(self.weight)
        self.binarizer = scheme.weight(self.weight)
        self.output = scheme.output(out_channels)
        self.of_operands(scheme.activation(in_channels))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride[0]}, "
            f"padding={self.padding}, dilation={self.dilation[0]}, groups={self.groups}"
        )

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """[N, O, H', W'] of x and any weight of this shape, neither binarized nor rounded."""
        top, left, bottom, right = self.padding
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            # A pointwise convolution with a stride reads only the pixels that stay. Leaving the others out first is
            # less work, and oneDNN's strided form writes beyond its memory for few channels (torch 2.13, channels_last).
            x = F.pad(x, (left, right, top, bottom), value=self.pad_value)[:, :, :: self.stride[0], :: self.stride[1]]
            return F.conv2d(x, weight, None, 1, 0, 1, self.groups)
        if top == left == bottom == right >= 0 and self.pad_value == 0.0:
            step, stride = self.dilation[0], self.stride[0]
            if step > 1 and not stride % step and not top % step:
                # Only every `step`-th pixel is read: it is a plain convolution of these. Its gradients are up to eight
                # times as quick on a CPU, where dilated ones are slow.
                return F.conv2d(x[:, :, ::step, ::step], weight, None, stride // step, top // step, 1, self.groups)
            if stride == 1 and pays(x, weight, top, step):
                return dilated(x, weight, top, step, self.groups)
            return F.conv2d(x, weight, None, self.stride, top, self.dilation, self.groups)
        x = F.pad(x, (left, right, top, bottom), value=self.pad_value)
        return F.conv2d(x, weight, None, self.stride, 0, self.dilation, self.groups)

    def box(self, x: Tensor) -> Tensor:
        """[N, 1, H', W']: the mean of x [N, C, H, W] over its channels and each window, padded taps counting as 0."""
        kh, kw = self.kernel_size
        top, left, bottom, right = self.padding
        window = x.new_full((1, 1, kh, kw), 1 / (kh * kw))
        mean = F.pad(x.mean(dim=1, keepdim=True), (left, right, top, bottom))
        return F.conv2d(mean, window, None, self.stride, 0, self.dilation)

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's output for any weight of this shape, unrounded: a super-network's mixture, or training."""
        return self.output.leave(self.convolve(self.output.enter(x), weight), x, self.box)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.operands is Operands.REAL:
            return self.multiply(x, self.binarizer(self.weight))
        inner = self.output.enter(x)
        if self.operands is Operands.SIGNS:
            (term,) = self.binarizer.terms(self.weight)
            y = self.exactly(inner, term)
        elif self.pads_values:
            # What a padded tap of +-1 is among several terms is nowhere defined; it is that of the whole value.
            y = self.convolve(x, self.binarizer(self.weight))
        else:
            y = self.sum_of_products(inner)
        return self.output.leave(y, x, self.box)

    def exactly(self, x: Tensor, term: BitTerm) -> Tensor:
        return self.in_numbers(x, term) if self.product is None else self.product(self, x, term)

    def in_numbers(self, x: Tensor, term: BitTerm) -> Tensor:
        """`exactly`, whatever `product` is."""
        return super().exactly(x, term)

    @property
    def pads_values(self) -> bool:
        """Whether padded taps are not 0."""
        return bool(self.pad_value) and any(self.padding)

    def multiplied(self, x: Tensor, signs: Tensor) -> Tensor:
        with without_autocast(x):
            return self.convolve(x.float(), signs.float())
