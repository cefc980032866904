"""The real-valued operations that have kernels of their own on the CPU, and norm and activation behind them.

Fused or not, whichever back end counts bits: these kernels run, and an output of theirs depends on nothing but its window.
So the values of an image are the same in any batch, in any part of it, and on any number of threads.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bnas.deploy.ir import Op
from bnas.kernels.cpu.layer import Epilogue
from bnas.kernels.cpu.real_conv import RealConv
from bnas.kernels.cpu.real_pool import RealPool

# By role.
Arrays = Mapping[str, Any]
RealLayer = RealConv | RealPool


def _conv2d(op: Op, tensors: Arrays, epilogue: Epilogue | None) -> RealLayer:
    return RealConv(
        tensors["weight"],
        tensors.get("bias"),
        stride=op.pair("stride"),
        padding=op.sides("padding"),
        dilation=op.pair("dilation"),
        groups=op.attributes["groups"],
        pad_value=op.attributes["pad_value"],
        epilogue=epilogue,
    )


def _linear(op: Op, tensors: Arrays, epilogue: Epilogue | None) -> RealLayer:
    return RealConv(tensors["weight"][..., None, None], tensors.get("bias"), epilogue=epilogue)


def _pool(op: Op, average: bool | None, dilation: tuple[int, int], epilogue: Epilogue | None) -> RealLayer:
    return RealPool(
        kernel=op.pair("kernel_size"),
        stride=op.pair("stride"),
        padding=op.pair("padding"),
        dilation=dilation,
        average=average,
        epilogue=epilogue,
    )


def _max_pool2d(op: Op, tensors: Arrays, epilogue: Epilogue | None) -> RealLayer:
    return _pool(op, None, op.pair("dilation"), epilogue)


def _avg_pool2d(op: Op, tensors: Arrays, epilogue: Epilogue | None) -> RealLayer:
    return _pool(op, op.attributes["count_include_pad"], (1, 1), epilogue)


def _global_avg_pool(op: Op, tensors: Arrays, epilogue: Epilogue | None) -> RealLayer:
    return RealPool(average=False, epilogue=epilogue)


# Each takes the operation, its tensors by role, and what follows it.
REAL_LAYERS: Mapping[str, Callable[[Op, Arrays, Epilogue | None], RealLayer]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "global_avg_pool": _global_avg_pool,
}


def real_layer(op: Op, tensors: Arrays, epilogue: Epilogue | None = None) -> RealLayer:
    return REAL_LAYERS[op.kind](op, tensors, epilogue)


def run_real_layer(layer: RealLayer, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The layer's output, [N, *shape], for x [N, C, H, W] or [N, K]: planned and run once."""
    C, H, W = (*shape, 1, 1)[:3]
    result = torch.empty((len(x), H, W, C))
    maps = x[:, :, None, None] if x.dim() == 2 else x
    if len(x):
        layer.plan(maps.permute(0, 2, 3, 1).contiguous().numpy(), result.numpy())()
    return result.permute(0, 3, 1, 2) if len(shape) == 3 else result.flatten(1)
