"""Binary fully connected layer: inputs and weights of +-1, or sums of few +-1 terms, by a scheme; scales per output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.layers.precision import without_autocast
from bnas.layers.products import Multiplying, Operands


class BinaryLinear(Multiplying):
    """[..., K] -> [..., O] with an already binarized input and a binarized weight [O, K], no bias.

    As in `BinaryConv2d`, evaluation scales integer accumulators and training folds the scale into the weight.
    """

    per_filter = (-1,)

    def __init__(self, in_features: int, out_features: int, scheme: Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(scheme.weight_shape((out_features, in_features))))
        scheme.weight_start(self.weight)
        self.binarizer = scheme.weight(self.weight)
        self.output = scheme.output(out_features)
        self.of_operands(scheme.activation(in_features))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"

    def box(self, x: Tensor) -> Tensor:
        """[..., 1]: the mean of x [..., K] over its features."""
        return x.mean(dim=-1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.output.enter(x)
        if self.training or self.operands is Operands.REAL:
            y = F.linear(inner, self.binarizer(self.weight))
        elif self.operands is Operands.SIGNS:
            (term,) = self.binarizer.terms(self.weight)
            y = self.exactly(inner, term)
        else:
            y = self.sum_of_products(inner)
        return self.output.leave(y, x, self.box)

    def multiplied(self, x: Tensor, signs: Tensor) -> Tensor:
        with without_autocast(x):
            return F.linear(x.float(), signs.float())
