"""What a form of the convolution tells its compiled code about one input size, and the sizes that forms share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.kernels.cpu.micro import LANES
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import WORD_BITS, Words, full_words, words_for

Array = NDArray[Any]

# Operands or counts of one task: they stay in the second-level cache.
TASK_BYTES = 160 * 1024


@dataclass(frozen=True)
class Operands:
    """Fields of the job, arrays for their addresses; bytes of scratch memory, by the field that says where they begin."""

    fields: dict[str, int | Array]
    scratch: dict[str, int]


def rows_of_task(g: Geometry, row_bytes: int, threads: int) -> int:
    """Output rows that one task makes: at least one task for each thread, and tasks of equal size."""
    height = g.out_size[0]
    rows = max(1, min(height, TASK_BYTES // row_bytes, -(-height * g.images // threads)))
    return -(-height // -(-height // rows))


def rows_read(g: Geometry, rows: int) -> int:
    """Input rows that a task of so many output rows reads."""
    return (rows - 1) * g.stride[0] + span(g)[0]


def span(g: Geometry) -> tuple[int, int]:
    """Rows and columns from the first to the last tap."""
    (kh, kw), (down, right) = g.kernel, g.dilation
    return down * (kh - 1) + 1, right * (kw - 1) + 1


def columns_read(g: Geometry) -> int:
    return (g.out_size[1] - 1) * g.stride[1] + span(g)[1]


def pad_words(g: Geometry, groups: int) -> Words:
    """The words of a pixel outside the image, its channels packed in `groups` groups."""
    channels = g.channels // groups
    pad = full_words(channels) if g.pad_value == 1 else np.zeros(words_for(channels), np.uint32)
    return np.tile(pad, groups)


def rows_of_pixel(g: Geometry, words: int) -> dict[str, int]:
    """Scratch memory to put a pixel's counts in order, for its real values, and for `words` words that go in and some out."""
    most = max(g.channels, g.filters) // WORD_BITS + 2
    return {"row_at": 8 * (g.filters + LANES), "flat_at": 4 * (most + words)}


def aligned(array: Array, to: int = 64) -> Array:
    """A copy that begins at an address divisible by `to`."""
    room = np.empty(array.nbytes + to, dtype=np.uint8)
    start = -room.ctypes.data % to
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
