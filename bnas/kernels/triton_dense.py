"""The form to beat: unpack the bits to +-1 and let cuDNN or cuBLAS multiply them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.triton_launch import pack, unpack


def exact_type(geometry: Geometry) -> torch.dtype:
    """float16 where it holds every sum exactly (up to 2048, even ones up to 4096), else float32."""
    even = geometry.group_channels % 2 == 0
    return torch.float16 if geometry.length <= (4096 if even else 2048) else torch.float32


def dense_weight(geometry: Geometry, weight: Tensor) -> tuple[Tensor]:
    """+-1 weights [O, C / groups, kh, kw], channels last."""
    taps = weight.reshape(geometry.filters, *geometry.kernel, 1, geometry.words)
    values = unpack(taps, geometry.group_channels, exact_type(geometry))
    return (values.permute(0, 3, 1, 2),)


def dense_conv2d(geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    """Convolve unpacked bits with what `dense_weight` gave. Rounded: Winograd's algorithm leaves fractions."""
    x = unpack(bits, geometry.channels, weight.dtype).permute(0, 3, 1, 2)
    if geometry.height == geometry.width == 1 and geometry.taps == geometry.groups == 1 and not any(geometry.padding):
        y = F.linear(x.flatten(1), weight.flatten(1))[:, :, None, None]
    else:
        top, left, bottom, right = geometry.padding
        padding = (top, left)
        if (top, left) != (bottom, right) or min(top, left) < 0 or geometry.pad_value != 0:
            x, padding = F.pad(x, (left, right, top, bottom), value=float(geometry.pad_value)), (0, 0)
        y = F.conv2d(x, weight, None, geometry.stride, padding, geometry.dilation, geometry.groups)
    sums = y.permute(0, 2, 3, 1).round()
    if epilogue.scale is None:
        return sums.to(torch.int32)
    scaled = sums.to(torch.float32) * epilogue.scale
    if epilogue.value is None or epilogue.flip is None:
        return scaled
    return pack(scaled.permute(0, 3, 1, 2), epilogue.value, epilogue.flip, epilogue.groups)
