"""Comparisons of what is computed from integer sums, as comparisons of the sums themselves: exact, as sums are few.

A binary product is followed by a scale, maybe by a norm and an activation, then by a comparison. All of it is computed for
every sum that can occur, by the very float operations that would run; where the bit changes at one sum only, that sum is
the threshold. A back end that writes bits from its accumulators then needs neither the operations nor real values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy.ir import Op, readers_of
from bnas.deploy.real_ops import REAL_OPS
from bnas.deploy.rewrite import Rewritten, fresh

Array = NDArray[Any]

# Filters whose sums are all tried at once: bounds the memory.
FILTERS_AT_ONCE = 64
PER_CHANNEL = ("batch_norm", "prelu", "relu", "hardtanh")


def compare_sums(
    rewritten: Rewritten, tensors: Mapping[str, Array], takes: Callable[[Op, Op], bool]
) -> tuple[Rewritten, dict[str, Array]]:
    """The program with comparisons of sums, and its tensors; `takes(conv, threshold)`: those that a back end joins."""
    program, tensors = rewritten.program, dict(tensors)
    readers = readers_of(program.ops)
    changed: dict[str, Op] = {}
    gone: set[str] = set()
    for conv in program.ops:
        if conv.kind != "binary_conv2d":
            continue
        chain = [conv]
        while len(readers.get(chain[-1].output, [])) == 1 and chain[-1].output != program.output:
            chain.append(readers[chain[-1].output][0])
            if chain[-1].kind not in PER_CHANNEL:
                break
        threshold = chain[-1]
        if threshold.kind != "threshold" or not takes(conv, threshold):
            continue
        limits = _limits(chain, tensors, rewritten.values[conv.inputs[0]].shape[0])
        if limits is None:
            continue
        names = {role: fresh(f"{threshold.name}.{role}.of_sums", tensors) for role in ("value", "flip")}
        tensors |= {names["value"]: limits[0], names["flip"]: limits[1]}
        changed[conv.output] = replace(conv, tensors={"weight": conv.tensors["weight"]})
        changed[threshold.output] = replace(threshold, inputs=(conv.output,), tensors=names)
        gone |= {op.output for op in chain[1:-1]}
    ops = tuple(changed.get(op.output, op) for op in program.ops if op.output not in gone)
    return replace(rewritten, program=replace(program, ops=ops)), tensors


def _limits(chain: Sequence[Op], tensors: Mapping[str, Array], channels: int) -> tuple[Array, Array] | None:
    """value float32 [O] and flip uint8 [O] of the comparison of the sums; None where some bit changes more than once."""
    conv = chain[0]
    filters, kh, kw, _ = tensors[conv.tensors["weight"]].shape
    most = kh * kw * channels // conv.attributes["groups"]
    sums = torch.arange(-most, most + 1, dtype=torch.float32)
    value, flip = np.empty(filters, np.float32), np.empty(filters, np.uint8)
    for start in range(0, filters, FILTERS_AT_ONCE):
        some = slice(start, start + FILTERS_AT_ONCE)
        holds = _bits_of(sums, chain, tensors, filters, some)
        changes = holds[1:] != holds[:-1]
        if changes.sum(0).max() > 1:
            return None
        falls = holds[0] & ~holds[-1]
        # The first sum that sets the bit, or the last one; beyond all of them where none does, before where all do.
        rising = torch.where(holds.any(0), sums[holds.int().argmax(0)], torch.inf)
        last = sums[holds.int().sum(0).sub(1).clamp_min(0)]
        value[some] = torch.where(falls, last, rising).numpy()
        flip[some] = falls.numpy()
    return value, flip


def _bits_of(sums: Tensor, chain: Sequence[Op], tensors: Mapping[str, Array], filters: int, some: slice) -> Tensor:
    """The bit of each sum in each of some filters, bool [sums, filters]."""

    def part(name: str) -> Tensor:
        tensor = tensors[name]
        return torch.from_numpy(np.array(tensor[some] if len(tensor) == filters else tensor))

    conv, *between, threshold = chain
    x = sums[:, None].expand(-1, len(range(filters)[some]))
    if "scale" in conv.tensors:
        x = x * part(conv.tensors["scale"])
    for op in between:
        x = REAL_OPS[op.kind](op, {role: part(name) for role, name in op.tensors.items()}, x)
    limit, falling = part(threshold.tensors["value"]), part(threshold.tensors["flip"]) != 0
    return torch.where(falling, x <= limit, x >= limit)
