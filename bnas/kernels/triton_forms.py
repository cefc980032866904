"""The forms in which a GPU can do a binary convolution, and the tiles that are tried of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bnas.kernels.dispatch import Choice
from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import WORD_BITS
from bnas.kernels.triton_b1 import b1_kernel
from bnas.kernels.triton_border import border_table
from bnas.kernels.triton_dense import dense_conv2d, dense_weight
from bnas.kernels.triton_int8 import int8_kernel
from bnas.kernels.triton_launch import Tile, constants, convolve
from bnas.kernels.triton_popc import popc_kernel

# Ours: the first of each is for large layers, the others for few pixels, few filters or few words. Larger ones spill.
POPC_TILES = (Tile(64, 64, 1, 4), Tile(32, 32, 1, 4), Tile(1, 16, 32, 4))
INT8_TILES = (Tile(128, 64, 2, 8), Tile(64, 64, 2, 4))
B1_TILES = (Tile(128, 128, 16, 8), Tile(128, 64, 16, 4), Tile(64, 64, 16, 4))
# Of dense: cuDNN and cuBLAS choose their own tiles.
WHOLE = Tile(0, 0, 0, 0)
# Warps along pixels and along filters.
B1_WARPS = {B1_TILES[0]: (2, 4), B1_TILES[1]: (4, 1), B1_TILES[2]: (2, 2)}
# The instruction of b1 came with Ampere.
B1_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Form:
    """`prepare` derives tensors from weights alone, once a layer; `run` makes a new output. All are exact."""

    tiles: tuple[Tile, ...]
    prepare: Callable[[Geometry, Tensor], tuple[Tensor, ...]]
    run: Callable[[Tile, Geometry, Tensor, Tensor, tuple[Tensor, ...], Epilogue], Tensor]

    def fitting(self, epilogue: Epilogue) -> tuple[Tile, ...]:
        """The tiles that can write what the epilogue asks for."""
        return tuple(tile for tile in self.tiles if epilogue.kind != 2 or tile.filters % WORD_BITS == 0)


def run_b1(
    tile: Tile, geometry: Geometry, bits: Tensor, weight: Tensor, prepared: tuple[Tensor, ...], epilogue: Epilogue
) -> Tensor:
    """`prepared` is a `border_table`."""
    out = epilogue.new_output(geometry, bits.device)
    if out.numel() == 0:
        return out
    unused = (weight if tensor is None else tensor for tensor in (epilogue.scale, epilogue.value, epilogue.flip))
    b1_kernel[b1_grid(tile, geometry)](
        bits, weight, *prepared, out, *unused,
        geometry.pixels, *geometry.out_size, geometry.height, geometry.width, geometry.group_filters,
        **b1_constants(tile, geometry, epilogue), num_warps=tile.warps,
    )  # fmt: skip
    return out


def b1_grid(tile: Tile, geometry: Geometry) -> tuple[int, int, int]:
    return -(-geometry.pixels // tile.pixels), -(-geometry.group_filters // tile.filters), geometry.groups


def b1_constants(tile: Tile, geometry: Geometry, epilogue: Epilogue) -> dict[str, int]:
    """The compile-time arguments of the b1 kernel: padding stands in its table."""
    common = {k: v for k, v in constants(geometry, epilogue).items() if k not in ("CHANNELS", "PAD")}
    along_m, along_n = B1_WARPS[tile]
    return {**common, "BM": tile.pixels, "BN": tile.filters, "WARPS_M": along_m, "WARPS_N": along_n}


def _nothing(geometry: Geometry, weight: Tensor) -> tuple[Tensor, ...]:
    return ()


FORMS: Mapping[str, Form] = {
    "popc": Form(POPC_TILES, _nothing, lambda t, g, a, w, _, e: convolve(popc_kernel, t, g, a, w, e)),
    "int8": Form(INT8_TILES, _nothing, lambda t, g, a, w, _, e: convolve(int8_kernel, t, g, a, w, e)),
    "b1": Form(B1_TILES, border_table, run_b1),
    "dense": Form((WHOLE,), dense_weight, lambda t, g, a, _, w, e: dense_conv2d(g, a, w[0], e)),
}


def choice_of(form: str, tile: Tile) -> Choice:
    return Choice(form, (tile.pixels, tile.filters, tile.words, tile.warps))


# What the interpreter runs: its time goes by programs and steps.
INTERPRETED = choice_of("popc", POPC_TILES[1])


def forms_for(device: torch.device) -> tuple[str, ...]:
    """The forms that this GPU has."""
    has_b1 = torch.cuda.get_device_capability(device) >= B1_CAPABILITY
    return tuple(name for name in FORMS if name != "b1" or has_b1)
