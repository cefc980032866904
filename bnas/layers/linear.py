"""Binary fully connected layer: inputs and weights of +-1, or sums of few +-1 terms, by a scheme; scales per output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.layers.precision import without_autocast
from bnas.layers.products import Operands, sum_of_products


class BinaryLinear(nn.Module):
    """[..., K] -> [..., O] with an already binarized input and a binarized weight [O, K], no bias.

    As in `BinaryConv2d`, evaluation scales integer accumulators and training folds the scale into the weight.
    """

    def __init__(self, in_features: int, out_features: int, scheme: Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(scheme.weight_shape((out_features, in_features))))
        scheme.weight_start(self.weight)
        self.binarizer = scheme.weight(self.weight)
        self.output = scheme.output(out_features)
        self.operands = Operands.of(self.binarizer, scheme.activation(in_features), self.output)

    @property
    def exact(self) -> bool:
        """Whether evaluation is one product of +-1 by +-1, whose accumulators are integers."""
        return self.operands is Operands.SIGNS

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"

    def accumulate(self, x: Tensor) -> Tensor:
        """Integer-valued float32 accumulators [..., O] of +-1 input x, before the scale."""
        (term,) = self.binarizer.terms(self.weight)
        return self._product(x, term.sign_pm1).round()

    def box(self, x: Tensor) -> Tensor:
        """[..., 1]: the mean of x [..., K] over its features."""
        return x.mean(dim=-1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.output.enter(x)
        if self.training or self.operands is Operands.REAL:
            y = F.linear(inner, self.binarizer(self.weight))
        elif self.operands is Operands.SIGNS:
            (term,) = self.binarizer.terms(self.weight)
            y = self.accumulate(inner)
            y = y if term.scale is None else y * term.scale.reshape(-1)
        else:
            y = sum_of_products(inner, self.binarizer.terms(self.weight), self._product, (-1,), self.operands)
        return self.output.leave(y, x, self.box)

    def _product(self, x: Tensor, signs: Tensor) -> Tensor:
        with without_autocast(x):
            return F.linear(x.float(), signs.float())
