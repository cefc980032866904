"""The maximum of bits over windows: an OR of words, an AND in the channels whose bits fall with their value."""

import numpy as np
from numba import carray
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import Tasks
from bnas.kernels.cpu.plan import Plan, record
from bnas.kernels.cpu.vectors import put_word, word_at
from bnas.kernels.packing import Words, pack_bits

# Words that one thread reads in a microsecond, about.
WORDS_A_MICROSECOND = 1_500

_FIELDS = (
    "x", "out", "falling", "height", "width", "words", "out_height", "out_width",
    "kernel_y", "kernel_x", "stride_y", "stride_x", "top", "left", "dilation_y", "dilation_x",
)  # fmt: skip

POOL = np.dtype([(name, np.int64) for name in _FIELDS])


def pool_bits(
    x: Words,
    out: Words,
    falling: NDArray[np.bool_],
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Plan:
    """Bits [N, H, W, groups, words] to the same of fewer pixels; what is outside is never read.

    `falling`: bool [C]. Each window must meet a pixel.
    """
    groups, words = x.shape[3:]
    # With these bits turned round, an AND is an OR. The tail's stay as they are.
    turned = np.ascontiguousarray(pack_bits(falling.reshape(groups, -1)))
    given = (
        x.ctypes.data, out.ctypes.data, turned.ctypes.data, *x.shape[1:3], groups * words, *out.shape[1:3],
        *kernel, *stride, *padding, *dilation,
    )  # fmt: skip
    job = record(POOL, zip(_FIELDS, given, strict=True))
    reads = out.size * kernel[0] * kernel[1]
    return Plan(LINE, job, len(x) * out.shape[1], reads / WORDS_A_MICROSECOND, kept=(x, out, turned))


def _line(job, line, thread):  # type: ignore[no-untyped-def]
    """One row of the output of one image."""
    j = carray(job, 1)[0]
    n, y0 = line // j.out_height, line % j.out_height * j.stride_y - j.top
    for column in range(j.out_width):
        x0 = column * j.stride_x - j.left
        out = j.out + 4 * (line * j.out_width + column) * j.words
        for w in range(j.words):
            turned = word_at(j.falling + 4 * w)
            found = np.uint32(0)
            for ky in range(j.kernel_y):
                y = y0 + ky * j.dilation_y
                if 0 <= y < j.height:
                    for kx in range(j.kernel_x):
                        x = x0 + kx * j.dilation_x
                        if 0 <= x < j.width:
                            found |= word_at(j.x + 4 * (((n * j.height + y) * j.width + x) * j.words + w)) ^ turned
            put_word(out + 4 * w, found ^ turned)


LINE = Tasks(_line, POOL)
