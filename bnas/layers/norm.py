"""Batch norm and the activation binarizer behind it, as one layer: in evaluation, comparisons per channel."""

import torch
from torch import Tensor, nn

from bnas.binary.schemes import Scheme
from bnas.binary.stairs import Stair, stairs
from bnas.binary.terms import BitTerm, attach, total
from bnas.binary.threshold import Threshold, compare, fold, fold_statistics
from bnas.layers.comparison import Comparison


class NormBinarize(nn.Module):
    """x [N, C, H, W] -> A(BN(x)): +-1 or a sum of few signs under a scheme that binarizes activations, else BN(x).

    In evaluation sign(BN(x)) *is* the comparison of `threshold()`, and a sum of several signs those of `steps()`, which
    the exporter packs; they carry no gradient. Such a sum brings its terms along (`binary.terms.attached`) to the layer
    that multiplies it. `affine` off: the norm has no slope and offset of its own, so that several readers can share it.

    Where only the norm trains, without gradients (a path that is scored or whose statistics are estimated), sign(BN(x))
    is the comparison for the statistics of the batch. `defers`: its readers make it, as bits (`layers.packed`).
    """

    defers = False

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
        if self.binarizer.compares:
            if not self.norm.training:
                return self._compared(x, self.threshold())
            if self._only_norms(x):
                return self._compared(x, self._batch_threshold(x))
        steps = None if self.norm.training or self.training else self.steps()
        if steps is not None:
            terms = [BitTerm(compare(x, t), _like(s.scale, x), s.constant) for t, s in steps]
            return attach(total(terms), terms)
        normed = self.norm(x)
        result: Tensor = self.binarizer(normed)
        if self.training or not self.binarizer.packing.terms:
            return result
        return attach(result, self.binarizer.terms(normed))

    def _only_norms(self, x: Tensor) -> bool:
        """Whether nobody wants more of BN(x) than its sign: no gradient, and no hook that watches the binarizer."""
        watched = self.training or torch.is_grad_enabled() or self.binarizer._forward_hooks
        # A single number has no statistics, which the norm itself says best.
        return not watched and x.numel() > x.shape[1]

    def _compared(self, x: Tensor, threshold: Threshold) -> Tensor:
        return Comparison(x, threshold) if self.defers else compare(x, threshold)

    def _batch_threshold(self, x: Tensor) -> Threshold:
        """`threshold` for the statistics of x; the norm takes note of them where it keeps running ones."""
        norm, mean, variance, momentum = self.norm, None, None, 0.0
        if norm.track_running_stats and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            mean, variance = norm.running_mean, norm.running_var
            # None: the average of all batches.
            momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        statistics = torch.batch_norm_update_stats(x, mean, variance, momentum)
        return fold_statistics(norm, *statistics, self.binarizer.shift)


def _like(scale: Tensor | None, x: Tensor) -> Tensor | None:
    return None if scale is None else scale.to(x)
