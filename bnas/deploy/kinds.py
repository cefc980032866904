"""The kinds of operations of a packed network and what each must state. docs/format.md says what they compute."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bnas.registry import Registry

# Larger numbers are never meant, and would let a small file ask for a large memory.
LARGEST = 2**24

DType = Literal["F32", "U32", "U8"]
ValueKind = Literal["real", "bits", "any"]


@dataclass(frozen=True)
class AttributeType:
    """What an attribute may hold, in words and as a test."""

    words: str
    allows: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return type(value) is int and abs(value) <= LARGEST


def _ints(value: Any, length: int, least: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(_is_int(v) and v >= least for v in value)


COUNT = AttributeType("a whole number from 1", lambda v: _is_int(v) and v >= 1)
PAIR = AttributeType("[vertical, horizontal], whole numbers from 1", lambda v: _ints(v, 2, 1))
SPAN = AttributeType("[vertical, horizontal], whole numbers from 0", lambda v: _ints(v, 2, 0))
SIDES = AttributeType("[top, left, bottom, right], whole numbers", lambda v: _ints(v, 4, -LARGEST))
FLAG = AttributeType("true or false", lambda v: isinstance(v, bool))
NUMBER = AttributeType("a finite number", lambda v: type(v) in (int, float) and abs(v) < 1e38)
PAD_VALUE = AttributeType("-1, 0 or 1", lambda v: type(v) is int and v in (-1, 0, 1))
TEXT = AttributeType("a text", lambda v: isinstance(v, str))
TEXTS = AttributeType("a list of texts", lambda v: isinstance(v, list) and all(isinstance(t, str) for t in v))
NUMBERS = AttributeType("a list of finite numbers", lambda v: isinstance(v, list) and all(map(NUMBER.allows, v)))
SHAPE = AttributeType("[channels, height, width], whole numbers from 1", lambda v: _ints(v, 3, 1))
LIST = AttributeType("a list", lambda v: isinstance(v, list))
TABLE = AttributeType("a table", lambda v: isinstance(v, dict))
NAMES = AttributeType("a table of texts", lambda v: isinstance(v, dict) and all(isinstance(t, str) for t in v.values()))


@dataclass(frozen=True)
class OpKind:
    """What operations of one kind have: inputs, attributes, tensors (role -> type)."""

    reads: ValueKind
    writes: Literal["real", "bits", "same"]
    attributes: Mapping[str, AttributeType] = field(default_factory=dict)
    tensors: Mapping[str, DType] = field(default_factory=dict)
    optional_tensors: Mapping[str, DType] = field(default_factory=dict)
    several_inputs: bool = False


# What makes bits of real values.
COMPARISONS = ("threshold", "parity_threshold")

_CONV = {"stride": PAIR, "padding": SIDES, "dilation": PAIR, "groups": COUNT, "pad_value": PAD_VALUE}
_POOL = {"kernel_size": PAIR, "stride": PAIR, "padding": SPAN, "ceil_mode": FLAG}

OP_KINDS: Registry[OpKind] = Registry(
    "operation kind",
    {
        "threshold": OpKind("real", "bits", {"groups": COUNT}, {"value": "F32", "flip": "U8"}),
        "parity_threshold": OpKind("real", "bits", {"groups": COUNT}, {"value": "F32", "flip": "U8"}),
        "unpack": OpKind("bits", "real"),
        "binary_conv2d": OpKind("bits", "real", {**_CONV, "in_channels": COUNT}, {"weight": "U32"}, {"scale": "F32"}),
        "binary_linear": OpKind("bits", "real", {"in_features": COUNT}, {"weight": "U32"}, {"scale": "F32"}),
        "conv2d": OpKind("real", "real", _CONV, {"weight": "F32"}, {"bias": "F32"}),
        "linear": OpKind("real", "real", {}, {"weight": "F32"}, {"bias": "F32"}),
        "batch_norm": OpKind("real", "real", {}, {"scale": "F32", "shift": "F32"}),
        "prelu": OpKind("real", "real", {}, {"slope": "F32"}),
        "relu": OpKind("real", "real"),
        "hardtanh": OpKind("real", "real", {"min": NUMBER, "max": NUMBER}),
        "add": OpKind("real", "real", several_inputs=True),
        "concat": OpKind("real", "real", several_inputs=True),
        "max_pool2d": OpKind("real", "real", {**_POOL, "dilation": PAIR}),
        "avg_pool2d": OpKind("real", "real", {**_POOL, "count_include_pad": FLAG}),
        "global_avg_pool": OpKind("real", "real"),
        "channel_shuffle": OpKind("real", "real", {"groups": COUNT}),
        "zeros_like": OpKind("real", "real", {"stride": PAIR}),
        "flatten": OpKind("any", "same"),
    },
)
