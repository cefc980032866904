"""What a program becomes before its operations are fused: the same results by less work, in forms that no file holds.

- A binary linear layer behind a flattened map of bits reads the map itself, as a convolution that covers it.
- The maximum of real values that are then only compared becomes one of bits: max(x) >= t is what any x >= t says, an OR,
  and max(x) <= t what every x <= t says, an AND. So it is with monotone operations in between, a batch norm among them. The
  comparison then joins the layer in front of the pool: its real map, 32 times as large as its bits, is neither written
  nor read. Exact at ties, and at the padding, which is -inf and never the maximum; for values that are no NaN.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.deploy.draft import without_dead
from bnas.deploy.fusion import fuse
from bnas.deploy.ir import Op, Program, readers_of
from bnas.deploy.kinds import COMPARISONS
from bnas.deploy.shapes import Value, infer
from bnas.kernels.packing import pack_weights, unpack_matrix

Array = NDArray[Any]
Channels = NDArray[np.bool_]


@dataclass(frozen=True)
class Rewritten:
    """`values` by name. `falling`: of each max_pool2d that reads bits, by its output, the channels that it joins by AND."""

    program: Program
    values: Mapping[str, Value]
    falling: Mapping[str, Channels]


def rewrite(program: Program, tensors: Mapping[str, Array]) -> Rewritten:
    """The program that a fusing back end runs in place of `program`."""
    values = infer(program, {name: tensor.shape for name, tensor in tensors.items()})
    falling: dict[str, Channels] = {}
    program = _linear_on_maps(program, values)
    # From behind, as a pool may become the reader of a pool's comparison.
    for pool in reversed(program.ops):
        if pool.kind == "max_pool2d":
            program = _pool_of_bits(program, pool, values, tensors, falling)
    return Rewritten(program, values, falling)


def joins_for_comparisons(rewritten: Rewritten) -> Rewritten:
    """A concatenation that only comparisons read, once for each, which compares the parts: it is never written as a whole.

    (To write each part into its place of the whole was slower: what else reads the part finds its pixels far apart.)
    """
    program, values = rewritten.program, dict(rewritten.values)
    readers, ops, read_as = readers_of(program.ops), list[Op](), dict[str, Op]()
    for op in program.ops:
        reading = readers.get(op.output, [])
        ops.append(read_as.pop(op.output, op))
        if op.kind != "concat" or op.output == program.output or any(r.kind not in COMPARISONS for r in reading):
            continue
        for reader in reading[1:]:
            own = fresh(f"{op.output}.for.{reader.output}", values)
            values[own] = values[op.output]
            ops.append(replace(op, output=own))
            read_as[reader.output] = replace(reader, inputs=(own,))
    return replace(rewritten, program=replace(program, ops=tuple(ops)), values=values)


def on_map(weight: Array, value: Value) -> Array:
    """The packed weights [O, words] of a linear layer as those of a convolution, [O, H, W, words], that covers its map."""
    channels, height, width = map_size(value)
    pm1 = unpack_matrix(weight, channels * height * width)
    return pack_weights(pm1.reshape(-1, channels, height, width))


def map_size(value: Value) -> tuple[int, int, int]:
    """(C, H, W); a vector is a map of one pixel."""
    channels, height, width = (*value.shape, 1, 1)[:3]
    return channels, height, width


def _linear_on_maps(program: Program, values: Mapping[str, Value]) -> Program:
    writer = {op.output: op for op in program.ops}

    def reads_map(op: Op) -> Op:
        made_by = writer.get(op.inputs[0])
        if op.kind != "binary_linear" or made_by is None or made_by.kind != "flatten":
            return op
        return replace(op, inputs=made_by.inputs) if values[made_by.inputs[0]].groups == 1 else op

    return replace(program, ops=tuple(without_dead([reads_map(op) for op in program.ops], program.output)))


def fresh(name: str, taken: Container[str]) -> str:
    """That name, or one like it that is not taken."""
    while name in taken:
        name += "'"
    return name


def _pool_of_bits(
    program: Program,
    pool: Op,
    values: dict[str, Value],
    tensors: Mapping[str, Array],
    falling: dict[str, Channels],
) -> Program:
    """`program` with the comparison in front of the pool, where that is the same; its new values are added to `values`."""
    chain = _up_to_comparison(program, pool)
    falls = _falling(chain, tensors)
    if falls is None or not _every_window_meets_a_pixel(pool, values):
        return program
    whole, threshold = values[pool.inputs[0]].shape, chain[-1]
    bits = fresh(f"{threshold.output}.whole", values)
    moved = {op.output: op for op in chain}
    moved[chain[0].output] = replace(chain[0], inputs=pool.inputs)
    moved[threshold.output] = replace(moved[threshold.output], output=bits)
    ops: list[Op] = []
    for op in program.ops:
        if op.output != pool.output:
            ops.append(moved.get(op.output, op))
        if op.output == threshold.output:
            ops.append(replace(pool, inputs=(bits,), output=threshold.output))
    changed = replace(program, ops=tuple(ops))
    compares_alone = next(step.conv is None for step in fuse(changed) if step.output == bits)
    if compares_alone and len(chain) > 1:
        # What cannot join the layer in front of the pool would work on the larger map for nothing.
        return program
    values |= {op.output: Value(whole) for op in chain[:-1]} | {bits: Value(whole, threshold.attributes["groups"])}
    falling[threshold.output] = falls
    return changed


def _up_to_comparison(program: Program, pool: Op) -> list[Op]:
    """What alone reads the pool, in a chain that ends with a comparison; empty where it does not."""
    readers, chain, value = readers_of(program.ops), list[Op](), pool.output
    while len(readers.get(value, [])) == 1 and value != program.output:
        chain.append(readers[value][0])
        if chain[-1].kind == "threshold":
            return chain
        value = chain[-1].output
    return []


def _falling(chain: Sequence[Op], tensors: Mapping[str, Array]) -> Channels | None:
    """The channels in which a larger value can only clear the bit; None where some operation is not monotone."""
    # Others may also change which channels there are, such as a concatenation.
    if not chain or any(op.kind not in ("batch_norm", "prelu", "relu", "hardtanh") for op in chain[:-1]):
        return None
    falls: Channels = tensors[chain[-1].tensors["flip"]] != 0
    for op in chain[:-1]:
        if op.kind == "batch_norm":
            falls = falls ^ (tensors[op.tensors["scale"]] < 0)
        elif op.kind == "prelu" and not (tensors[op.tensors["slope"]] >= 0).all():
            return None
    return falls


def _every_window_meets_a_pixel(pool: Op, values: Mapping[str, Value]) -> bool:
    """A dilated window may lie in the padding alone, and its maximum is -inf."""
    sizes, outputs = values[pool.inputs[0]].shape[1:], values[pool.output].shape[1:]
    kernel, stride = pool.pair("kernel_size"), pool.pair("stride")
    padding, dilation = pool.pair("padding"), pool.pair("dilation")
    for n, out, k, s, p, d in zip(sizes, outputs, kernel, stride, padding, dilation, strict=True):
        taps = np.arange(out)[:, None] * s + np.arange(k) * d - p
        if not ((taps >= 0) & (taps < n)).any(axis=1).all():
            return False
    return True
