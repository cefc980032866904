"""The table that completes an and-popcount: what a patch's sum is before its activations are looked at."""

import numpy as np
import torch
from torch import Tensor

from bnas.kernels.geometry import Geometry


def border_table(geometry: Geometry, weight: Tensor) -> tuple[Tensor, Tensor]:
    """int32 table [rows, O] of sums over taps, and the row of each output pixel, int32 [Ho Wo]; on the weights' device.

    A tap inside of the image adds C - 2 pop(w), one outside pad_value (2 pop(w) - C), with C channels a group. Few pixels
    differ: a 3x3 convolution that pads by 1 has 9 rows, one without padding 1.
    """
    rows, columns = (_taps_inside(geometry, axis) for axis in (0, 1))
    row_kinds, row_of = np.unique(rows, axis=0, return_inverse=True)
    column_kinds, column_of = np.unique(columns, axis=0, return_inverse=True)
    inside = (row_kinds[:, None, :, None] & column_kinds[None, :, None, :]).reshape(-1, geometry.taps)
    signs = torch.from_numpy(np.where(inside, 1, -geometry.pad_value)).to(weight.device, torch.float64)
    tap_sums = geometry.group_channels - 2 * set_bits(weight).sum(dim=-1).reshape(-1, geometry.taps)
    table = (signs @ tap_sums.to(torch.float64).T).to(torch.int32)
    kind_of = row_of.reshape(-1, 1) * len(column_kinds) + column_of.reshape(1, -1)
    return table.contiguous(), torch.from_numpy(kind_of.reshape(-1).astype(np.int32)).to(weight.device)


def set_bits(words: Tensor) -> Tensor:
    """Set bits of every int32 word, int32."""
    v = words.to(torch.int64) & 0xFFFFFFFF
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F
    return (((v * 0x01010101) & 0xFFFFFFFF) >> 24).to(torch.int32)


def _taps_inside(geometry: Geometry, axis: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """bool [output rows, kernel rows], or of columns for axis 1: which taps lie in the image."""
    size = (geometry.height, geometry.width)[axis]
    first = np.arange(geometry.out_size[axis]) * geometry.stride[axis] - geometry.padding[axis]
    place = first[:, None] + np.arange(geometry.kernel[axis])[None, :] * geometry.dilation[axis]
    return (place >= 0) & (place < size)
