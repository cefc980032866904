"""Crop, flip and cutout of a whole batch at once, on the device, from numbers drawn on the host.

The numbers come from a generator that is passed in and are drawn on the CPU, so that they are the same on every
device. All kinds are drawn for every batch, also those that are off: switching cutout on leaves the crops as they were.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bnas.errors import BnasError
from bnas.options import option


@dataclass(frozen=True)
class Draws:
    """Drawn for a batch: `shift` int64 [N, 2] (down, right), `flipped` bool [N], `centre` int64 [N, 2] (y, x)."""

    shift: Tensor
    flipped: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; the default leaves them as they are.

    crop_padding: the image is padded with this many black pixels on each side and a window of its own size is cut
    out at a random place. flip: half of the images are mirrored left to right. cutout: side in pixels of a square
    hole (DeVries & Taylor 2017, arXiv 1708.04552), whose centre is uniform over the image, so that it may be cut
    by the edge; it is filled with 0 after normalization, the mean of the training split.
    """

    crop_padding: int = option(0, "black pixels around an image, of which a window of its size is cut out", "ours")
    flip: bool = option(False, "mirror half of the images left to right", "ours")
    cutout: int = option(0, "side in pixels of a square hole", "ours")

    def __post_init__(self) -> None:
        for name, pixels in (("crop_padding", self.crop_padding), ("cutout", self.cutout)):
            if pixels < 0:
                raise BnasError(f"{name} is a number of pixels, 0 (off) or more; found {pixels}")

    def check(self, height: int, width: int) -> None:
        """`BnasError` where the numbers make no sense for images of this size: nothing of one might be left."""
        smaller = min(height, width)
        for name, pixels in (("crop_padding", self.crop_padding), ("cutout", self.cutout)):
            if pixels >= smaller:
                raise BnasError(f"{name} of {pixels} pixels on images of {height} x {width}; at most {smaller - 1}")

    def draw(
        self, count: int, height: int, width: int, *generators: torch.Generator, device: torch.device | str = "cpu"
    ) -> Draws:
        """The random numbers for `count` images of each generator, drawn on the CPU (as they must be), given on `device`."""
        uniform = torch.cat([torch.rand(count, 5, dtype=torch.float64, generator=each) for each in generators])
        places = torch.tensor([2 * self.crop_padding + 1, 2 * self.crop_padding + 1, 2, height, width])
        # One small copy that the host does not wait for: a GPU goes on with the step before.
        whole = (uniform * places).long().to(device, non_blocking=True)
        return Draws(whole[:, 0:2] - self.crop_padding, whole[:, 2] == 1, whole[:, 3:5])

    def move(self, images: Tensor, draws: Draws) -> Tensor:
        """Crop, then flip: the part before normalization. [N, C, H, W] of any type, padded with 0."""
        if not self.crop_padding and not self.flip:
            return images
        return crop_and_flip(images, draws.shift, draws.flipped if self.flip else None, self.crop_padding)

    def cut(self, images: Tensor, draws: Draws) -> Tensor:
        """The hole: the part after normalization. float [N, C, H, W]; the input is left as it was."""
        return cutout(images, draws.centre, self.cutout) if self.cutout else images


def crop_and_flip(images: Tensor, shift: Tensor, flipped: Tensor | None, padding: int) -> Tensor:
    """Each image of [N, C, H, W] padded with 0, cut at its own place and mirrored where `flipped` (None: nowhere).

    out[n, c, y, x] = image[n, c, y + shift[n, 0], x' + shift[n, 1]] or 0 outside, with x' = W - 1 - x where flipped.
    |shift| must be at most `padding`.
    """
    count, channels, height, width = images.shape
    down, right = shift[:, 0:1] + padding, shift[:, 1:2]
    source = F.pad(images, (padding, padding, padding, padding))
    planes = torch.arange(count * channels, device=images.device).view(count, channels)
    if flipped is not None:
        # Mirror images behind the images: a row of a window is then always `width` pixels that lie together.
        source = torch.cat([source, source.flip(3)])
        mirrored = flipped.long().unsqueeze(1)
        planes = planes + mirrored * (count * channels)
        right = right - 2 * mirrored * right
    rows = (down + torch.arange(height, device=images.device)).unsqueeze(1)
    starts = (planes.unsqueeze(2) * source.shape[2] + rows) * source.shape[3] + (right + padding).unsqueeze(2)
    windows = source.contiguous().as_strided((source.numel() - width + 1, width), (1, 1))
    return windows.index_select(0, starts.flatten()).view(images.shape)


def cutout(images: Tensor, centre: Tensor, side: int) -> Tensor:
    """[N, C, H, W] with a square of `side` pixels set to 0; rows from centre[n, 0] - side // 2, columns likewise."""
    first = centre - side // 2
    rows = torch.arange(images.shape[2], device=images.device) - first[:, 0:1]
    columns = torch.arange(images.shape[3], device=images.device) - first[:, 1:2]
    in_rows = ((rows >= 0) & (rows < side)).to(images.dtype)
    in_columns = ((columns >= 0) & (columns < side)).to(images.dtype)
    kept = 1 - in_rows.unsqueeze(2) * in_columns.unsqueeze(1)
    # A product is several times as quick as a choice; that of 0 and a negative number is -0, which this makes 0.
    return (images * kept.unsqueeze(1)).add_(0.0)
