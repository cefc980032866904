"""Images from disk or memory, splits, and batches that are functions of the step."""

from bnas.data.augment import Augmentation
from bnas.data.batches import Batches
from bnas.data.images import Dataset, ImageSet, Normalization
from bnas.data.readers import READERS, needs_path, read
from bnas.data.splits import split_for_search, stratified

__all__ = [
    "READERS",
    "Augmentation",
    "Batches",
    "Dataset",
    "ImageSet",
    "Normalization",
    "needs_path",
    "read",
    "split_for_search",
    "stratified",
]
