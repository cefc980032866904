"""A packed network in the making: operations are added in order, then bits are laid out and dead operations dropped."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from bnas.deploy.ir import Op
from bnas.deploy.kinds import OP_KINDS

Array = NDArray[Any]


@dataclass(frozen=True)
class Node:
    """One leaf of the traced network: the module path, the values it reads, a fresh name for what it writes."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass
class Draft:
    """A packed network in the making. Values are known by name; `bits` are those written by a threshold."""

    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    bits: set[str] = field(default_factory=set)

    def add(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        output: str,
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Array | None] | None = None,
    ) -> str:
        """Add an operation that writes `output`. Tensors are stored under `name.role`, those that are None left out.

        An operation on real values that is given bits reads them unpacked.
        """
        if OP_KINDS[kind].reads == "real":
            inputs = tuple(self.real(value) for value in inputs)
        given = {role: tensor for role, tensor in (tensors or {}).items() if tensor is not None}
        names = {role: f"{name}.{role}" for role in given}
        self.tensors.update({names[role]: tensor for role, tensor in given.items()})
        self.ops.append(Op(kind, name, inputs, output, attributes or {}, names))
        if OP_KINDS[kind].writes == "bits" or (OP_KINDS[kind].writes == "same" and inputs[0] in self.bits):
            self.bits.add(output)
        return output

    def real(self, value: str) -> str:
        """The real value of that name; for bits, the one that an added `unpack` writes."""
        if value not in self.bits:
            return value
        unpacked = f"{value}.unpacked"
        if not any(op.output == unpacked for op in self.ops):
            writer = next(op for op in self.ops if op.output == value)
            self.ops.append(Op("unpack", writer.name, (value,), unpacked))
        return unpacked


def lay_out_bits(ops: list[Op]) -> list[Op]:
    """Give every threshold the groups in which its readers want their bits; one threshold for each, where they differ."""
    wanted: dict[str, list[int]] = {}
    for op in ops:
        if op.kind == "binary_conv2d":
            groups = wanted.setdefault(op.inputs[0], [])
            if op.attributes["groups"] not in groups:
                groups.append(op.attributes["groups"])
    laid_out = []
    for op in ops:
        if op.kind == "threshold":
            for place, groups_of_one in enumerate(wanted.get(op.output, [1])):
                output = op.output if place == 0 else f"{op.output}.groups{groups_of_one}"
                laid_out.append(replace(op, output=output, attributes={"groups": groups_of_one}))
        elif op.kind == "binary_conv2d" and op.attributes["groups"] != wanted[op.inputs[0]][0]:
            laid_out.append(replace(op, inputs=(f"{op.inputs[0]}.groups{op.attributes['groups']}",)))
        else:
            laid_out.append(op)
    return laid_out


def without_dead(ops: list[Op], output: str) -> list[Op]:
    """The operations that the output needs, in their order."""
    needed = {output}
    kept = []
    for op in reversed(ops):
        if op.output in needed:
            needed.update(op.inputs)
            kept.append(op)
    return kept[::-1]
