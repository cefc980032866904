"""Arithmetic on packed bits: the layout (packing), the meaning of each kernel (reference), and the back ends."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from bnas.kernels import gpu, reference
from bnas.kernels.packing import Words
from bnas.registry import Registry

if TYPE_CHECKING:
    from bnas.kernels.cpu.layer import BinaryLayer

# The fastest that is exact on every machine; numba is among what is always installed.
DEFAULT_BACKEND = "cpu"


class Conv2d(Protocol):
    """`reference.conv2d`: packed activations and weights to int32 accumulators [N, Ho, Wo, O]."""

    def __call__(
        self,
        bits: Words,
        weight_words: Words,
        *,
        channels: int,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        pad_value: int,
    ) -> NDArray[np.int32]: ...


class ThresholdPack(Protocol):
    """`reference.threshold_pack`: real [N, C, H, W] and one comparison a channel to packed activations."""

    def __call__(
        self, x: NDArray[np.float32], value: NDArray[np.float32], flip: NDArray[np.bool_], groups: int
    ) -> Words: ...


@dataclass(frozen=True)
class Backend:
    """One implementation of the kernels; its integers equal the reference's, always.

    `detail`: what of it runs here. `layer`: prepares a binary convolution together with what follows it, see
    `cpu.layer.BinaryLayer`; None where operations run one by one.
    """

    name: str
    conv2d: Conv2d
    matmul: Callable[[Words, Words, int], NDArray[np.int32]]
    threshold_pack: ThresholdPack
    detail: str = ""
    layer: "Callable[..., BinaryLayer] | None" = None


def _reference() -> Backend:
    return Backend("reference", reference.conv2d, reference.matmul, reference.threshold_pack)


def _cpu() -> Backend:
    from bnas.kernels import cpu
    from bnas.kernels.cpu.forms import detail
    from bnas.kernels.cpu.layer import BinaryLayer

    kernels = (partial(cpu.conv2d, None), partial(cpu.matmul, None), cpu.threshold_pack)
    return Backend("cpu", *kernels, detail(), partial(BinaryLayer, None))


def _triton() -> Backend:
    gpu.device()
    from bnas.kernels import triton_backend

    return triton_backend.backend()


# Factories, so that a back end's own packages are imported when it is chosen and not before.
BACKENDS: Registry[Callable[[], Backend]] = Registry(
    "backend", {"cpu": _cpu, "reference": _reference, "triton": _triton}
)


def get_backend(name: str) -> Backend:
    """The backend of that name; `BnasError` that lists what there is."""
    return BACKENDS[name]()
