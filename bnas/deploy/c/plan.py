"""Where every value lies in the arena: values that are never needed at the same time share memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bnas.deploy.ir import Op, Program
from bnas.deploy.shapes import Value
from bnas.kernels.packing import words_for

# They write element i after their last look at element i, so that the output may take the place of the first input.
IN_PLACE = frozenset({"batch_norm", "prelu", "relu", "hardtanh", "add"})


@dataclass(frozen=True)
class Plan:
    """Byte offset of every value in an arena of `size` bytes; values not listed lie in the caller's image."""

    offsets: Mapping[str, int]
    size: int


@dataclass
class _Block:
    """Memory that one value, or several one after the other, live in, from operation `first` to operation `last`."""

    size: int
    first: int
    last: int
    offset: int = 0


def value_bytes(value: Value) -> int:
    """Bytes of one value for one image: 4 an element, or whole words of bits."""
    if value.groups is None:
        return 4 * math.prod(value.shape)
    channels, *rest = value.shape
    return 4 * math.prod(rest) * value.groups * words_for(channels // value.groups)


def plan(program: Program, values: Mapping[str, Value]) -> Plan:
    """Offsets by first fit, the largest blocks first (Pisarchyk & Lee, 2020, arXiv:2001.03288, greedy by size).

    A flattened real value is the value itself; an operation of `IN_PLACE` writes over an input that nothing reads later.
    """
    last_read = {name: place for place, op in enumerate(program.ops) for name in op.inputs}
    # Copied to the caller's memory after the last operation.
    last_read[program.output] = len(program.ops)
    blocks: dict[str, _Block | None] = {program.input: None}
    for place, op in enumerate(program.ops):
        block = _shared(op, place, values, blocks)
        if block is None and not _aliases(op, values):
            block = _Block(value_bytes(values[op.output]), place, place)
        if block is not None:
            block.last = max(block.last, last_read.get(op.output, place))
        blocks[op.output] = block
    placed = {id(block): block for block in blocks.values() if block is not None}
    size = _place(list(placed.values()))
    return Plan({name: block.offset for name, block in blocks.items() if block is not None}, size)


def _aliases(op: Op, values: Mapping[str, Value]) -> bool:
    return op.kind == "flatten" and not values[op.output].is_bits


def _shared(op: Op, place: int, values: Mapping[str, Value], blocks: Mapping[str, _Block | None]) -> _Block | None:
    """The block of the first input, where the output may lie in it."""
    block = blocks[op.inputs[0]]
    if _aliases(op, values):
        return block
    alone = sum(blocks[name] is block for name in op.inputs) == 1
    return block if op.kind in IN_PLACE and block is not None and block.last == place and alone else None


def _place(blocks: list[_Block]) -> int:
    """Give every block its offset; the bytes that all of them take."""
    done: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.first)):
        offset = 0
        for other in sorted(done, key=lambda b: b.offset):
            if other.last < block.first or block.last < other.first:
                continue
            if offset + block.size <= other.offset:
                break
            offset = max(offset, other.offset + other.size)
        block.offset = offset
        done.append(block)
    return max((block.offset + block.size for block in done), default=0)
