"""What follows a real-valued operation, in place and in one pass: norm and activation."""

import numpy as np
from numba import prange
from numpy.typing import NDArray

from bnas.kernels.cpu.jit import compiled, threads_for
from bnas.kernels.cpu.pack import VALUES_FOR_THREADS
from bnas.kernels.cpu.vectors import follow_real

PIXELS_AT_ONCE = 64


def follow(address: int, pixels: int, channels: int, rows: NDArray[np.float32]) -> None:
    """Apply `Epilogue.rows`, but for the scale, to float32 [pixels, channels] at that address."""
    run = _parallel if threads_for(pixels * channels, VALUES_FOR_THREADS) > 1 else _serial
    run(address, pixels, channels, rows[1:].ctypes.data, rows.strides[0])


@compiled()
def _some(x, first, last, channels, parameters, stride):  # type: ignore[no-untyped-def]
    for p in range(first, last):
        for c in range(0, channels, 16):
            follow_real(x + 4 * (p * channels + c), parameters + 4 * c, stride, channels - c)


@compiled()
def _serial(x, pixels, channels, parameters, stride):  # type: ignore[no-untyped-def]
    _some(x, 0, pixels, channels, parameters, stride)


@compiled(parallel=True)
def _parallel(x, pixels, channels, parameters, stride):  # type: ignore[no-untyped-def]
    for task in prange((pixels + PIXELS_AT_ONCE - 1) // PIXELS_AT_ONCE):
        first = task * PIXELS_AT_ONCE
        _some(x, first, min(pixels, first + PIXELS_AT_ONCE), channels, parameters, stride)
