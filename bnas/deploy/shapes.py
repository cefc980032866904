"""Static shapes: what every value of a program is, and whether every tensor fits. A program that passes here runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bnas.deploy.ir import Op, Program
from bnas.deploy.kinds import OP_KINDS
from bnas.errors import BnasError
from bnas.kernels.packing import words_for
from bnas.kernels.reference import conv2d_size

# Elements of one value for one image: beyond any network, and 1 GiB as float32.
LARGEST_VALUE = 2**28

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """One value for one image: (C, H, W) or (K,), real or bits; bits lie in `groups` groups of channels."""

    shape: Shape
    groups: int | None = None

    @property
    def is_bits(self) -> bool:
        return self.groups is not None

    def __str__(self) -> str:
        return f"{'bits' if self.is_bits else 'real'} {' x '.join(map(str, self.shape))}"


def infer(program: Program, tensors: Mapping[str, Shape]) -> dict[str, Value]:
    """The value of every name in `program`, given the shapes of its tensors.

    `BnasError` that names the operation where an input has the wrong kind or shape, or a tensor does not fit.
    """
    values = {program.input: Value(program.input_shape)}
    for op in program.ops:
        inputs = [values[name] for name in op.inputs]
        kind = OP_KINDS[op.kind]
        for value in inputs:
            if kind.reads != "any" and value.is_bits != (kind.reads == "bits"):
                raise BnasError(f"{op}: reads {kind.reads} values, its input is {value}")
        roles = {role: tensors[name] for role, name in op.tensors.items()}
        value = _RULES[op.kind](op, inputs, roles)
        if min(value.shape) < 1 or math.prod(value.shape) > LARGEST_VALUE:
            raise BnasError(f"{op}: its output would be {value}; every size is at least 1, their product at most 2^28")
        values[op.output] = value
    logits = values[program.output]
    if logits != Value((len(program.classes),)):
        raise BnasError(f"the output is {logits}; {len(program.classes)} classes need real {len(program.classes)}")
    return values


Rule = Callable[[Op, Sequence[Value], Mapping[str, Shape]], Value]


def _image(op: Op, value: Value) -> tuple[int, int, int]:
    if len(value.shape) != 3:
        raise BnasError(f"{op}: reads values [C, H, W], its input is {value}")
    channels, height, width = value.shape
    return channels, height, width


def _fits(op: Op, roles: Mapping[str, Shape], role: str, *allowed: Shape) -> None:
    """`BnasError` unless the tensor of that role is left out or has one of the shapes."""
    if role in roles and roles[role] not in allowed:
        wanted = " or ".join(str(list(shape)) for shape in allowed)
        raise BnasError(f"{op}: tensor {role} '{op.tensors[role]}' has shape {list(roles[role])}, it needs {wanted}")


def _threshold(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    channels = _image(op, inputs[0])[0]
    _fits(op, roles, "value", (channels,))
    _fits(op, roles, "flip", (channels,))
    groups: int = op.attributes["groups"]
    _divides(op, groups, channels)
    return Value(inputs[0].shape, groups)


def _parity_threshold(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    channels = _image(op, inputs[0])[0]
    comparisons = roles["value"][:1]
    if not comparisons or comparisons[0] < 1:
        raise BnasError(f"{op}: tensor value has shape {list(roles['value'])}, it needs at least one comparison")
    _fits(op, roles, "value", (*comparisons, channels))
    _fits(op, roles, "flip", (channels,))
    groups: int = op.attributes["groups"]
    _divides(op, groups, channels)
    return Value(inputs[0].shape, groups)


def _divides(op: Op, groups: int, channels: int) -> None:
    if channels % groups:
        raise BnasError(f"{op}: {channels} channels do not divide into {groups} groups")


def _unpack(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    return Value(inputs[0].shape)


def _rank(op: Op, roles: Mapping[str, Shape], rank: int) -> Shape:
    """The shape of the weight, which must have `rank` dimensions, none of them empty."""
    shape = roles["weight"]
    if len(shape) != rank or min(shape) < 1:
        raise BnasError(f"{op}: tensor weight has shape {list(shape)}, it needs {rank} dimensions, each at least 1")
    return shape


def _binary_conv2d(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    channels = _image(op, inputs[0])[0]
    groups: int = op.attributes["groups"]
    if op.attributes["in_channels"] != channels or inputs[0].groups != groups:
        raise BnasError(
            f"{op}: reads {op.attributes['in_channels']} channels in {groups} groups, "
            f"its input is {inputs[0]} in {inputs[0].groups} groups"
        )
    filters, kh, kw, _ = _rank(op, roles, 4)
    _fits(op, roles, "weight", (filters, kh, kw, words_for(channels // groups)))
    _fits(op, roles, "scale", (filters,))
    return _convolved(op, inputs[0], filters, (kh, kw))


def _conv2d(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    channels = _image(op, inputs[0])[0]
    groups: int = op.attributes["groups"]
    _divides(op, groups, channels)
    filters, _, kh, kw = _rank(op, roles, 4)
    _fits(op, roles, "weight", (filters, channels // groups, kh, kw))
    _fits(op, roles, "bias", (filters,))
    return _convolved(op, inputs[0], filters, (kh, kw))


def _convolved(op: Op, value: Value, filters: int, kernel: tuple[int, int]) -> Value:
    channels, height, width = _image(op, value)
    _divides(op, op.attributes["groups"], filters)
    padding = op.sides("padding")
    top, left, bottom, right = padding
    padded = (height + top + bottom, width + left + right)
    if channels * max(padded[0], 0) * max(padded[1], 0) > LARGEST_VALUE:
        raise BnasError(f"{op}: its padded input would be {padded[0]} x {padded[1]} pixels; at most 2^28 values fit")
    if min(top, 0) + min(bottom, 0) <= -height or min(left, 0) + min(right, 0) <= -width:
        raise BnasError(f"{op}: the padding {list(padding)} crops {height} x {width} pixels to nothing")
    try:
        size = conv2d_size((height, width), kernel, op.pair("stride"), padding, op.pair("dilation"))
    except BnasError as error:
        raise error.within(str(op)) from None
    return Value((filters, *size))


def _binary_linear(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    features: int = op.attributes["in_features"]
    if inputs[0] != Value((features,), 1):
        raise BnasError(f"{op}: reads bits {features} in one group, its input is {inputs[0]}")
    filters, _ = _rank(op, roles, 2)
    _fits(op, roles, "weight", (filters, words_for(features)))
    _fits(op, roles, "scale", (filters,))
    return Value((filters,))


def _linear(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    if len(inputs[0].shape) != 1:
        raise BnasError(f"{op}: reads values [K], its input is {inputs[0]}")
    filters, _ = _rank(op, roles, 2)
    _fits(op, roles, "weight", (filters, inputs[0].shape[0]))
    _fits(op, roles, "bias", (filters,))
    return Value((filters,))


def _per_channel(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    channels = inputs[0].shape[0]
    _fits(op, roles, "scale", (channels,))
    _fits(op, roles, "shift", (channels,))
    _fits(op, roles, "slope", (channels,), (1,))
    return inputs[0]


def _add(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    if len(set(inputs)) > 1:
        raise BnasError(f"{op}: adds values of one shape, its inputs are {', '.join(map(str, inputs))}")
    return inputs[0]


def _concat(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    if len({value.shape[1:] for value in inputs}) > 1:
        raise BnasError(f"{op}: joins values that differ in channels only, found {', '.join(map(str, inputs))}")
    return Value((sum(value.shape[0] for value in inputs), *inputs[0].shape[1:]))


def pooled(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    """What a pool writes, of real values or of bits."""
    channels, *size = _image(op, inputs[0])
    kernel, stride, padding = op.pair("kernel_size"), op.pair("stride"), op.pair("padding")
    dilation = op.pair("dilation") if "dilation" in op.attributes else (1, 1)
    sizes = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        if 2 * p > k:
            raise BnasError(f"{op}: pads by {p}, more than half of its kernel of {k}")
        span = n + 2 * p - d * (k - 1) - 1
        if span < 0:
            raise BnasError(f"{op}: a kernel that spans {d * (k - 1) + 1} does not fit into {n + 2 * p} pixels")
        out = span // s + 1
        # With ceil_mode a last window may hang over the edge, but must begin inside the image or its left padding.
        if op.attributes["ceil_mode"] and span % s and out * s < n + p:
            out += 1
        sizes.append(out)
    return Value((channels, *sizes))


def _global_avg_pool(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    return Value((_image(op, inputs[0])[0], 1, 1))


def _channel_shuffle(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    _divides(op, op.attributes["groups"], _image(op, inputs[0])[0])
    return inputs[0]


def _zeros_like(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    channels, *size = _image(op, inputs[0])
    return Value((channels, *(-(-n // s) for n, s in zip(size, op.pair("stride"), strict=True))))


def _flatten(op: Op, inputs: Sequence[Value], roles: Mapping[str, Shape]) -> Value:
    return Value((math.prod(inputs[0].shape),), 1 if inputs[0].is_bits else None)


_RULES: Mapping[str, Rule] = {
    "threshold": _threshold,
    "parity_threshold": _parity_threshold,
    "unpack": _unpack,
    "binary_conv2d": _binary_conv2d,
    "binary_linear": _binary_linear,
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _per_channel,
    "prelu": _per_channel,
    "relu": _per_channel,
    "hardtanh": _per_channel,
    "add": _add,
    "concat": _concat,
    "max_pool2d": pooled,
    "avg_pool2d": pooled,
    "global_avg_pool": _global_avg_pool,
    "channel_shuffle": _channel_shuffle,
    "zeros_like": _zeros_like,
    "flatten": _flatten,
}
