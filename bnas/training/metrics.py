"""Measurements of a network: accuracy, batch-norm statistics, sign flips, balance of the activations."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnas.layers import NormBinarize
from bnas.stopwatch import NETWORK, part
from bnas.training.losses import Outputs, main_logits
from bnas.training.source import BatchSource
from bnas.training.updates import latent_weights

Forward = Callable[[Tensor], Outputs]
_BatchNorm = nn.modules.batchnorm._BatchNorm


@part(NETWORK)
@torch.no_grad()
def accuracy(forward: Forward, batches: BatchSource, limit: int | None = None) -> float:
    """Share of images whose largest logit is the label's, over all images in order or the first `limit` of them.

    The mode of the network (evaluation, batch statistics) is the caller's. The device is waited for once, at the end.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is a number of images, at least 1; found {limit}")
    left = len(batches) if limit is None else min(limit, len(batches))
    total, correct = left, []
    for images, labels in batches.in_order():
        images, labels = images[:left], labels[:left]
        correct.append((main_logits(forward(images)).argmax(dim=1) == labels).sum())
        left -= len(labels)
        if left == 0:
            break
    return int(torch.stack(correct).sum()) / total


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for the block; afterwards every module has the mode it had."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms normalize with the statistics of the batch in the block, and leave their running ones alone.

    Other modules keep their mode: enter it with the model in evaluation mode to score shared weights without dropout.
    The block must not change modes itself. Modes are put back at its end.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, (training, tracked) in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, tracked


@part(NETWORK)
@torch.no_grad()
def recalibrate(model: nn.Module, forward: Forward, batches: BatchSource, count: int) -> None:
    """Estimate the running statistics of the batch norms anew: the plain average over batches 0 ... count - 1.

    For weights that were trained with other statistics, such as one path of a super-network. Dropout and drop-path are
    off meanwhile; modes and momenta are put back.
    """
    if count < 1:
        raise ValueError(f"recalibration needs at least 1 batch; found {count}")
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        try:
            for norm in norms:
                norm.reset_running_stats()
                # None: torch's cumulative average.
                norm.training, norm.momentum = True, None
            for step in range(count):
                forward(batches.batch(step)[0])
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


@torch.no_grad()
def latent_signs(model: nn.Module) -> dict[str, Tensor]:
    """The bits (bool, True for +1) of every binary weight, by parameter name: a snapshot for `sign_flips`."""
    return {
        entry.name: entry.binarizer.terms(entry.weight)[0].sign_pm1 > 0
        for entry in latent_weights(model)
        if entry.binarizer.packs
    }


def sign_flips(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Share of the bits that differ between two snapshots of one model; 0 for a model without binary weights."""
    if before.keys() != after.keys():
        raise ValueError("the snapshots are of different models")
    if not before:
        return 0.0
    changed = torch.stack([(before[name] != after[name]).sum() for name in before]).sum()
    return int(changed) / sum(bits.numel() for bits in before.values())


@torch.no_grad()
def share_of_plus_one(model: nn.Module, images: Tensor, forward: Forward | None = None) -> dict[str, float]:
    """Share of +1 in the output of each `NormBinarize` of the model that ran, by module name, in evaluation mode.

    Only of those whose output is one sign.

    images: [N, C, H, W]. `forward` where the model needs more than images. A layer far from 0.5 carries little.
    """
    shares: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            shares[name] = (output > 0).float().mean()

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, NormBinarize) and module.binarizer.compares
    ]
    try:
        with evaluating(model):
            (forward or model)(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(share) for name, share in shares.items()}
