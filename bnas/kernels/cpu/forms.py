"""The two inner loops as the rest sees them: how operands and weights lie in memory, and which one is quick for a layer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from llvmlite import binding
from numpy.typing import NDArray

from bnas.kernels.cpu import compiled, tables
from bnas.kernels.cpu.micro import BYTES, LANES
from bnas.kernels.cpu.operands import (
    Operands,
    aligned,
    columns_read,
    pad_words,
    rows_of_pixel,
    rows_of_task,
    rows_read,
)
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import WORD_BITS, Words, words_for

Array = NDArray[Any]

# Images with fewer output pixels have weights of their own (a matrix times few rows).
FEW_PIXELS = 4


@dataclass(frozen=True)
class Form(ABC):
    """One inner loop; `code` is the module with its compiled functions `serial` and `parallel`."""

    name: str
    code: ModuleType

    @abstractmethod
    def cost(self, g: Geometry) -> float:
        """Time of the inner loop for one image; the unit is one look-up of a vector of bytes."""

    @abstractmethod
    def lay_out(self, weight_words: Words, g: Geometry, few_pixels: bool) -> Array:
        """Packed weights [O, kh, kw, words] as the inner loop reads them: [groups, ...]."""

    @abstractmethod
    def operands(self, g: Geometry, weights: Array, *, threads: int, source: Array, is_real: bool) -> Operands:
        """For weights laid out. `source[d]`: the filter of output channel d; `is_real`: the input is not packed."""


class Popcount(Form):
    """Words; 16 filters are a vector."""

    def cost(self, g: Geometry) -> float:
        # A word of 16 filters takes as long as so many look-ups: measured with AVX512-VPOPCNTDQ, and with AVX2.
        look_ups = 3.2 if "avx512vpopcntdq" in features() else 13.0
        return look_ups * _pixels(g) * g.groups * -(-g.group_filters // LANES) * g.taps * g.words

    def lay_out(self, weight_words: Words, g: Geometry, few_pixels: bool) -> Array:
        """For every one or four blocks of 16 filters, step after step, a word of each filter."""
        blocks = -(-g.group_filters // LANES)
        padded = np.zeros((g.groups, blocks * LANES, g.taps * g.words), dtype=np.uint32)
        padded[:, : g.group_filters] = weight_words.reshape(g.groups, g.group_filters, -1)
        fours = blocks // 4 if few_pixels else 0
        return _tiled(padded, [4 * LANES] * fours + [LANES] * (blocks - 4 * fours))

    def operands(self, g: Geometry, weights: Array, *, threads: int, source: Array, is_real: bool) -> Operands:
        width, blocks = g.out_size[1], -(-g.group_filters // LANES)
        lanes = g.groups * blocks * LANES
        rows = rows_of_task(g, 4 * lanes * width, threads)
        pixel_bytes = 4 * g.words
        row_bytes = pixel_bytes * columns_read(g)
        group_bytes = rows_read(g, rows) * row_bytes
        y, x = np.divmod(np.arange(rows * width + compiled.MOST_PIXELS), width)
        y, x = np.minimum(y, rows - 1), np.where(y < rows, x, width - 1)
        segments = self._segments(g, row_bytes, pixel_bytes)
        group, place = np.divmod(source, g.group_filters)
        lane_of = group * blocks * LANES + place
        fields: dict[str, int | Array] = {
            "rows": rows,
            "pad_words": pad_words(g, g.groups),
            "pixel_bytes": pixel_bytes,
            "group_bytes": group_bytes,
            "pixels": y * g.stride[0] * row_bytes + x * g.stride[1] * pixel_bytes,
            "segments": segments,
            "segment_count": len(segments),
            "weights": weights,
            "weight_group_bytes": weights.nbytes // g.groups,
            "blocks": blocks,
            "lanes": lanes,
            "source": 0 if np.array_equal(lane_of, np.arange(g.filters)) else lane_of,
        }
        counts = 4 * lanes * (rows * width + compiled.MOST_PIXELS)
        first = {"acts_at": g.groups * group_bytes, "counts_at": counts}
        return Operands(fields, {**first, **rows_of_pixel(g, g.groups * g.words)})

    def _segments(self, g: Geometry, row_bytes: int, pixel_bytes: int) -> Array:
        """(offset, steps) of the taps; those of one row of the kernel are one run where they lie together."""
        (kh, kw), (down, right) = g.kernel, g.dilation
        taps = [(ky * down * row_bytes, kx * right * pixel_bytes) for ky in range(kh) for kx in range(kw)]
        if right > 1:
            return np.array([(y + x, g.words) for y, x in taps], dtype=np.int64)
        return np.array([(y, kw * g.words) for y, x in taps if x == 0], dtype=np.int64)


class Tables(Form):
    """Look-ups of 4 bits; 32 pixels are a vector."""

    def cost(self, g: Geometry) -> float:
        if g.length >= 1 << 16:
            # Counts have 16 bits.
            return np.inf
        vectors = tables.PIXELS // BYTES * -(-_pixels(g) // tables.PIXELS)
        return float(vectors * g.groups * _filters_counted(g) * g.taps * _nibbles(g))

    def lay_out(self, weight_words: Words, g: Geometry, few_pixels: bool) -> Array:
        """For every six or four filters, step after step, the offset of each filter's table."""
        shifts = np.arange(0, WORD_BITS, 4, dtype=np.uint32)
        offsets = ((weight_words[..., None] >> shifts & 15) << 4).astype(np.uint8)
        by_tap = offsets.reshape(g.groups, g.group_filters, g.taps, -1)[..., : _nibbles(g)]
        padded = np.zeros((g.groups, _filters_counted(g), g.taps * _nibbles(g)), dtype=np.uint8)
        padded[:, : g.group_filters] = by_tap.reshape(g.groups, g.group_filters, -1)
        sixes, fours = _sixes_and_fours(g.group_filters)
        return _tiled(padded, [6] * sixes + [4] * fours)

    def operands(self, g: Geometry, weights: Array, *, threads: int, source: Array, is_real: bool) -> Operands:
        steps, lanes, width = g.taps * _nibbles(g), -(-g.filters // LANES) * LANES, g.out_size[1]
        nibbles, pointwise = g.groups * _nibbles(g), is_pointwise(g)
        rows = rows_of_task(g, nibbles * g.kernel[1] * width, threads)
        # Rows of an image lie by their remainder, so that taps of consecutive outputs do in spite of strides.
        class_bytes = -(-rows_read(g, rows) // g.stride[0]) * width + BYTES
        # An odd number of cache lines: what one pixel's taps read does not compete for the same places in the cache.
        plane_bytes = -(-g.stride[0] * class_bytes // 128) * 128 + 64
        group, place = np.divmod(source, g.group_filters)
        order = np.zeros(lanes, dtype=np.int64)
        order[: g.filters] = 2 * tables.PIXELS * (group * _filters_counted(g) + place)
        # Real values are compared without a look at groups.
        bit_groups = 1 if is_real else g.groups
        pixel_words = bit_groups * words_for(g.channels // bit_groups)
        pixels = rows * width if pointwise else columns_read(g)
        phase_bytes = 4 * (-(-pixels // g.stride[1]) + BYTES)
        sixes, fours = _sixes_and_fours(g.group_filters)
        fields: dict[str, int | Array] = {
            "rows": rows,
            "pad_words": pad_words(g, bit_groups),
            "is_pointwise": int(pointwise),
            "pixel_words": pixel_words,
            "phase_bytes": phase_bytes,
            "word_bytes": phase_bytes * g.stride[1],
            "nibbles": nibbles,
            "nibble_at": _nibble_at(g, bit_groups, phase_bytes * g.stride[1]),
            "kernel_width": g.kernel[1],
            "dilation_x": g.dilation[1],
            "class_bytes": class_bytes,
            "plane_bytes": plane_bytes,
            "group_bytes": _nibbles(g) * g.kernel[1] * plane_bytes,
            "steps": steps,
            "step_at": _step_at(g, plane_bytes, class_bytes, width),
            "weights": weights,
            "weight_group_bytes": weights.nbytes // g.groups,
            "tables": _popcount_tables(),
            "sixes": sixes,
            "fours": fours,
            "group_sums_bytes": 2 * tables.PIXELS * _filters_counted(g),
            "order": order,
            "lanes": lanes,
        }
        scratch = {
            "acts_at": nibbles * g.kernel[1] * plane_bytes + tables.PIXELS,
            "sums_at": g.groups * 2 * tables.PIXELS * _filters_counted(g),
            "counts_at": 4 * lanes * tables.PIXELS,
            "words_at": pixel_words * phase_bytes * g.stride[1],
        }
        return Operands(fields, {**scratch, **rows_of_pixel(g, 0)})


def _tiled(padded: Array, sizes: list[int]) -> Array:
    """[groups, filters, steps] as, for each run of so many filters, [groups, steps, filters] one after the other."""
    ends = np.cumsum(sizes)
    parts = [padded[:, end - size : end].transpose(0, 2, 1) for size, end in zip(sizes, ends, strict=True)]
    return aligned(np.concatenate([part.reshape(len(padded), -1) for part in parts], axis=1))


def _pixels(g: Geometry) -> int:
    """Output pixels of one image."""
    return g.out_size[0] * g.out_size[1]


def is_pointwise(g: Geometry) -> bool:
    """Whether an output pixel sees the input pixel in its place."""
    return g.kernel == g.stride == (1, 1) and g.padding == (0, 0, 0, 0)


def _nibbles(g: Geometry) -> int:
    """Steps of one tap of a group."""
    return -(-g.group_channels // 4)


@cache
def _sixes_and_fours(filters: int) -> tuple[int, int]:
    """Tiles of six and of four filters that hold so many, with the fewest fillers, then the fewest tiles."""
    pairs = [(max(0, -(-(filters - 4 * fours) // 6)), fours) for fours in range(3)]
    return min(pairs, key=lambda pair: (6 * pair[0] + 4 * pair[1], sum(pair)))


def _filters_counted(g: Geometry) -> int:
    """Filters of a group, with fillers."""
    sixes, fours = _sixes_and_fours(g.group_filters)
    return 6 * sixes + 4 * fours


def _nibble_at(g: Geometry, bit_groups: int, word_bytes: int) -> Array:
    """Where 4 channels lie in the words of a line, int64 [groups x nibbles, 4].

    Bytes of the word; bit; which of 4 bits are channels of the group; by how much those of the next word move, or 0.
    """
    group, place = np.divmod(np.arange(g.groups * _nibbles(g)), _nibbles(g))
    bit = 4 * place + group * (g.group_channels if bit_groups == 1 else WORD_BITS * g.words)
    word, shift = np.divmod(bit, WORD_BITS)
    length = np.minimum(4, g.group_channels - 4 * place)
    back = np.where(shift + length > WORD_BITS, WORD_BITS - shift, 0)
    return np.stack([word * word_bytes, shift, (1 << length) - 1, back], axis=1)


def _step_at(g: Geometry, plane_bytes: int, class_bytes: int, row_bytes: int) -> Array:
    """Where the bytes of each step lie in the planes of a group: int64 [kh x kw x nibbles]."""
    ky, kx, nibble = np.ogrid[: g.kernel[0], : g.kernel[1], : _nibbles(g)]
    row, remainder = np.divmod(ky * g.dilation[0], g.stride[0])
    at: Array = (nibble * g.kernel[1] + kx) * plane_bytes + remainder * class_bytes + row * row_bytes
    return at.reshape(-1)


@cache
def _popcount_tables() -> Array:
    nibble = np.arange(16, dtype=np.uint8)
    return aligned(np.bitwise_count(nibble[:, None] ^ nibble))


@cache
def features() -> frozenset[str]:
    """What this processor has, in LLVM's words."""
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


POPCOUNT, TABLES = Popcount("popcount", compiled), Tables("tables", tables)


def forms_here() -> tuple[Form, ...]:
    """Those that this processor runs: `tables` needs AVX2."""
    return (POPCOUNT, TABLES) if "avx2" in features() else (POPCOUNT,)


def quickest(g: Geometry) -> Form:
    """The form that takes the fewest instructions for that convolution."""
    return min(forms_here(), key=lambda form: form.cost(g))


def detail() -> str:
    """The inner loops, and what the processor gives them."""
    known = ("avx512vpopcntdq", "avx512bw", "avx2", "neon")
    best = next((feature for feature in known if feature in features()), "no vector instructions that matter")
    return f"{' or '.join(form.name for form in forms_here())}, {best}"
