"""The back end `triton`: GPU tensors through the form that is quickest here, and the NumPy face of it that tests share."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from bnas.errors import BnasError
from bnas.kernels import Backend, gpu, ops
from bnas.kernels.dispatch import Choice, Dispatcher
from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import Words
from bnas.kernels.reference import check_conv2d, check_matmul, check_threshold
from bnas.kernels.triton_forms import FORMS, INTERPRETED, choice_of
from bnas.kernels.triton_launch import Tile
from bnas.kernels.triton_measure import choices_file, measure

# What forms derive from weights, for as long as the weights live.
_prepared: Any = WeakIdKeyDictionary()
_dispatchers: dict[torch.device, Dispatcher] = {}


def convolve(geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    """Contiguous bits and their weights, checked, on one device: the output of `epilogue`.

    The first call with a geometry measures, which takes a while; `BnasError` where that would fall into the capture of a
    CUDA graph.
    """
    if epilogue.flip is not None:
        epilogue = replace(epilogue, flip=epilogue.flip.contiguous().view(torch.uint8))
    if not bits.is_cuda:
        return run_form(INTERPRETED, geometry, bits, weight, epilogue)
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device(bits.device):
        return run_form(choose(geometry, bits, weight, epilogue), geometry, bits, weight, epilogue)


def choose(geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Choice:
    """The form and tile for this geometry on the device of `bits`."""

    def trials() -> Any:
        if torch.cuda.is_current_stream_capturing():
            raise BnasError(f"{geometry} was not run before: run the network once before capturing it in a CUDA graph")
        return measure(geometry, bits, weight, epilogue)

    if bits.device not in _dispatchers:
        _dispatchers[bits.device] = Dispatcher(choices_file(bits.device))
    known = {choice_of(name, tile) for name, form in FORMS.items() for tile in form.tiles}
    return _dispatchers[bits.device].choose(f"{geometry} {epilogue.kind}", trials, known)


def run_form(choice: Choice, geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    """Run one form, whether or not it is the quickest."""
    form = FORMS[choice.form]
    return form.run(Tile(*choice.tile), geometry, bits, weight, prepared(choice.form, geometry, weight), epilogue)


def prepared(form: str, geometry: Geometry, weight: Tensor) -> tuple[Tensor, ...]:
    """What `form` derives from these weights; kept, unless torch would not tell that they were changed."""
    if weight.is_inference():
        return FORMS[form].prepare(geometry, weight)
    kept = _prepared.setdefault(weight, {})
    # Any number of images shares it.
    key = (form, replace(geometry, images=1))
    if key not in kept or kept[key][0] != weight._version:
        kept[key] = (weight._version, FORMS[form].prepare(geometry, weight))
    found: tuple[Tensor, ...] = kept[key][1]
    return found


def backend() -> Backend:
    """Arrays in and out; `BnasError` where neither a GPU nor the interpreter is there."""
    gpu.device()
    return Backend("triton", _conv2d, _matmul, _threshold_pack)


def _conv2d(
    bits: Words,
    weight_words: Words,
    *,
    channels: int,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    pad_value: int,
) -> NDArray[np.int32]:
    check_conv2d(bits, weight_words, channels, groups, pad_value)
    a, w = on_device(bits), on_device(weight_words)
    sums: Tensor = ops.xnor_conv2d(a, w, channels, stride, padding, dilation, groups, pad_value)
    return sums.cpu().numpy()


def _matmul(a_words: Words, w_words: Words, length: int) -> NDArray[np.int32]:
    check_matmul(a_words, w_words, length)
    sums: Tensor = ops.xnor_matmul(on_device(a_words), on_device(w_words), length)
    return sums.cpu().numpy()


def _threshold_pack(x: NDArray[np.float32], value: NDArray[np.float32], flip: NDArray[np.bool_], groups: int) -> Words:
    check_threshold(x, value, flip, groups)
    words: Tensor = ops.pack(*(torch.from_numpy(np.array(a)).to(gpu.device()) for a in (x, value, flip)), groups)
    return words.cpu().numpy().view(np.uint32)


def on_device(words: Words) -> Tensor:
    """Words as the int32 tensor that the operators take, where the kernels run."""
    return torch.from_numpy(np.ascontiguousarray(words).view(np.int32)).to(gpu.device())
