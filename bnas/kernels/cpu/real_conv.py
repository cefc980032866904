"""Real-valued convolutions and matrix products, planned like a packed layer; norm and activation are in the store.

Each output is one sum in one order: bias, then the products of the taps from left to right and downwards, of each tap from
the first channel to the last. So it depends on nothing but its window: not on the batch, its neighbours or the threads.
"""

from typing import Any

import numpy as np
import torch
from numba import carray
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import Tasks, compiled
from bnas.kernels.cpu.layer import Epilogue
from bnas.kernels.cpu.micro import LANES
from bnas.kernels.cpu.operands import aligned, columns_read, for_inputs, rows_of_task, rows_read, span
from bnas.kernels.cpu.plan import Plan, record
from bnas.kernels.cpu.real_products import SIX_BY_ONE, one_by_one, six_by_one
from bnas.kernels.cpu.vectors import copy_some
from bnas.kernels.geometry import Geometry

Array = NDArray[Any]

# Products of one thread in a microsecond, about, measured with AVX2.
PRODUCTS_A_MICROSECOND = 40_000
TILE = SIX_BY_ONE.pixels

_FIELDS = (
    # The input, and where in it the first tap of the first output lies; of a copied line, the values of each part.
    "x", "image_bytes", "line_bytes", "height", "top", "first", "is_copied", "source_bytes", "left", "middle", "line",
    "pad", "scratch", "scratch_bytes",
    # Each task makes this many output rows; each input row that it reads leads to the next by `line_bytes`.
    "rows", "out_height", "out_width", "stride_y", "span_y", "pixels", "segments", "segment_count", "group_bytes",
    "groups", "group_filters", "blocks", "weights", "block_bytes", "parameters", "parameter_bytes", "follows",
    "out", "out_pixel",
)  # fmt: skip

REAL = np.dtype([(name, np.int64) for name in _FIELDS])


class RealConv:
    """Weights [O, C / groups, kh, kw] and bias [O] made ready, with what follows them: an `Epilogue` without a scale."""

    def __init__(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        pad_value: int = 0,
        epilogue: Epilogue | None = None,
    ) -> None:
        filters, channels, kh, kw = map(int, weight.shape)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "pad_value": pad_value}
        self._of_one_pixel = Geometry(1, 1, 1, channels * groups, filters, (kh, kw), **options)  # type: ignore[arg-type]
        rows = np.zeros((6, filters), dtype=np.float32)
        rows[0] = 0 if bias is None else bias
        self._follows = int(epilogue is not None and epilogue.follows)
        if epilogue is not None:
            rows[1:] = epilogue.rows(filters)[1:, :filters]
        self._parameters = aligned(self._in_blocks(rows))
        steps = weight.transpose(2, 3, 1, 0).reshape(-1, filters)
        self._weights = aligned(self._in_blocks(steps).transpose(1, 0, 2))

    def _in_blocks(self, rows: Array) -> Array:
        """[rows, filters] as [rows, blocks of all groups, 16]; zeros fill the last block of a group."""
        groups, filters = self._of_one_pixel.groups, self._of_one_pixel.group_filters
        padded = np.zeros((len(rows), groups, -(-filters // LANES) * LANES), dtype=np.float32)
        padded[..., :filters] = rows.reshape(len(rows), groups, filters)
        return padded.reshape(len(rows), -1, LANES)

    def plan(self, x: Array, out: Array) -> Plan:
        """From x [N, H, W, C] to out [N, Ho, Wo, O], float32, each in one piece."""
        g = for_inputs(self._of_one_pixel, *x.shape[:3])
        (top, left, _, _), (height, width) = g.padding, g.out_size
        pixel_bytes, rows_needed, columns = 4 * g.channels, rows_read(g, height), columns_read(g)
        is_copied = max(top, left, rows_needed - top - g.height, columns - left - g.width) > 0
        line_bytes = pixel_bytes * (columns if is_copied else g.width)
        rows = rows_of_task(g, g.stride[0] * line_bytes, torch.get_num_threads())
        skipped, before = max(0, -left), max(0, left)
        y, column = np.divmod(np.arange(rows * width), width)
        kept = {
            "x": x,
            "out": out,
            "pad": np.full(LANES, g.pad_value, dtype=np.float32),
            "pixels": y * g.stride[0] * line_bytes + column * g.stride[1] * pixel_bytes,
            "segments": _segments(g, line_bytes),
            "weights": self._weights,
            "parameters": self._parameters,
        }
        sizes = {
            "image_bytes": g.height * g.width * pixel_bytes,
            "line_bytes": line_bytes,
            "height": g.height,
            "top": top,
            "first": pixel_bytes * (skipped if is_copied else -top * g.width - left),
            "is_copied": int(is_copied),
            "source_bytes": g.width * pixel_bytes,
            "left": g.channels * before,
            "middle": g.channels * max(0, min(g.width - skipped, columns - before)),
            "line": g.channels * columns,
            "scratch_bytes": rows_read(g, rows) * line_bytes + 128 if is_copied else 0,
            "rows": rows,
            "out_height": height,
            "out_width": width,
            "stride_y": g.stride[0],
            "span_y": span(g)[0],
            "segment_count": len(kept["segments"]),
            "group_bytes": 4 * g.group_channels,
            "groups": g.groups,
            "group_filters": g.group_filters,
            "blocks": len(self._weights) // g.groups,
            "block_bytes": self._weights.strides[0],
            "parameter_bytes": self._parameters.strides[0],
            "follows": self._follows,
            "out_pixel": 4 * g.filters,
        }
        addresses = {name: array.ctypes.data for name, array in kept.items()}
        job, tasks = record(REAL, (sizes | addresses).items()), g.images * -(-height // rows)
        return Plan(ROWS, job, tasks, g.macs / PRODUCTS_A_MICROSECOND, sizes["scratch_bytes"], kept)


def _segments(g: Geometry, line_bytes: int) -> Array:
    """(offset, steps) of the taps; those of one row of the kernel are one run where their values lie together."""
    (kh, kw), (down, right) = g.kernel, g.dilation
    starts = [ky * down * line_bytes for ky in range(kh)]
    if g.groups == 1 and (right == 1 or kw == 1):
        return np.array([(y, kw * g.channels) for y in starts], dtype=np.int64)
    taps = [y + kx * right * 4 * g.channels for y in starts for kx in range(kw)]
    return np.array([(tap, g.group_channels) for tap in taps], dtype=np.int64)


@compiled()
def _copy_lines(j, image, first, count, to):  # type: ignore[no-untyped-def]
    """Input rows from `first` on, with what is outside filled in: 16 values at a time, what is too much is written over."""
    for y in range(first, first + count):
        end = j.left if 0 <= y < j.height else j.line
        for c in range(0, end, LANES):
            copy_some(j.pad, to + 4 * c, LANES)
        if 0 <= y < j.height:
            source = image + y * j.source_bytes + j.first
            for c in range(0, j.middle, LANES):
                copy_some(source + 4 * c, to + 4 * (j.left + c), j.middle - c)
            for c in range(j.left + j.middle, j.line, LANES):
                copy_some(j.pad, to + 4 * c, LANES)
        to += j.line_bytes


def _task(job, task, thread):  # type: ignore[no-untyped-def]
    j = carray(job, 1)[0]
    chunks = (j.out_height + j.rows - 1) // j.rows
    n, y0 = task // chunks, task % chunks * j.rows
    rows = min(j.rows, j.out_height - y0)
    image, pixels = j.x + n * j.image_bytes, rows * j.out_width
    acts = image + y0 * j.stride_y * j.line_bytes + j.first
    if j.is_copied:
        acts = j.scratch + thread * j.scratch_bytes
        _copy_lines(j, image, y0 * j.stride_y - j.top, (rows - 1) * j.stride_y + j.span_y, acts)
    out = j.out + (n * j.out_height + y0) * j.out_width * j.out_pixel
    for block in range(j.groups * j.blocks):
        g, place = block // j.blocks, block % j.blocks * LANES
        here, lanes = acts + g * j.group_bytes, j.group_filters - place
        to = out + 4 * (g * j.group_filters + place)
        weights, parameters = j.weights + block * j.block_bytes, j.parameters + 4 * LANES * block
        if pixels < TILE:
            for p in range(pixels):
                one_by_one(
                    here, j.pixels + 8 * p, j.segments, j.segment_count, weights, parameters, j.parameter_bytes,
                    j.follows, to + p * j.out_pixel, j.out_pixel, lanes,
                )  # fmt: skip
            continue
        for p in range(0, pixels, TILE):
            # The last tile reaches back over pixels that are done: they are written again, as they are.
            start = min(p, pixels - TILE)
            six_by_one(
                here, j.pixels + 8 * start, j.segments, j.segment_count, weights, parameters, j.parameter_bytes,
                j.follows, to + start * j.out_pixel, j.out_pixel, lanes,
            )  # fmt: skip


ROWS = Tasks(_task, REAL)
