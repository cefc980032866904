"""The kernels as torch operators on tensors, so that `torch.compile`, FLOP counters and CUDA graphs see them.

Words are int32 tensors in the layout of `packing` (torch does little with uint32). On the CPU the reference computes, or,
where TRITON_INTERPRET=1 is set, Triton's interpreter; on a GPU, the form that `dispatch` finds the quickest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from bnas.errors import BnasError
from bnas.kernels import gpu, reference
from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import words_for


@torch.library.custom_op("bnas::pack", mutates_args=())
def pack(x: Tensor, value: Tensor, flip: Tensor, groups: int) -> Tensor:
    """Real x [N, C, H, W] of any strides, thresholds float32 [C], flips bool [C]: words [N, H, W, groups, words].

    The bit is x >= value, where flip is set x <= value: a tie is +1, a NaN -1.
    """
    _check_pack(x, value, flip, groups)
    if x.is_cuda or gpu.interpreting():
        gpu.device()
        from bnas.kernels import triton_launch

        with torch.cuda.device_of(x):
            return triton_launch.pack(x, value.contiguous(), flip.contiguous().view(torch.uint8), groups)
    words = reference.threshold_pack(x.detach().float().numpy(), value.detach().numpy(), flip.numpy(), groups)
    return torch.from_numpy(words.view(np.int32))


@torch.library.custom_op("bnas::xnor_matmul", mutates_args=())
def xnor_matmul(a: Tensor, w: Tensor, length: int, scale: Tensor | None = None) -> Tensor:
    """Words [M, words] times words [O, words] over `length` elements: int32 [M, O], or float32, times `scale` [O]."""
    # The weights stay the tensor that they are: what is derived from them is kept by their identity.
    out = _convolve(_matmul_geometry(a, w, length), a[:, None, None, None], w, Epilogue(scale))
    return out.view(len(a), len(w))


@torch.library.custom_op("bnas::xnor_conv2d", mutates_args=())
def xnor_conv2d(
    bits: Tensor,
    weight: Tensor,
    channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
    scale: Tensor | None = None,
) -> Tensor:
    """Words [N, H, W, groups, words] and [O, kh, kw, words]: int32 sums [N, Ho, Wo, O], or float32, times `scale` [O].

    `padding` is (top, left, bottom, right); see `reference.conv2d`.
    """
    geometry = _conv_geometry(bits, weight, channels, stride, padding, dilation, groups, pad_value)
    return _convolve(geometry, bits, weight, Epilogue(scale))


@torch.library.custom_op("bnas::xnor_conv2d_bits", mutates_args=())
def xnor_conv2d_bits(
    bits: Tensor,
    weight: Tensor,
    channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
    scale: Tensor,
    value: Tensor,
    flip: Tensor,
    out_groups: int,
) -> Tensor:
    """`xnor_conv2d` with scale, then `pack` in `out_groups` groups, in one kernel: words [N, Ho, Wo, out_groups, words]."""
    geometry = _conv_geometry(bits, weight, channels, stride, padding, dilation, groups, pad_value)
    return _convolve(geometry, bits, weight, Epilogue(scale, value, flip, out_groups))


@pack.register_fake
def _(x: Tensor, value: Tensor, flip: Tensor, groups: int) -> Tensor:
    _check_pack(x, value, flip, groups)
    N, C, H, W = x.shape
    return x.new_empty((N, H, W, groups, words_for(C // groups)), dtype=torch.int32)


@xnor_matmul.register_fake
def _(a: Tensor, w: Tensor, length: int, scale: Tensor | None = None) -> Tensor:
    geometry = _matmul_geometry(a, w, length)
    return Epilogue(scale).new_output(geometry, a.device).view(len(a), len(w))


@xnor_conv2d.register_fake
def _(
    bits: Tensor,
    weight: Tensor,
    channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
    scale: Tensor | None = None,
) -> Tensor:
    geometry = _conv_geometry(bits, weight, channels, stride, padding, dilation, groups, pad_value)
    return Epilogue(scale).new_output(geometry, bits.device)


@xnor_conv2d_bits.register_fake
def _(bits: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    *sizes, scale, value, flip, out_groups = rest
    return Epilogue(scale, value, flip, out_groups).new_output(_conv_geometry(bits, weight, *sizes), bits.device)


@register_flop_formula(torch.ops.bnas.xnor_matmul)
def _matmul_flops(a_shape: Any, w_shape: Any, length: int, *_: Any, **__: Any) -> int:
    """2 M O K: a +-1 product and its addition count like real ones."""
    return 2 * int(a_shape[0]) * int(w_shape[0]) * length


@register_flop_formula([torch.ops.bnas.xnor_conv2d, torch.ops.bnas.xnor_conv2d_bits])
def _conv_flops(
    bits_shape: Any,
    weight_shape: Any,
    channels: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    *_: Any,
    **__: Any,
) -> int:
    """2 N Ho Wo O kh kw C / groups: padded taps count, as in torch's own formula."""
    N, H, W = bits_shape[:3]
    kernel = (weight_shape[1], weight_shape[2])
    Ho, Wo = reference.conv2d_size((H, W), kernel, tuple(stride), tuple(padding), tuple(dilation))
    return int(2 * N * Ho * Wo * weight_shape[0] * kernel[0] * kernel[1] * channels // groups)


def _convolve(geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    epilogue.check(geometry)
    if bits.dtype != torch.int32 or weight.dtype != torch.int32:
        raise BnasError(f"words are int32 tensors; found {bits.dtype} and {weight.dtype}")
    if bits.is_cuda or gpu.interpreting():
        gpu.device()
        from bnas.kernels import triton_backend

        return triton_backend.convolve(geometry, bits.contiguous(), weight.contiguous(), epilogue)
    return by_reference(geometry, bits, weight, epilogue)


def by_reference(geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    """What every form computes, on CPU tensors, by `reference`."""
    sums = reference.conv2d(
        bits.numpy().view(np.uint32),
        weight.reshape(geometry.filters, *geometry.kernel, geometry.words).numpy().view(np.uint32),
        channels=geometry.channels,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        pad_value=geometry.pad_value,
    )
    if epilogue.scale is None:
        return torch.from_numpy(sums)
    scaled = torch.from_numpy(sums).to(torch.float32) * epilogue.scale.detach()
    if epilogue.value is None or epilogue.flip is None:
        return scaled
    x, value, flip = scaled.permute(0, 3, 1, 2).numpy(), epilogue.value.numpy(), epilogue.flip.numpy()
    return torch.from_numpy(reference.threshold_pack(x, value, flip, epilogue.groups).view(np.int32))


def _check_pack(x: Tensor, value: Tensor, flip: Tensor, groups: int) -> None:
    if x.dim() != 4:
        raise BnasError(f"activations to pack need 4 dimensions; the shape is {tuple(x.shape)}")
    C = x.shape[1]
    if groups < 1 or C % groups:
        raise BnasError(f"{C} channels do not divide into {groups} groups")
    if value.shape != (C,) or flip.shape != (C,):
        raise BnasError(f"{C} channels need as many thresholds and flips; found {len(value)} and {len(flip)}")
    if value.dtype != torch.float32 or flip.dtype != torch.bool:
        raise BnasError(f"thresholds are float32 and flips bool; found {value.dtype} and {flip.dtype}")


def _matmul_geometry(a: Tensor, w: Tensor, length: int) -> Geometry:
    if a.dim() != 2 or w.dim() != 2 or a.shape[1] != w.shape[1] or a.shape[1] != words_for(length):
        raise BnasError(
            f"a product over {length} elements needs rows of {words_for(length)} words; "
            f"the inputs are {tuple(a.shape)}, the weights {tuple(w.shape)}"
        )
    return Geometry.of_matmul(a.shape[0], length, w.shape[0])


def _conv_geometry(
    bits: Tensor,
    weight: Tensor,
    channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> Geometry:
    if bits.dim() != 5 or weight.dim() != 4:
        raise BnasError(
            "a convolution takes words [N, H, W, groups, words] and [O, kh, kw, words]; "
            f"found {tuple(bits.shape)} and {tuple(weight.shape)}"
        )
    (down, right), (top, left, bottom, right_side), (dil_y, dil_x) = stride, padding, dilation
    N, H, W = bits.shape[:3]
    geometry = Geometry(
        images=N,
        height=H,
        width=W,
        channels=channels,
        filters=weight.shape[0],
        kernel=(weight.shape[1], weight.shape[2]),
        stride=(down, right),
        padding=(top, left, bottom, right_side),
        dilation=(dil_y, dil_x),
        groups=groups,
        pad_value=pad_value,
    )
    geometry.check_words(tuple(bits.shape), tuple(weight.shape))
    return geometry
