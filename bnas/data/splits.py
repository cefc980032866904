"""Dividing one set of images in two, stratified by class and fixed by a seed."""

import torch
from torch import Tensor

from bnas.data.images import ImageSet
from bnas.errors import BnasError
from bnas.seeding import torch_generator


def split_for_search(train: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """The training split of a search in two: `fraction` of it for the weights, the rest to judge architectures.

    Each class keeps its share in both parts, to within one image. Both parts keep the order of `train`.
    `BnasError` where `fraction` is not between 0 and 1 or would leave a part empty.
    """
    if not 0 < fraction < 1:
        raise BnasError(f"the fraction of images to train on must be between 0 and 1; found {fraction}")
    first, second = stratified(train.labels, round(fraction * len(train)), seed)
    if len(first) == 0 or len(second) == 0:
        raise BnasError(f"a fraction of {fraction} of {len(train)} images leaves one of the two parts empty")
    return train.take(first), train.take(second)


def stratified(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of `size` images and of the rest, both ascending; labels int64 [N], 0 <= size <= N.

    A class of n images gives floor(n * size / N) to the first part, one more where its remainder is among the
    largest (the lower label first where remainders are equal), so that the sizes are exact.
    """
    counts = torch.bincount(labels).tolist()
    quotas = [divmod(count * size, len(labels)) for count in counts]
    left = size - sum(quota for quota, _ in quotas)
    largest = sorted(range(len(counts)), key=lambda label: (-quotas[label][1], label))[:left]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        quota = quotas[label][0] + (label in largest)
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(count, generator=torch_generator(seed, "split", label))
        chosen[members[order[:quota]]] = True
    return torch.nonzero(chosen).flatten(), torch.nonzero(~chosen).flatten()
