"""The scans of handwritten digits that come with scikit-learn: real images, with nothing to download."""

import torch

from bnas.data.images import Dataset, ImageSet
from bnas.data.splits import stratified
from bnas.errors import BnasError

SPLIT_SEED = 20
TRAIN_IMAGES = 1437


def read_digits() -> Dataset:
    """1,797 scans of 1 x 8 x 8 (Alpaydin & Kaynak 1998, UCI), in 1,437 for training and 360 for testing.

    The pixels 0..16 become 0..240. The data has no split of its own: this one is stratified by class and drawn
    once with the constant seed 20, so that it is the same for every job. `BnasError` where scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BnasError(
            "the data set 'digits' comes with scikit-learn, which is not installed: pip install 'bnas[digits]'"
        ) from None
    scans = load_digits()
    images = torch.from_numpy(scans.images).mul(15).to(torch.uint8).unsqueeze(1)
    every = ImageSet(images, torch.from_numpy(scans.target).long())
    train, test = stratified(every.labels, TRAIN_IMAGES, SPLIT_SEED)
    return Dataset("digits", every.take(train), every.take(test), tuple(str(digit) for digit in range(10)))
