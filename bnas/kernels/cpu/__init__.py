"""The CPU back end: numba kernels whose inner loops are written in LLVM's language, so that no C compiler is needed."""

import numpy as np
from numpy.typing import NDArray

from bnas.kernels.cpu.layer import BinaryLayer, Outputs, check_layer
from bnas.kernels.cpu.operands import Form
from bnas.kernels.cpu.pack import threshold_pack
from bnas.kernels.packing import Words
from bnas.kernels.reference import check_matmul

__all__ = ["conv2d", "matmul", "threshold_pack"]


def conv2d(
    form: Form | None,
    bits: Words,
    weight_words: Words,
    *,
    channels: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> NDArray[np.int32]:
    """`reference.conv2d`, prepared and run once; a network prepares its layers when it is loaded."""
    check_layer(bits, weight_words, channels, groups, pad_value)
    layer = BinaryLayer(
        form,
        weight_words,
        channels=channels,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        pad_value=pad_value,
    )
    size = layer.output_size(*bits.shape[1:3])
    sums = np.empty((len(bits), *size, layer.filters), dtype=np.int32)
    if sums.size:
        layer.plan(np.ascontiguousarray(bits), Outputs(sums=sums))()
    return sums


def matmul(form: Form | None, a_words: Words, w_words: Words, length: int) -> NDArray[np.int32]:
    """`reference.matmul`: a 1 x 1 convolution of one image with M rows of one pixel."""
    check_matmul(a_words, w_words, length)
    if len(a_words) == 0:
        return np.empty((0, len(w_words)), dtype=np.int32)
    rows = a_words[None, :, None, None, :]
    return conv2d(form, rows, w_words[:, None, None, :], channels=length)[0, :, 0]
