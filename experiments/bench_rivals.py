"""What packed layers are measured against: the same layer in torch and onnxruntime, as quick as these can do it.

Operands of int8 are quantized beforehand; the packed layer compares and packs its real input within the time.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnas.kernels.cpu.forms import features

Call = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """A square convolution with equal padding, or (kernel 0) a matrix product of [batch, channels] and [filters, channels]."""

    channels: int
    filters: int
    size: int = 1
    kernel: int = 0
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        if self.kernel == 0:
            return f"{self.channels} -> {self.filters}"
        extra = [f"/{self.stride}" if self.stride > 1 else "", f" dilated {self.dilation}" if self.dilation > 1 else ""]
        groups = f" in {self.groups} groups" if self.groups > 1 else ""
        k = self.kernel
        return f"{self.channels} -> {self.filters}, {k}x{k}{''.join(extra)}{groups}, {self.size} x {self.size}"

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel // 2)

    @property
    def options(self) -> tuple[int, int, int, int]:
        return self.stride, self.padding, self.dilation, self.groups

    def products(self, batch: int) -> int:
        """Multiply-accumulates of one call."""
        if self.kernel == 0:
            return batch * self.channels * self.filters
        out = (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1
        return batch * out * out * self.filters * (self.channels // self.groups) * self.kernel**2


def in_torch(shape: Shape, x: Tensor, w: Tensor) -> dict[str, Call]:
    """float32 in both memory orders, and bfloat16 where the processor has it.

    For x [N, C, H, W] and w [O, C / groups, k, k], or matrices.
    """
    if shape.kernel == 0:
        xb, wb = x.bfloat16(), w.bfloat16()
        in_low: dict[str, Call] = {"bf16": lambda: F.linear(xb, wb)} if has_bfloat16() else {}
        return {"fp32": lambda: F.linear(x, w), **in_low}
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w)]
    first = [tensor.contiguous() for tensor in (x, w)]
    low = [tensor.bfloat16() for tensor in last]
    stride, padding, dilation, groups = shape.options

    def conv(pair: list[Tensor]) -> Call:
        return lambda: F.conv2d(pair[0], pair[1], None, stride, padding, dilation, groups)

    return {"fp32 NCHW": conv(first), "fp32 NHWC": conv(last), **({"bf16": conv(low)} if has_bfloat16() else {})}


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16. Elsewhere torch emulates it, 10 times as slowly as float32."""
    return bool(features() & {"avx512bf16", "amx-bf16", "bf16"})


def in_int8(shape: Shape, x: NDArray[np.float32], w: NDArray[np.float32]) -> dict[str, Call]:
    """torch's quantized kernels and onnxruntime's, where they are here and take the shape."""
    found: dict[str, Call] = {}
    for name, make in _INT8.items():
        try:
            call = make(shape, x, w)
            call()
        except (ImportError, RuntimeError, AttributeError, NotImplementedError):
            # Not installed, or a shape or processor that these kernels do not take.
            continue
        found[name] = call
    return found


def _torch_int8(shape: Shape, x: NDArray[np.float32], w: NDArray[np.float32]) -> Call:
    with warnings.catch_warnings():
        # Deprecated, and still what torch has for int8 convolutions outside of exported programs.
        warnings.simplefilter("ignore", UserWarning)
        qx = torch.quantize_per_tensor(torch.from_numpy(x), 0.05, 128, torch.quint8)
        qw = torch.quantize_per_tensor(torch.from_numpy(w), 0.01, 0, torch.qint8)
    if shape.kernel == 0:
        weights = torch.ops.quantized.linear_prepack(qw, None)
        return lambda: torch.ops.quantized.linear(qx, weights, 0.5, 128)
    qx = qx.contiguous(memory_format=torch.channels_last)
    stride, padding, dilation, groups = ([n, n] for n in shape.options)
    weights = torch.ops.quantized.conv2d_prepack(qw, None, stride, padding, dilation, groups[0])
    return lambda: torch.ops.quantized.conv2d(qx, weights, 0.5, 128)


def _onnxruntime_int8(shape: Shape, x: NDArray[np.float32], w: NDArray[np.float32]) -> Call:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight = np.where(w < 0, -100, 100).astype(np.int8)
    constants: Mapping[str, Any] = {
        "xs": np.float32(0.05),
        "xz": np.uint8(128),
        "w": weight if shape.kernel else weight.T.copy(),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "ys": np.float32(0.5),
        "yz": np.uint8(128),
    }
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    if shape.kernel:
        stride, padding, dilation, groups = shape.options
        node = helper.make_node(
            "QLinearConv",
            names,
            ["y"],
            strides=[stride] * 2,
            pads=[padding] * 4,
            dilations=[dilation] * 2,
            group=groups,
        )
    else:
        node = helper.make_node("QLinearMatMul", names, ["y"])
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its waiting threads must not take the processor from the others' turns.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    levels = (x * 20 + 128).clip(0, 255).astype(np.uint8)
    return lambda: session.run(None, {"x": levels})


_INT8: Mapping[str, Callable[[Shape, NDArray[np.float32], NDArray[np.float32]], Call]] = {
    "int8 torch": _torch_int8,
    "int8 onnxruntime": _onnxruntime_int8,
}
