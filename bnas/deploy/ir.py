"""The packed network as a short list of operations: plain values, JSON both ways, checked when constructed.

An operation reads named values and writes one. A value is either *real* (float32 [N, C, H, W] or [N, K]) or *bits*
(packed words, see kernels/packing.py). Every back end reads this and nothing else; docs/format.md states it for
programmers of other languages.
"""

import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from bnas.deploy.kinds import (
    COUNT,
    LIST,
    NAMES,
    NUMBER,
    NUMBERS,
    OP_KINDS,
    SHAPE,
    TABLE,
    TEXT,
    TEXTS,
    AttributeType,
    DType,
)
from bnas.errors import BnasError, nearest


@dataclass(frozen=True)
class Op:
    """One operation: kind, module path in the trained network, the values it reads and the one it writes.

    `tensors` maps roles (weight, scale, ...) to names of tensors in the file.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = OP_KINDS[self.kind]
        if len(self.inputs) < 1 or (len(self.inputs) > 1) != kind.several_inputs:
            wanted = "at least two inputs" if kind.several_inputs else "one input"
            raise BnasError(f"{self}: takes {wanted}, found {len(self.inputs)}")
        _check_names(f"{self}: attribute", self.attributes, kind.attributes, ())
        for name, type_ in kind.attributes.items():
            if not type_.allows(self.attributes[name]):
                raise BnasError(f"{self}: attribute {name} is {type_.words}, found {self.attributes[name]!r}")
        _check_names(f"{self}: tensor", self.tensors, kind.tensors, kind.optional_tensors)

    def __str__(self) -> str:
        return f"layer '{self.name}' ({self.kind})"

    def pair(self, attribute: str) -> tuple[int, int]:
        vertical, horizontal = self.attributes[attribute]
        return vertical, horizontal

    def sides(self, attribute: str) -> tuple[int, int, int, int]:
        top, left, bottom, right = self.attributes[attribute]
        return top, left, bottom, right


@dataclass(frozen=True)
class Program:
    """The operations in the order in which they run, with what is needed to feed them and to read their answer.

    `input_shape` is (C, H, W); `mean` and `std` normalize images of 0..1 per channel; `classes` names the logits;
    `about` says where the network comes from and changes nothing.
    """

    ops: tuple[Op, ...]
    input: str
    input_shape: tuple[int, int, int]
    output: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(COUNT.allows(size) for size in self.input_shape):
            raise BnasError(f"the input shape is {self.input_shape}; it needs three whole numbers from 1")
        if not len(self.mean) == len(self.std) == self.input_shape[0]:
            raise BnasError(
                f"mean and std need {self.input_shape[0]} numbers, one a channel of the input; "
                f"found {len(self.mean)} and {len(self.std)}"
            )
        if not all(NUMBER.allows(v) for v in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise BnasError(f"mean must be finite and std above 0; found {list(self.mean)} and {list(self.std)}")
        _check_order(self.ops, self.input, self.output)

    def tensor_types(self) -> dict[str, DType]:
        """Every tensor that an operation names, with its element type."""
        types: dict[str, DType] = {}
        for op in self.ops:
            kind = OP_KINDS[op.kind]
            for role, tensor in op.tensors.items():
                type_ = kind.tensors.get(role) or kind.optional_tensors[role]
                if types.setdefault(tensor, type_) != type_:
                    raise BnasError(f"{op}: tensor '{tensor}' is used as {type_} here and as {types[tensor]} elsewhere")
        return types

    def to_json(self) -> str:
        """One line, the same for equal programs."""
        content = {**_content(self), "ops": [_content(op) for op in self.ops]}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Program":
        """`BnasError` for text that is not a program, with the place and what was expected there."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BnasError(f"the program is not JSON: {error}") from None
        _check_fields("the program", content, _PROGRAM_FIELDS)
        ops = []
        for position, op in enumerate(content["ops"]):
            _check_fields(f"operation {position}", op, _OP_FIELDS)
            ops.append(Op(**{**op, "inputs": tuple(op["inputs"])}))
        lists = {name: tuple(content[name]) for name in ("input_shape", "classes", "mean", "std")}
        return cls(**{**content, **lists, "ops": tuple(ops)})


def readers_of(ops: Sequence[Op]) -> dict[str, list[Op]]:
    """The operations that read each value, in their order."""
    readers: dict[str, list[Op]] = {}
    for op in ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    return readers


_OP_FIELDS = {"kind": TEXT, "name": TEXT, "inputs": TEXTS, "output": TEXT, "attributes": TABLE, "tensors": NAMES}
_PROGRAM_FIELDS = {
    "ops": LIST,
    "input": TEXT,
    "input_shape": SHAPE,
    "output": TEXT,
    "classes": TEXTS,
    "mean": NUMBERS,
    "std": NUMBERS,
    "about": TABLE,
}


def _content(value: Op | Program) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _check_names(what: str, given: Iterable[str], required: Iterable[str], optional: Iterable[str]) -> None:
    """`BnasError` unless `given` holds all that is required and nothing that is neither required nor optional."""
    needed, allowed = list(required), [*required, *optional]
    missing = [name for name in needed if name not in given]
    if missing:
        raise BnasError(f"{what} {missing[0]} is missing; it needs {', '.join(needed)}")
    strange = [name for name in given if name not in allowed]
    if strange:
        there_are = ", ".join(allowed) or "none"
        raise BnasError(f"{what} {strange[0]} is not known; there are: {there_are}.{nearest(strange[0], allowed)}")


def _check_fields(what: str, given: Any, types: Mapping[str, AttributeType]) -> None:
    if not isinstance(given, dict):
        raise BnasError(f"{what} is not a table but {type(given).__name__}")
    _check_names(f"{what}: field", given, types, ())
    for name, type_ in types.items():
        if not type_.allows(given[name]):
            raise BnasError(f"{what}: field {name} is {type_.words}, found {reprlib.repr(given[name])}")


def _check_order(ops: Iterable[Op], first: str, last: str) -> None:
    """`BnasError` unless every value is written once, and before it is read."""
    written_later = {op.output for op in ops}
    written = {first}
    for op in ops:
        for value in op.inputs:
            if value not in written:
                reason = (
                    "is computed only later: a cycle, or a wrong order" if value in written_later else "does not exist"
                )
                raise BnasError(f"{op}: its input '{value}' {reason}")
        if op.output in written:
            raise BnasError(f"{op}: the value '{op.output}' is written a second time")
        written.add(op.output)
    if last not in written:
        raise BnasError(f"the output '{last}' is computed by no operation")
