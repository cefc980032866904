"""Batch norm and the activation binarizer behind it, as one layer: in evaluation, comparisons per channel."""

from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.binary.stairs import Stair, stairs
from bnas.binary.terms import BitTerm, attach, total
from bnas.binary.threshold import Threshold, compare, fold


class NormBinarize(nn.Module):
    """x [N, C, H, W] -> A(BN(x)): +-1 or a sum of few signs under a scheme that binarizes activations, else BN(x).

    In evaluation sign(BN(x)) *is* the comparison of `threshold()`, and a sum of several signs those of `steps()`, which
    the exporter packs; they carry no gradient. Such a sum brings its terms along (`binary.terms.attached`) to the layer
    that multiplies it. `affine` off: the norm has no slope and offset of its own, so that several readers can share it.
    """

    def __init__(self, channels: int, scheme: Scheme, *, affine: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.BatchNorm2d(channels, affine=affine)
        self.binarizer = scheme.activation(channels)

    def threshold(self) -> Threshold:
        """The comparison, per channel, that sign(BN(x)) is with the running statistics."""
        return fold(self.norm, self.channels, self.binarizer.shift)

    def steps(self) -> list[tuple[Threshold, Stair]] | None:
        """The comparisons of x that each term of A(BN(x)) is; None where there is no such form."""
        found = stairs(self.binarizer) if self.binarizer.packing.terms else None
        if found is None:
            return None
        device = self.norm.running_mean.device if self.norm.running_mean is not None else None
        return [(fold(self.norm, self.channels, -s.edges.to(device)[:, None]), s) for s in found]

    def forward(self, x: Tensor) -> Tensor:
        # The norm's own mode decides: scoring with batch statistics leaves the rest of a network in evaluation.
        if not self.norm.training and self.binarizer.compares:
            return compare(x, self.threshold())
        steps = None if self.norm.training or self.training else self.steps()
        if steps is not None:
            terms = [BitTerm(compare(x, t), _like(s.scale, x), s.constant) for t, s in steps]
            return attach(total(terms), terms)
        normed = self.norm(x)
        result: Tensor = self.binarizer(normed)
        if self.training or not self.binarizer.packing.terms:
            return result
        return attach(result, self.binarizer.terms(normed))


def _like(scale: Tensor | None, x: Tensor) -> Tensor | None:
    return None if scale is None else scale.to(x)
