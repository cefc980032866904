"""What a form of the convolution tells its compiled code about one input size, and the sizes that forms share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import Tasks
from bnas.kernels.cpu.micro import FOUR, LANES, ONE, STEPS_TOGETHER, TWO
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import WORD_BITS, Words, full_words, words_for

Array = NDArray[Any]

# Operands or counts of one task: they stay in the second-level cache.
TASK_BYTES = 160 * 1024
# Outputs that are finished together, while their counts are near.
PIXELS_FINISHED = 16
# Nanoseconds of three steps of look-ups, measured with AVX2: one table for so many vectors.
LOOK_UP_TIMES = {FOUR.vectors: 4.2, TWO.vectors: 2.3, ONE.vectors: 1.5}
# More bytes of weights than this come from behind the cache each time: nanoseconds a byte, measured with other work between.
CACHED_BYTES, BYTE_TIME = 2**20, 0.05
# Counts of look-ups have 16 bits.
MOST_COUNTED = (1 << 16) - 1


@dataclass(frozen=True)
class Operands:
    """Fields of the job, arrays for their addresses; bytes of scratch memory, by the field that says where they begin."""

    fields: dict[str, int | Array]
    scratch: dict[str, int]


@dataclass(frozen=True)
class Form(ABC):
    """One inner loop: how operands and weights lie in memory for it, and its compiled code."""

    name: str
    tasks: Tasks

    @abstractmethod
    def cost(self, g: Geometry, features: frozenset[str]) -> float:
        """Nanoseconds for one image, about; `features` of the processor, in LLVM's words."""

    @abstractmethod
    def lay_out(self, weight_words: Words, g: Geometry, few_pixels: bool) -> Array:
        """Packed weights [O, kh, kw, words] as the inner loop reads them: [groups, ...]."""

    @abstractmethod
    def operands(self, g: Geometry, weights: Array, *, threads: int, source: Array, is_real: bool) -> Operands:
        """For weights laid out. `source[d]`: the filter of output channel d; `is_real`: the input is not packed."""


def rows_of_task(g: Geometry, row_bytes: int, threads: int) -> int:
    """Output rows that one task makes: tasks of equal size, and, as far as there are rows, as many for each thread."""
    height, images = g.out_size[0], max(1, g.images)
    tasks = images * -(-height // max(1, min(height, TASK_BYTES // row_bytes)))
    of_an_image = -(-(-(-tasks // threads) * threads) // images)
    return -(-height // min(height, of_an_image))


def rows_read(g: Geometry, rows: int) -> int:
    """Input rows that a task of so many output rows reads."""
    return (rows - 1) * g.stride[0] + span(g)[0]


def span(g: Geometry) -> tuple[int, int]:
    """Rows and columns from the first to the last tap."""
    (kh, kw), (down, right) = g.kernel, g.dilation
    return down * (kh - 1) + 1, right * (kw - 1) + 1


def pixels_read(g: Geometry) -> int:
    """Pixels of one image that are read, those outside of it too."""
    return rows_read(g, g.out_size[0]) * columns_read(g)


def columns_read(g: Geometry) -> int:
    return (g.out_size[1] - 1) * g.stride[1] + span(g)[1]


def is_pointwise(g: Geometry) -> bool:
    """Whether an output pixel sees the input pixel in its place."""
    return g.kernel == g.stride == (1, 1) and g.padding == (0, 0, 0, 0)


def for_inputs(g: Geometry, images: int, height: int, width: int) -> Geometry:
    """The same convolution of such inputs; where neither size nor border matters, all are one image of many rows."""
    if is_pointwise(g):
        images, height = 1, images * height
    return replace(g, images=images, height=height, width=width)


def out_pixels(g: Geometry) -> int:
    """Output pixels of one image."""
    return g.out_size[0] * g.out_size[1]


def words_together(g: Geometry, rows: int) -> dict[str, int | Array]:
    """Fields for `compiled.fill`: words of a pixel lie together, those of each group in a plane."""
    pixel_bytes = 4 * g.words
    return {
        "pad_words": pad_words(g, g.groups),
        "pixel_bytes": pixel_bytes,
        "group_bytes": rows_read(g, rows) * columns_read(g) * pixel_bytes,
    }


def fill_time(g: Geometry) -> float:
    """Nanoseconds of `compiled.fill` for one image, measured with AVX2: words, and pixels of several groups."""
    return pixels_read(g) * (3.4 * g.groups * g.words + (30 if g.groups > 1 else 0))


def lane_of_channel(g: Geometry, source: Array, lanes: int) -> int | Array:
    """Where the count of each output channel lies, groups having `lanes` lanes each; 0: in its place."""
    group, place = np.divmod(source, g.group_filters)
    lane = group * lanes + place
    return 0 if np.array_equal(lane, np.arange(g.filters)) else lane


def nibbles(g: Geometry) -> int:
    """Steps of look-ups for one tap of a group: 4 channels each."""
    return -(-g.group_channels // 4)


def steps_of_look_ups(g: Geometry) -> int:
    """Those of a sum, with fillers: so many are added at once."""
    return -(-g.taps * nibbles(g) // STEPS_TOGETHER) * STEPS_TOGETHER


def vector_tiles(vectors: int) -> list[int]:
    """So many vectors as tiles of 4, then of 2 and of 1."""
    return [4] * (vectors // 4) + [2] * (vectors % 4 // 2) + [1] * (vectors % 2)


def look_up_time(g: Geometry, tables: int, vectors: int) -> float:
    """Nanoseconds of the look-ups of one image in `tables` tables of each step by so many vectors; weights are bytes."""
    threes = steps_of_look_ups(g) // STEPS_TOGETHER
    counted = threes * tables * sum(LOOK_UP_TIMES[tile] for tile in vector_tiles(vectors))
    return max(counted, streamed_time(g.filters * steps_of_look_ups(g)))


def streamed_time(weight_bytes: int) -> float:
    """Nanoseconds until all weights have been read, 0 where they stay at hand."""
    return BYTE_TIME * weight_bytes if weight_bytes > CACHED_BYTES else 0.0


def nibbles_of_weights(weight_words: Words, g: Geometry) -> Array:
    """Packed weights [O, kh, kw, words] as 4 bits in each byte: uint8 [groups, filters of a group, steps without fillers]."""
    shifts = np.arange(0, WORD_BITS, 4, dtype=np.uint32)
    in_bytes = (weight_words[..., None] >> shifts & 15).astype(np.uint8)
    by_tap = in_bytes.reshape(g.groups, g.group_filters, g.taps, -1)[..., : nibbles(g)]
    return by_tap.reshape(g.groups, g.group_filters, -1)


def tiled(padded: Array, sizes: list[int]) -> Array:
    """[groups, filters, steps] as, for each run of so many filters, [groups, steps, filters] one after the other."""
    ends = np.cumsum(sizes)
    parts = [padded[:, end - size : end].transpose(0, 2, 1) for size, end in zip(sizes, ends, strict=True)]
    return aligned(np.concatenate([part.reshape(len(padded), -1) for part in parts], axis=1))


def pad_words(g: Geometry, groups: int) -> Words:
    """The words of a pixel outside the image, its channels packed in `groups` groups."""
    channels = g.channels // groups
    pad = full_words(channels) if g.pad_value == 1 else np.zeros(words_for(channels), np.uint32)
    return np.tile(pad, groups)


def rows_of_pixels(g: Geometry, words: int) -> dict[str, int]:
    """Scratch memory to put pixels' counts in order, for their real values, and for `words` words that go in and some out."""
    most = max(g.channels, g.filters) // WORD_BITS + 2
    return {"row_at": 2 * PIXELS_FINISHED * 4 * (g.filters + LANES), "flat_at": 4 * (most + words)}


def aligned(array: Array, to: int = 64) -> Array:
    """A copy that begins at an address divisible by `to`."""
    room = np.empty(array.nbytes + to, dtype=np.uint8)
    start = -room.ctypes.data % to
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
