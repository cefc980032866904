"""Batch norm and the activation binarizer behind it, as one layer: in evaluation, one comparison per channel."""

from torch import Tensor, nn

from bnas.binary import threshold
from bnas.binary.schemes import Scheme
from bnas.binary.terms import attach
from bnas.layers.products import stands_outside


class NormBinarize(nn.Module):
    """x [N, C, H, W] -> A(BN(x)): +-1 or a sum of few signs under a scheme that binarizes activations, else BN(x).

    In evaluation sign(BN(x)) *is* the comparison of `threshold()`, which the exporter packs; it carries no gradient. A sum
    of several signs brings its terms along (`binary.terms.attached`) to the layer that multiplies it.
    `affine` off: the norm has no slope and offset of its own, so that several readers can share it.
    """

    def __init__(self, channels: int, scheme: Scheme, *, affine: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.BatchNorm2d(channels, affine=affine)
        self.binarizer = scheme.activation(channels)

    def threshold(self) -> threshold.Threshold:
        """The comparison, per channel, that sign(BN(x)) is with the running statistics."""
        return threshold.fold(self.norm, self.channels, self.binarizer.shift)

    def forward(self, x: Tensor) -> Tensor:
        # The norm's own mode decides: scoring with batch statistics leaves the rest of a network in evaluation.
        if self.norm.training or not self.binarizer.compares:
            normed = self.norm(x)
            result: Tensor = self.binarizer(normed)
            if self.training or not self.binarizer.packing.terms:
                return result
            terms = self.binarizer.terms(normed)
            return attach(result, terms) if stands_outside(terms) else result
        return threshold.compare(x, self.threshold())
