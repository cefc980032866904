"""From operations to ONNX nodes: a table kind -> function, written out.

Bits become float32 -1/+1, so that sums are exact integers below 2^24. Sign is a comparison with the threshold, never the
operator Sign, for which sign(0) = 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bnas.deploy.file import Packed
from bnas.deploy.ir import Op
from bnas.deploy.shapes import Value
from bnas.errors import BnasError
from bnas.kernels.packing import unpack_matrix, unpack_weights

# float32 holds every whole number up to here.
LARGEST_SUM = 2**24


@dataclass
class Graph:
    """Nodes and initializers in the making. Every value keeps its name of the program."""

    packed: Packed
    values: Mapping[str, Value]
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node that writes `output`, and return that name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}:{output}", **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        # np.ascontiguousarray would give a number a dimension.
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def number(self, name: str, value: float) -> str:
        """A constant float32 without dimensions."""
        return self.constant(name, np.array(value, np.float32))

    def signs(self, name: str, sign_pm1: NDArray[np.float32]) -> str:
        """A constant of -1 and +1, stored in a byte each."""
        bytes_ = self.constant(f"{name}/int8", sign_pm1.astype(np.int8))
        return self.node("Cast", [bytes_], f"{name}/float", to=TensorProto.FLOAT)

    def per_channel(self, op: Op, role: str, value: str) -> str:
        """A tensor of that role, shaped so that it meets the channels of `value`."""
        array = self.packed.tensors[op.tensors[role]]
        rank = len(self.values[value].shape)
        return self.constant(f"{op.output}/{role}", array.reshape(-1, *(1,) * (rank - 1)))


Emitter = Callable[[Graph, Op, Mapping[str, NDArray[Any]]], None]


def emit(graph: Graph, op: Op) -> None:
    """Add the nodes of one operation; `BnasError` with the layer's name where ONNX has no form for it."""
    if op.kind not in EMITTERS:
        raise BnasError(f"{op}: cannot be written as ONNX; kinds that can: {', '.join(EMITTERS)}")
    EMITTERS[op.kind](graph, op, {role: graph.packed.tensors[name] for role, name in op.tensors.items()})


def _threshold(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    """x >= value; where flipped x <= value, which is -x >= -value: exact, because a change of sign is.

    Of several comparisons, whether an odd number holds.
    """
    x, shape = op.inputs[0], (-1, 1, 1)
    direction = np.where(tensors["flip"] > 0, np.float32(-1), np.float32(1))
    if tensors["flip"].any():
        x = g.node("Mul", [x, g.constant(f"{op.output}/direction", direction.reshape(shape))], f"{op.output}/directed")
    reached = ""
    for place, limits in enumerate(tensors["value"].reshape(-1, len(direction))):
        value = g.constant(f"{op.output}/value{place}", (limits * direction).reshape(shape))
        one = g.node("GreaterOrEqual", [x, value], f"{op.output}/reached{place}")
        reached = g.node("Xor", [reached, one], f"{op.output}/odd{place}") if reached else one
    plus, minus = g.number("/plus_one", 1), g.number("/minus_one", -1)
    g.node("Where", [reached, plus, minus], op.output)


def _unpack(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    g.node("Identity", op.inputs, op.output)


def _binary_conv2d(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    length = op.attributes["in_channels"] // op.attributes["groups"]
    weight = unpack_weights(tensors["weight"], length)
    _check_sums(op, math.prod(weight.shape[1:]))
    sums = f"{op.output}/sums" if "scale" in tensors else op.output
    _convolve(g, op, g.signs(f"{op.output}/weight", weight), weight.shape[2:], sums)
    if "scale" in tensors:
        g.node("Mul", [sums, g.per_channel(op, "scale", op.output)], op.output)


def _binary_linear(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    features = op.attributes["in_features"]
    _check_sums(op, features)
    sums = f"{op.output}/sums" if "scale" in tensors else op.output
    weight = g.signs(f"{op.output}/weight", np.ascontiguousarray(unpack_matrix(tensors["weight"], features).T))
    g.node("MatMul", [op.inputs[0], weight], sums)
    if "scale" in tensors:
        g.node("Mul", [sums, g.per_channel(op, "scale", op.output)], op.output)


def _check_sums(op: Op, terms: int) -> None:
    if terms > LARGEST_SUM:
        raise BnasError(f"{op}: cannot be written as ONNX: it adds {terms} terms, float32 counts to 2^24")


def _conv2d(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    weight = g.constant(f"{op.output}/weight", tensors["weight"])
    bias = [g.constant(f"{op.output}/bias", tensors["bias"])] if "bias" in tensors else []
    _convolve(g, op, weight, tensors["weight"].shape[2:], op.output, bias)


def _convolve(g: Graph, op: Op, weight: str, kernel: Sequence[int], output: str, bias: Sequence[str] = ()) -> None:
    """Padding by 0 is the operator's own; other values and crops come first, as Pad."""
    x, pads = op.inputs[0], list(op.sides("padding"))
    if min(pads) < 0 or op.attributes["pad_value"] != 0:
        x, pads = _pad(g, op, pads, float(op.attributes["pad_value"])), [0, 0, 0, 0]
    g.node(
        "Conv",
        [x, weight, *bias],
        output,
        kernel_shape=list(kernel),
        strides=list(op.pair("stride")),
        dilations=list(op.pair("dilation")),
        group=op.attributes["groups"],
        pads=pads,
    )


def _pad(g: Graph, op: Op, pads: Sequence[int], value: float) -> str:
    """The input of `op` with [top, left, bottom, right] pixels of that value; a negative number crops."""
    top, left, bottom, right = pads
    amounts = g.constant(f"{op.output}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    filler = g.number(f"{op.output}/pad_value", value)
    return g.node("Pad", [op.inputs[0], amounts, filler], f"{op.output}/padded", mode="constant")


def _linear(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    weight = g.constant(f"{op.output}/weight", tensors["weight"])
    bias = [g.constant(f"{op.output}/bias", tensors["bias"])] if "bias" in tensors else []
    g.node("Gemm", [op.inputs[0], weight, *bias], op.output, transB=1)


def _batch_norm(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    scaled = g.node("Mul", [op.inputs[0], g.per_channel(op, "scale", op.inputs[0])], f"{op.output}/scaled")
    g.node("Add", [scaled, g.per_channel(op, "shift", op.inputs[0])], op.output)


def _prelu(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    g.node("PRelu", [op.inputs[0], g.per_channel(op, "slope", op.inputs[0])], op.output)


def _relu(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    g.node("Relu", op.inputs, op.output)


def _hardtanh(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    limits = [g.number(f"{op.output}/{name}", op.attributes[name]) for name in ("min", "max")]
    g.node("Clip", [op.inputs[0], *limits], op.output)


def _add(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Two at a time: the order of a sum with more is the runtime's choice."""
    total = op.inputs[0]
    for place, other in enumerate(op.inputs[1:], 2):
        total = g.node("Add", [total, other], op.output if place == len(op.inputs) else f"{op.output}/sum{place}")


def _concat(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    g.node("Concat", op.inputs, op.output, axis=1)


def _max_pool2d(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    pads = _pool_pads(g, op)
    x = _pad(g, op, pads, -math.inf) if any(pads) else op.inputs[0]
    more = {"kernel_shape": list(op.pair("kernel_size")), "strides": list(op.pair("stride"))}
    g.node("MaxPool", [x], op.output, **more, dilations=list(op.pair("dilation")))


def _avg_pool2d(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Over an input padded by 0, then corrected where a window's divisor is not its number of pixels."""
    pads, kernel = _pool_pads(g, op), op.pair("kernel_size")
    x = _pad(g, op, pads, 0.0) if any(pads) else op.inputs[0]
    factor = math.prod(kernel) / _divisors(g, op)
    pooled = op.output if (factor == 1).all() else f"{op.output}/uncorrected"
    g.node("AveragePool", [x], pooled, kernel_shape=list(kernel), strides=list(op.pair("stride")))
    if pooled != op.output:
        g.node("Mul", [pooled, g.constant(f"{op.output}/factor", factor.astype(np.float32))], op.output)


def _pool_pads(g: Graph, op: Op) -> list[int]:
    """[top, left, bottom, right], enough for the last window of a ceil_mode that hangs over.

    Spelled out, because runtimes differ in which windows of their ceil_mode they keep.
    """
    before, after = list(op.pair("padding")), []
    dilation = op.pair("dilation") if "dilation" in op.attributes else (1, 1)
    sizes = zip(g.values[op.inputs[0]].shape[1:], g.values[op.output].shape[1:], strict=True)
    for (n, out), k, s, p, d in zip(sizes, op.pair("kernel_size"), op.pair("stride"), before, dilation, strict=True):
        after.append(max(p, (out - 1) * s + d * (k - 1) + 1 - n - p))
    return before + after


def _divisors(g: Graph, op: Op) -> NDArray[np.float64]:
    """Pixels that count in each window, [Ho, Wo]: of the image, or of the image and its padding; none beyond."""
    counts = []
    sizes = zip(g.values[op.inputs[0]].shape[1:], g.values[op.output].shape[1:], strict=True)
    for (n, out), k, s, p in zip(sizes, op.pair("kernel_size"), op.pair("stride"), op.pair("padding"), strict=True):
        margin = p if op.attributes["count_include_pad"] else 0
        begin = np.arange(out) * s - p
        counts.append(np.minimum(begin + k, n + margin) - np.maximum(begin, -margin))
    # A window with nothing in it has the sum 0.
    divisors: NDArray[np.float64] = np.maximum(np.outer(*counts), 1).astype(np.float64)
    return divisors


def _global_avg_pool(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    g.node("GlobalAveragePool", op.inputs, op.output)


def _channel_shuffle(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    channels, height, width = g.values[op.inputs[0]].shape
    groups = op.attributes["groups"]
    split = g.constant(f"{op.output}/split", np.array([-1, groups, channels // groups, height, width], np.int64))
    joined = g.constant(f"{op.output}/joined", np.array([-1, channels, height, width], np.int64))
    x = g.node("Reshape", [op.inputs[0], split], f"{op.output}/groups")
    x = g.node("Transpose", [x], f"{op.output}/swapped", perm=[0, 2, 1, 3, 4])
    g.node("Reshape", [x, joined], op.output)


def _zeros_like(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    """The size of the batch is known only to the running graph."""
    batch = g.node("Shape", [op.inputs[0]], f"{op.output}/batch", start=0, end=1)
    image = g.constant(f"{op.output}/image", np.array(g.values[op.output].shape, np.int64))
    shape = g.node("Concat", [batch, image], f"{op.output}/shape", axis=0)
    g.node("Expand", [g.number("/zero", 0), shape], op.output)


def _flatten(g: Graph, op: Op, tensors: Mapping[str, NDArray[Any]]) -> None:
    g.node("Flatten", op.inputs, op.output, axis=1)


EMITTERS: Mapping[str, Emitter] = {
    "threshold": _threshold,
    "parity_threshold": _threshold,
    "unpack": _unpack,
    "binary_conv2d": _binary_conv2d,
    "binary_linear": _binary_linear,
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "prelu": _prelu,
    "relu": _relu,
    "hardtanh": _hardtanh,
    "add": _add,
    "concat": _concat,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "global_avg_pool": _global_avg_pool,
    "channel_shuffle": _channel_shuffle,
    "zeros_like": _zeros_like,
    "flatten": _flatten,
}
