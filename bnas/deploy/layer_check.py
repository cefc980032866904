"""Another implementation of a packed network against the runtime, operation by operation on equal inputs.

Bits and the results of binary operations must be equal; real-valued results equal within rounding. Each operation of the
runtime is given what the other one computed before it, so that a difference is found where it arises.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.deploy.ir import Op
from bnas.deploy.kinds import COMPARISONS
from bnas.deploy.runtime import Bits, PackedNetwork, Value

# Of float32, for sums in another order: relative to the largest value that the operation wrote.
ROUNDING = 1e-5

_EXACT = frozenset(
    {*COMPARISONS, "unpack", "binary_conv2d", "binary_linear", "concat", "channel_shuffle", "zeros_like"}
)


@dataclass(frozen=True)
class Check:
    """`difference` decides; the rest is what the same images gave end to end."""

    difference: str | None
    by: str
    images: int
    argmax_equal: float
    sign_flips: int
    signs: int
    max_logit_error: float


def first_difference(network: PackedNetwork, values: Mapping[str, Value]) -> str | None:
    """The first operation whose value differs from the runtime's on the same inputs, in words; None where none does.

    `values` holds the input and every value of the program, as the other implementation computed them.
    """
    for op in network.program.ops:
        if (
            words := _difference(op, network.run_op(op, *(values[i] for i in op.inputs)), values[op.output])
        ) is not None:
            return f"{op}: {words} on equal inputs"
    return None


def sign_flips(network: PackedNetwork, images: Tensor, values: Mapping[str, Value]) -> tuple[int, int, Tensor]:
    """(flips, signs, logits) end to end: the runtime on `images`, its bits compared with those in `values`."""
    counts = [0, 0]

    def watch(op: Op, value: Value) -> None:
        other = values.get(op.output)
        if op.kind in COMPARISONS and isinstance(value, Bits) and isinstance(other, Bits):
            differing = value.words ^ other.words
            counts[0] += int(np.bitwise_count(differing).sum())
            counts[1] += len(images) * int(np.prod(value.shape))

    logits = network.run(images, watch)
    return counts[0], counts[1], logits


def _difference(op: Op, ours: Value, theirs: Value) -> str | None:
    a, b = _array(ours), _array(theirs)
    if a.shape != b.shape:
        return f"the shape is {list(b.shape)}, the runtime's {list(a.shape)}"
    if op.kind in _EXACT or isinstance(ours, Bits):
        count = int((a != b).sum())
        return f"{count} of {a.size} values differ" if count else None
    error, allowed = float(np.abs(a - b).max()), ROUNDING * max(1.0, float(np.abs(a).max()))
    return None if error <= allowed else f"values differ by up to {error:.3g}, rounding explains {allowed:.3g}"


def _array(value: Value) -> NDArray[Any]:
    return value.words if isinstance(value, Bits) else value.numpy()


def as_tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
