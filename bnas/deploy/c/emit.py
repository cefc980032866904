"""From operations to C statements: a table kind -> function, written out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bnas.deploy.c.plan import Plan
from bnas.deploy.file import Packed
from bnas.deploy.ir import Op
from bnas.deploy.shapes import Value
from bnas.errors import BnasError


@dataclass
class Writer:
    """What the statements refer to: values in the arena, constants, and the kernels called so far."""

    packed: Packed
    values: Mapping[str, Value]
    plan: Plan
    kernels: dict[str, None] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    geometries: list[str] = field(default_factory=list)

    def pointer(self, name: str) -> str:
        """A C expression: where the value lies."""
        if name not in self.plan.offsets:
            return "image"
        offset = self.plan.offsets[name]
        return f"({'uint32_t' if self.values[name].is_bits else 'float'} *)(memory + {offset})"

    def tensor(self, op: Op, role: str) -> str:
        """The C name of a constant; NULL where the operation has none in that role."""
        if role not in op.tensors:
            return "NULL"
        name = op.tensors[role]
        array = self.packed.tensors[name]
        # The threshold of a constant channel may be infinite, and no NaN is ever one.
        allowed = np.isfinite(array) if role != "value" else ~np.isnan(array)
        if not allowed.all():
            raise BnasError(f"{op}: cannot be written as C: its tensor {role} '{name}' holds {array[~allowed][0]}")
        return self.constants.setdefault(name, f"t{len(self.constants)}")

    def call(self, kernel: str, *arguments: object) -> str:
        self.kernels[kernel] = None
        return f"{kernel}({', '.join(map(str, arguments))});"

    def geometry(self, sizes: Mapping[str, int]) -> str:
        """A C expression: the address of a constant with these sizes, the others 0."""
        text = "{" + ", ".join(f".{name} = {size}" for name, size in sizes.items()) + "}"
        if text not in self.geometries:
            self.geometries.append(text)
        return f"&g{self.geometries.index(text)}"

    def channels_and_pixels(self, name: str) -> tuple[int, int]:
        channels, *rest = self.values[name].shape
        return channels, math.prod(rest)

    def count(self, name: str) -> int:
        return math.prod(self.values[name].shape)


Emitter = Callable[[Writer, Op, Sequence[str], str], list[str]]
"""(writer, operation, C expressions of its inputs, of its output) -> statements."""


def statements(writer: Writer, op: Op) -> list[str]:
    """The C statements of one operation; `BnasError` with the layer's name where C has no form for its kind."""
    if op.kind not in EMITTERS:
        raise BnasError(f"{op}: cannot be written as C; kinds that can: {', '.join(EMITTERS)}")
    return EMITTERS[op.kind](writer, op, [writer.pointer(name) for name in op.inputs], writer.pointer(op.output))


def _threshold(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    value, flip = w.tensor(op, "value"), w.tensor(op, "flip")
    return [w.call("threshold", x[0], value, flip, out, *w.channels_and_pixels(op.inputs[0]), op.attributes["groups"])]


def _parity_threshold(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    value, flip = w.tensor(op, "value"), w.tensor(op, "flip")
    sizes = (*w.channels_and_pixels(op.inputs[0]), op.attributes["groups"], len(w.packed.tensors[op.tensors["value"]]))
    return [w.call("parity_threshold", x[0], value, flip, out, *sizes)]


def _unpack(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    return [w.call("unpack", x[0], out, *w.channels_and_pixels(op.inputs[0]), w.values[op.inputs[0]].groups)]


def _flatten(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    groups = w.values[op.inputs[0]].groups
    if groups is None:
        # The plan gives both values the same memory.
        return []
    return [w.call("flatten_bits", x[0], out, *w.channels_and_pixels(op.inputs[0]), groups)]


def _binary_conv2d(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    _, kh, kw, _ = w.packed.tensors[op.tensors["weight"]].shape
    geometry = _convolution(w, op, kh, kw)
    return [w.call("binary_conv2d", geometry, x[0], w.tensor(op, "weight"), w.tensor(op, "scale"), out)]


def _conv2d(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    _, _, kh, kw = w.packed.tensors[op.tensors["weight"]].shape
    geometry = _convolution(w, op, kh, kw)
    return [w.call("conv2d", geometry, x[0], w.tensor(op, "weight"), w.tensor(op, "bias"), out)]


def _convolution(w: Writer, op: Op, kh: int, kw: int) -> str:
    top, left, _, _ = op.sides("padding")
    more = {"groups": op.attributes["groups"], "pad_value": op.attributes["pad_value"]}
    return w.geometry({**_sizes(w, op, (kh, kw), (top, left), op.pair("dilation")), **more})


def _sizes(
    w: Writer, op: Op, kernel: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> dict[str, int]:
    channels, height, width = w.values[op.inputs[0]].shape
    filters, out_height, out_width = w.values[op.output].shape
    sizes = {"channels": channels, "height": height, "width": width}
    sizes |= {"filters": filters, "out_height": out_height, "out_width": out_width}
    pairs = {"kernel": kernel, "stride": op.pair("stride"), "pad": padding, "dilation": dilation}
    return sizes | {f"{name}_{axis}": pair[i] for name, pair in pairs.items() for i, axis in enumerate("yx")}


def _binary_linear(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    weight, scale = w.tensor(op, "weight"), w.tensor(op, "scale")
    return [w.call("binary_linear", x[0], weight, scale, out, op.attributes["in_features"], w.count(op.output))]


def _linear(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    weight, bias = w.tensor(op, "weight"), w.tensor(op, "bias")
    return [w.call("linear", x[0], weight, bias, out, w.count(op.inputs[0]), w.count(op.output))]


def _batch_norm(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    scale, shift = w.tensor(op, "scale"), w.tensor(op, "shift")
    return [w.call("batch_norm", x[0], scale, shift, out, *w.channels_and_pixels(op.inputs[0]))]


def _prelu(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    step = 0 if w.packed.tensors[op.tensors["slope"]].size == 1 else 1
    return [w.call("prelu", x[0], w.tensor(op, "slope"), step, out, *w.channels_and_pixels(op.inputs[0]))]


def _relu(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    return [w.call("relu", x[0], out, w.count(op.output))]


def _hardtanh(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    least, most = (c_float(np.float32(op.attributes[name])) for name in ("min", "max"))
    return [w.call("hardtanh", x[0], least, most, out, w.count(op.output))]


def _add(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    first = w.call("add", x[0], x[1], out, w.count(op.output))
    return [first, *(w.call("add", out, other, out, w.count(op.output)) for other in x[2:])]


def _concat(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    lines, done = [], 0
    for name, source in zip(op.inputs, x, strict=True):
        lines.append(f"memcpy({out} + {done}, {source}, {w.count(name)} * sizeof(float));")
        done += w.count(name)
    return lines


def _max_pool2d(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    sizes = _sizes(w, op, op.pair("kernel_size"), op.pair("padding"), op.pair("dilation"))
    return [w.call("max_pool2d", w.geometry(sizes), x[0], out)]


def _avg_pool2d(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    sizes = _sizes(w, op, op.pair("kernel_size"), op.pair("padding"), (1, 1))
    sizes["count_padding"] = int(op.attributes["count_include_pad"])
    return [w.call("avg_pool2d", w.geometry(sizes), x[0], out)]


def _global_avg_pool(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    return [w.call("global_avg_pool", x[0], out, *w.channels_and_pixels(op.inputs[0]))]


def _channel_shuffle(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    return [w.call("channel_shuffle", x[0], out, *w.channels_and_pixels(op.inputs[0]), op.attributes["groups"])]


def _zeros_like(w: Writer, op: Op, x: Sequence[str], out: str) -> list[str]:
    # All bits clear is 0.0f in IEEE 754.
    return [f"memset({out}, 0, {w.count(op.output)} * sizeof(float));"]


def c_float(number: np.float32) -> str:
    """Exactly this number: hexadecimal, as C99 reads it."""
    if np.isinf(number):
        return "INFINITE" if number > 0 else "-INFINITE"
    mantissa, exponent = float(number).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}f"


EMITTERS: Mapping[str, Emitter] = {
    "threshold": _threshold,
    "parity_threshold": _parity_threshold,
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
