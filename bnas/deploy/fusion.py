"""Which operations of a program run together: a binary product with the comparison before it and all that follows.

Only the decision; `fused` carries it out. A step computes what its operations compute one by one, in the same order of
float operations, so that bits, integers and real values are equal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bnas.deploy.ir import Op, Program, readers_of
from bnas.deploy.kinds import COMPARISONS

ACTIVATIONS = ("prelu", "relu", "hardtanh")
PRODUCTS = ("binary_conv2d", "binary_linear")

OnlyReader = Callable[[str], Op | None]


@dataclass(frozen=True)
class Step:
    """A real operation with norm and activation, or a comparison (`conv` is None), or a binary product.

    A comparison (`threshold`) may read the parts of a concatenation. A product is, in order: `threshold` makes its bits
    from real values; `conv`, a binary convolution or linear layer; `batch_norm`; `activation`; `shuffle`; `added` other
    values, one after the other; `bits` compares the result again. `output` is what the step writes.
    """

    ops: tuple[Op, ...]
    output: str
    conv: Op | None = None
    threshold: Op | None = None
    batch_norm: Op | None = None
    activation: Op | None = None
    shuffle: Op | None = None
    added: tuple[str, ...] = ()
    bits: Op | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that the step needs from outside of it."""
        written = {op.output for op in self.ops}
        return tuple(dict.fromkeys(name for op in self.ops for name in op.inputs if name not in written))


def one_by_one(program: Program) -> tuple[Step, ...]:
    """A step for every operation."""
    return tuple(Step((op,), op.output) for op in program.ops)


def fuse(program: Program) -> tuple[Step, ...]:
    """The steps of `program` in the order in which they run; every operation is in exactly one."""
    readers = readers_of(program.ops)
    writer = {op.output: op for op in program.ops}
    place = {op.output: index for index, op in enumerate(program.ops)}

    def only_reader(name: str) -> Op | None:
        found = readers.get(name, [])
        return found[0] if len(found) == 1 and name != program.output else None

    chains = _compared_joins(program, writer, only_reader)
    taken = {op.output for step in chains for op in step.ops}
    for conv in program.ops:
        if conv.kind in LAST_STAGE and conv.output not in taken:
            step = _chain(conv, only_reader, taken)
            taken.update(op.output for op in step.ops)
            chains.append(step)
    chains = [_with_threshold(step, writer, only_reader, taken) if step.conv else step for step in chains]
    alone = [_alone(op) for op in program.ops if op.output not in taken]
    # A step runs where its last operation stood: all that it reads is there by then.
    return tuple(sorted([*chains, *alone], key=lambda step: max(place[op.output] for op in step.ops)))


def _compared_joins(program: Program, writer: dict[str, Op], only_reader: OnlyReader) -> list[Step]:
    """Comparisons that alone read a concatenation."""
    found = []
    for op in program.ops:
        joined = writer.get(op.inputs[0]) if op.kind in COMPARISONS else None
        if joined is not None and joined.kind == "concat" and only_reader(joined.output) is op:
            found.append(Step((joined, op), op.output, threshold=op))
    return found


def _alone(op: Op) -> Step:
    return Step((op,), op.output, threshold=op if op.kind in COMPARISONS else None)


def _chain(first: Op, only_reader: OnlyReader, taken: set[str]) -> Step:
    """The first operation and what follows it, as far as one store can do it."""
    ops, added = [first], list(first.inputs[1:] if first.kind == "add" else ())
    # One that works value by value is itself what a map is stored with.
    own = _slot(first, first.inputs[0])
    parts = {own: first} if own in ("batch_norm", "activation") else {}
    stage = _STAGES.get(own or "", 0)
    while "bits" not in parts:
        reader = only_reader(ops[-1].output)
        slot = None if reader is None or reader.output in taken else _slot(reader, ops[-1].output)
        if reader is None or slot is None or not stage <= _STAGES[slot] <= LAST_STAGE[first.kind]:
            break
        if slot == "added":
            others = list(reader.inputs)
            others.remove(ops[-1].output)
            added += others
        elif _STAGES[slot] == stage:
            break
        else:
            parts[slot] = reader
        stage = _STAGES[slot]
        ops.append(reader)
    return Step(tuple(ops), ops[-1].output, first if first.kind in PRODUCTS else None, added=tuple(added), **parts)


# Operations that work value by value, and the one that puts maps side by side.
JOINED = ("concat", "batch_norm", *ACTIVATIONS, "add")
# How far what follows each kind of operation is fused to it.
LAST_STAGE = {
    **dict.fromkeys(PRODUCTS, 5),
    **dict.fromkeys(("conv2d", "linear", "max_pool2d", "avg_pool2d", "global_avg_pool", *JOINED), 2),
}
_STAGES = {"batch_norm": 1, "activation": 2, "shuffle": 3, "added": 4, "bits": 5}


def _slot(op: Op, value: str) -> str | None:
    """What `op` is to a step that writes `value`."""
    if op.kind in ACTIVATIONS:
        return "activation"
    if op.kind in COMPARISONS:
        return "bits"
    if op.kind == "add":
        # From left to right, and the first two in either order: what else is added must come after.
        return "added" if op.inputs.count(value) == 1 and value in op.inputs[:2] else None
    return {"batch_norm": "batch_norm", "channel_shuffle": "shuffle"}.get(op.kind)


def _with_threshold(step: Step, writer: dict[str, Op], only_reader: OnlyReader, taken: set[str]) -> Step:
    """The comparison that makes the convolution's bits, where nothing else reads them and no step made them before."""
    bits = step.ops[0].inputs[0]
    made_by = writer.get(bits)
    if made_by is None or made_by.kind not in COMPARISONS or bits in taken or only_reader(bits) is None:
        return step
    taken.add(bits)
    return replace(step, ops=(made_by, *step.ops), threshold=made_by)
