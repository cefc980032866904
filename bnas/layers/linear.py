"""Binary fully connected layer: +-1 inputs, weights binarized by a scheme, one scale per output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.layers.precision import without_autocast


class BinaryLinear(nn.Module):
    """[..., K] -> [..., O] with an already binarized input and a binarized weight [O, K], no bias.

    As in `BinaryConv2d`, evaluation scales integer accumulators and training folds the scale into the weight.
    """

    def __init__(self, in_features: int, out_features: int, scheme: Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.binarizer = scheme.weight(self.weight)
        self.exact = self.binarizer.packs and scheme.activation(in_features).packs

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"

    def accumulate(self, x: Tensor) -> Tensor:
        """Integer-valued float32 accumulators [..., O] of +-1 input x, before the scale."""
        (term,) = self.binarizer.terms(self.weight)
        with without_autocast(x):
            return F.linear(x.float(), term.sign_pm1.float()).round()

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.exact:
            return F.linear(x, self.binarizer(self.weight))
        (term,) = self.binarizer.terms(self.weight)
        accumulated = self.accumulate(x)
        return accumulated if term.scale is None else accumulated * term.scale.reshape(-1)
