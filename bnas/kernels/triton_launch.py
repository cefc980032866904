"""Launch the Triton kernels: tensors, sizes and grids. A word is an int32 here, as Triton and torch count bits alike in it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import words_for
from bnas.kernels.triton_pack import pack_kernel, unpack_kernel

PACK_ROWS = 64


@dataclass(frozen=True)
class Tile:
    """What one program computes: pixels x filters, words a step; and its warps of 32 threads."""

    pixels: int
    filters: int
    words: int
    warps: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.filters}x{self.words}, {self.warps} warps"


def constants(geometry: Geometry, epilogue: Epilogue) -> dict[str, int]:
    """The compile-time arguments of a convolution kernel, but for its tile."""
    (top, left, _, _), (down, right) = geometry.padding, geometry.stride
    return {
        "GROUPS": geometry.groups,
        "CHANNELS": geometry.group_channels,
        "WORDS": geometry.words,
        "TAPS": geometry.taps,
        "KW": geometry.kernel[1],
        "STRIDE_Y": down,
        "STRIDE_X": right,
        "TOP": top,
        "LEFT": left,
        "DIL_Y": geometry.dilation[0],
        "DIL_X": geometry.dilation[1],
        "PAD": geometry.pad_value,
        "EPILOGUE": epilogue.kind,
    }


def convolve(kernel: Any, tile: Tile, geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    """Run a kernel of `triton_popc` or `triton_int8` on contiguous int32 words; the new output of `epilogue`."""
    out = epilogue.new_output(geometry, bits.device)
    if out.numel() == 0:
        return out
    grid = (-(-geometry.pixels // tile.pixels), -(-geometry.group_filters // tile.filters), geometry.groups)
    kernel[grid](
        bits,
        weight,
        out,
        *(weight if tensor is None else tensor for tensor in (epilogue.scale, epilogue.value, epilogue.flip)),
        geometry.pixels,
        *geometry.out_size,
        geometry.height,
        geometry.width,
        geometry.group_filters,
        **constants(geometry, epilogue),
        BM=tile.pixels,
        BN=tile.filters,
        BW=tile.words,
        num_warps=tile.warps,
    )
    return out


def pack(x: Tensor, value: Tensor, flip: Tensor, groups: int) -> Tensor:
    """Real x [N, C, H, W] of any strides and float type, thresholds [C], flips uint8 [C]: words [N, H, W, groups, words]."""
    N, C, H, W = x.shape
    words = words_for(C // groups)
    out = torch.empty((N, H, W, groups, words), dtype=torch.int32, device=x.device)
    if out.numel() == 0:
        return out
    pixels = N * H * W
    pack_kernel[(-(-pixels // PACK_ROWS), groups * words)](
        x,
        value,
        flip,
        out,
        pixels,
        H * W,
        W,
        *x.stride(),
        GROUPS=groups,
        CHANNELS=C // groups,
        WORDS=words,
        BM=PACK_ROWS,
    )
    return out


def unpack(words: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Contiguous words [..., groups, words] to +-1 [..., channels] of that type."""
    *rows, groups, per_group = words.shape
    out = torch.empty((*rows, channels), dtype=dtype, device=words.device)
    if out.numel() == 0:
        return out
    count = words.numel() // (groups * per_group)
    unpack_kernel[(-(-count // PACK_ROWS), groups * per_group)](
        words, out, count, GROUPS=groups, CHANNELS=channels // groups, WORDS=per_group, BM=PACK_ROWS
    )
    return out
