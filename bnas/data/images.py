"""Images and labels as checked values, and the normalization of their channels."""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from bnas.errors import BnasError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images uint8 [N, C, H, W] with labels int64 [N]; at least one image, no negative label."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise BnasError(f"images must be uint8 [N, C, H, W]; found {_described(images)}")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise BnasError(f"labels must be int64 [N]; found {_described(labels)}")
        if len(images) != len(labels):
            raise BnasError(f"{len(images)} images but {len(labels)} labels")
        if images.numel() == 0:
            raise BnasError(f"there are no images: the shape is {tuple(images.shape)}")
        if int(labels.min()) < 0:
            raise BnasError(f"label {int(labels.min())} at image {int(labels.argmin())}; labels count from 0")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def digest(self) -> str:
        """32 hexadecimal digits that stand for exactly these images and labels in this order."""
        found = hashlib.blake2b(str(tuple(self.images.shape)).encode(), digest_size=16)
        for tensor in (self.images, self.labels):
            found.update(tensor.cpu().contiguous().numpy().data)
        return found.hexdigest()

    def take(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` int64 [M], in that order, as a copy."""
        return ImageSet(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split of the same image shape, and the class names in the order of the labels.

    `notes` holds what a reader found unusual but usable, for the user to see (another checksum than the official one).
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise BnasError(f"a classifier needs at least two classes; found {list(self.classes)}")
        odd = [name for name in self.classes if not name or not name.isprintable()]
        if odd:
            raise BnasError(f"class names must be printable text; found {odd[0][:40]!a}")
        repeated = sorted(name for name, times in Counter(self.classes).items() if times > 1)
        if repeated:
            raise BnasError(f"class names must differ; found more than once: {', '.join(repeated)}")
        if self.train.shape != self.test.shape:
            raise BnasError(f"training images are {self.train.shape} (C, H, W) but test images {self.test.shape}")
        for split, images in (("training", self.train), ("test", self.test)):
            largest = int(images.labels.max())
            if largest >= len(self.classes):
                raise BnasError(
                    f"label {largest} at {split} image {int(images.labels.argmax())}; "
                    f"there are {len(self.classes)} classes, labels 0 to {len(self.classes) - 1}"
                )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.shape

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of images scaled to 0..1; applied as (pixel / 255 - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise BnasError(f"mean and std need one number a channel; found {len(self.mean)} and {len(self.std)}")
        if not all(math.isfinite(number) for number in (*self.mean, *self.std)):
            raise BnasError(f"mean and std must be finite; found {list(self.mean)} and {list(self.std)}")
        if min(self.std) <= 0:
            raise BnasError(f"std must be above 0 in every channel; found {list(self.std)}")

    @classmethod
    def of(cls, images: ImageSet) -> "Normalization":
        """Mean and (population) standard deviation over all pixels of each channel, from exact integer sums.

        `BnasError` for a channel that has one value everywhere: dividing by its deviation means nothing.
        """
        mean, std = [], []
        for channel in range(images.shape[0]):
            histogram = torch.bincount(images.images[:, channel].flatten(), minlength=256).tolist()
            count = sum(histogram)
            total = sum(value * times for value, times in enumerate(histogram))
            squares = sum(value * value * times for value, times in enumerate(histogram))
            if count * squares == total * total:
                raise BnasError(
                    f"channel {channel} has the value {total // count} in every pixel of every training image: "
                    "leave this channel out, or give the mean and std yourself"
                )
            mean.append(total / count / 255)
            std.append(math.sqrt(count * squares - total * total) / count / 255)
        return cls(tuple(mean), tuple(std))

    def check(self, channels: int) -> None:
        """`BnasError` unless there is one mean and one std for each of `channels`."""
        if len(self.mean) != channels:
            raise BnasError(f"mean and std are for {len(self.mean)} channels; the images have {channels}")

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Mean and std as float32 [C, 1, 1], for `normalize`."""
        mean, std = (torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return mean.to(device), std.to(device)

    def apply(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] to float32 of the same shape."""
        self.check(images.shape[1])
        return normalize(images, *self.tensors(images.device))


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixel / 255 - mean) / std of uint8 [N, C, H, W], in float32 and in this order of operations, laid out by `laid_out`."""
    return laid_out(scaled(images, mean, std))


def scaled(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`normalize` in the layout of the images: in planes, in which arithmetic with a number a channel is quickest."""
    return images.float().div_(255).sub_(mean).div_(std)


def laid_out(images: Tensor) -> Tensor:
    """In channels_last memory, in which convolutions and pooling of few channels run two to eight times as fast on a CPU.

    Networks keep the layout of their input.
    """
    return images.contiguous(memory_format=torch.channels_last)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
