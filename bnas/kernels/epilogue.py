"""What becomes of the integer sums of a binary convolution when a kernel stores them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnas.errors import BnasError
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import WORD_BITS, words_for


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Nothing: int32 sums. `scale` [O]: float32 sums x scale. With `value` and `flip` [O] too: packed words.

    The bit is s >= value, where `flip` is set s <= value, for s = sum x scale rounded once to float32: the very numbers that
    a convolution followed by a threshold would compare. `groups` is that of the packed result.
    """

    scale: Tensor | None = None
    value: Tensor | None = None
    flip: Tensor | None = None
    groups: int = 1

    @property
    def kind(self) -> int:
        """0 sums, 1 scaled, 2 bits: SUMS, SCALED and BITS of the kernels."""
        return 2 if self.value is not None else int(self.scale is not None)

    def check(self, geometry: Geometry) -> None:
        """`BnasError` where the tensors do not fit, or where a kernel cannot write such words in one go."""
        given = {"scale": self.scale, "value": self.value, "flip": self.flip}
        for name, tensor in given.items():
            if tensor is not None and tuple(tensor.shape) != (geometry.filters,):
                raise BnasError(f"{name} has the shape {tuple(tensor.shape)}; {geometry.filters} filters need as many")
        if self.kind == 2:
            if self.scale is None or self.flip is None:
                raise BnasError("packed results need scale, value and flip")
            if not writes_whole_words(geometry.filters, geometry.groups, self.groups):
                raise BnasError(
                    f"{geometry.filters} filters in {geometry.groups} groups cannot be packed in {self.groups} groups by the "
                    f"convolution itself: where there are several groups, each must hold a multiple of {WORD_BITS}"
                )

    def new_output(self, geometry: Geometry, device: torch.device) -> Tensor:
        """Uninitialised: int32 or float32 [N, Ho, Wo, O], or int32 words [N, Ho, Wo, groups, words]."""
        pixels = (geometry.images, *geometry.out_size)
        if self.kind == 2:
            shape: tuple[int, ...] = (*pixels, self.groups, words_for(geometry.filters // self.groups))
        else:
            shape = (*pixels, geometry.filters)
        return torch.empty(shape, dtype=torch.float32 if self.kind == 1 else torch.int32, device=device)


def writes_whole_words(filters: int, groups: int, out_groups: int) -> bool:
    """Whether no word of a result packed in `out_groups` groups mixes filters of two of the convolution's groups."""
    of_result = out_groups == 1 or filters % (out_groups * WORD_BITS) == 0
    return of_result and (groups == 1 or filters % (groups * WORD_BITS) == 0)
