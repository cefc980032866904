"""A packed network in the making: operations are added in order, then bits are laid out and dead operations dropped."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnas.deploy.ir import Op
from bnas.deploy.kinds import COMPARISONS, OP_KINDS

Array = NDArray[Any]


@dataclass(frozen=True)
class Node:
    """One leaf of the traced network: the module path, the values it reads, a fresh name for what it writes."""

    name: str
    inputs: tuple[str, ...]
    output: str


class Term(NamedTuple):
    """A value of bits, and the number that multiplies it (None: 1)."""

    bits: str
    scale: Array | None


@dataclass(frozen=True)
class Sum:
    """A value that no operation writes: a sum of terms with so many channels, or such a sum flattened (`flattened`)."""

    terms: list[Term]
    channels: int
    flattened: str | None = None


@dataclass
class Draft:
    """A packed network in the making. Values are known by name; `bits` are those written by a comparison."""

    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    bits: set[str] = field(default_factory=set)
    sums: dict[str, Sum] = field(default_factory=dict)

    def add(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        output: str,
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Array | None] | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> str:
        """Add an operation that writes `output`. Tensors are stored under `name.role`, those that are None left out.

        `parts` is appended to that name, by role, where a layer has several tensors in one role. An operation on real
        values that is given bits reads them unpacked; one on anything that is given a sum is added for each term.
        """
        if inputs[0] in self.sums and OP_KINDS[kind].reads == "any":
            terms = [
                Term(self.add(kind, name, (term.bits,), f"{output}.{place}", attributes), term.scale)
                for place, term in enumerate(self.sums[inputs[0]].terms)
            ]
            self.sums[output] = Sum(terms, 0, flattened=inputs[0])
            return output
        if OP_KINDS[kind].reads == "real":
            inputs = tuple(self.real(value) for value in inputs)
        given = {role: tensor for role, tensor in (tensors or {}).items() if tensor is not None}
        names = {role: f"{name}.{role}{(parts or {}).get(role, '')}" for role in given}
        self.tensors.update({names[role]: tensor for role, tensor in given.items()})
        self.ops.append(Op(kind, name, inputs, output, attributes or {}, names))
        if OP_KINDS[kind].writes == "bits" or (OP_KINDS[kind].writes == "same" and inputs[0] in self.bits):
            self.bits.add(output)
        return output

    def add_sum(self, value: str, terms: list[Term], channels: int) -> str:
        """Let that name stand for a sum of terms."""
        self.sums[value] = Sum(terms, channels)
        return value

    def terms(self, value: str) -> list[Term] | None:
        """The terms that a value of that name is the sum of; None for a real one."""
        if value in self.sums:
            return self.sums[value].terms
        return [Term(value, None)] if value in self.bits else None

    def real(self, value: str) -> str:
        """The real value of that name; for bits or a sum of terms, the one that added operations write."""
        if value not in self.bits and value not in self.sums:
            return value
        unpacked = f"{value}.unpacked"
        if not any(op.output == unpacked for op in self.ops):
            if value in self.sums:
                self._add_up(self.sums[value], unpacked)
            else:
                self.ops.append(Op("unpack", self._writer(value).name, (value,), unpacked))
        return unpacked

    def _writer(self, value: str) -> Op:
        return next(op for op in self.ops if op.output == value)

    def _add_up(self, summed: Sum, output: str) -> None:
        """Unpack the terms of a sum, scale them (a batch norm without a shift) and add them, in their order."""
        name = self._writer(summed.terms[0].bits).name
        if summed.flattened is not None:
            self.add("flatten", name, (self.real(summed.flattened),), output)
            return
        scaled = []
        for place, (bits, scale) in enumerate(summed.terms):
            numbers = np.full(summed.channels, 1 if scale is None else scale, np.float32)
            tensors = {"scale": numbers, "shift": np.zeros_like(numbers)}
            one = f"{output}.{place}" if len(summed.terms) > 1 else output
            scaled.append(self.add("batch_norm", name, (bits,), one, {}, tensors, dict.fromkeys(tensors, f".{place}")))
        if len(scaled) > 1:
            self.add("add", name, tuple(scaled), output)


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
        if op.kind in COMPARISONS:
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
