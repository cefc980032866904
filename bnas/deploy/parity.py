"""Layer by layer: what a trained layer computes from the input it had, against the packed operation on that input."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from bnas.binary.terms import attached
from bnas.deploy.ir import Op
from bnas.deploy.kinds import COMPARISONS
from bnas.deploy.runtime import Bits, PackedNetwork, Value
from bnas.kernels.packing import pack_activations, pack_matrix

_WHAT = {**dict.fromkeys(COMPARISONS, "signs"), "binary_conv2d": "integer sums", "binary_linear": "integer sums"}


@dataclass(frozen=True)
class LayerParity:
    """One packed operation against the trained layer of its name: how many signs or sums were compared, and differed."""

    name: str
    kind: str
    compared: int
    different: int

    @property
    def equal(self) -> bool:
        return self.compared > 0 and self.different == 0

    def __str__(self) -> str:
        if self.compared == 0:
            return f"layer '{self.name}' ({self.kind}) does not run in the trained network, or not on signs"
        what = _WHAT[self.kind]
        return f"layer '{self.name}' ({self.kind}): {self.different} of {self.compared} {what} differ on equal input"


class Comparison:
    """Watches trained layers run, gives each one's input to the packed operations of its name, and counts.

    Where a layer makes, or multiplies, several signs, it has an operation for each, in the same order.
    `signs` and `flips` count activations end to end, where each network has its own inputs.
    """

    def __init__(self, packed: PackedNetwork, ops: Sequence[Op]) -> None:
        self._packed = packed
        self._ops = [op for op in ops if op.kind in _WHAT]
        self._compared = dict.fromkeys((op.output for op in self._ops), 0)
        self._different = dict.fromkeys((op.output for op in self._ops), 0)
        self._part = _parts(self._ops)
        self._trained_signs: dict[str, list[list[NDArray[Any]]]] = {}
        self._inputs_seen: dict[str, list[tuple[str, ...]]] = {}
        self._counted: set[tuple[str, tuple[str, ...], int]] = set()
        self.signs = self.flips = 0

    def layers(self) -> tuple[LayerParity, ...]:
        """What was found so far, in the order of the operations."""
        return tuple(
            LayerParity(op.name, op.kind, self._compared[op.output], self._different[op.output]) for op in self._ops
        )

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Compare the layers of `model` as they run, for one batch."""
        self._trained_signs.clear()
        self._inputs_seen.clear()
        self._counted.clear()
        modules = dict(model.named_modules())
        handles = [
            modules[name].register_forward_hook(self._hook(name)) for name in dict.fromkeys(op.name for op in self._ops)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def count_flips(self, op: Op, value: Value) -> None:
        """For `PackedNetwork.run`: compare signs with those of the trained network on the same images."""
        if op.name not in self._trained_signs or not isinstance(value, Bits) or op.kind not in COMPARISONS:
            return
        seen, part = self._inputs_seen.setdefault(op.name, []), self._part[op.output]
        # A second comparison of the same part on the same input holds the same signs in other groups.
        if (op.name, op.inputs, part) in self._counted:
            return
        self._counted.add((op.name, op.inputs, part))
        if op.inputs not in seen:
            seen.append(op.inputs)
        trained = self._trained_signs[op.name][seen.index(op.inputs)][part]
        self.signs += trained.size
        self.flips += int((trained != value.unpack()).sum())

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        ops = [op for op in self._ops if op.name == name]

        def compare(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for op in ops:
                found = both(self._packed, op, self._part[op.output], module, inputs[0], output)
                if found is not None:
                    self._compared[op.output] += found[0].size
                    self._different[op.output] += int((found[0] != found[1]).sum())
            if ops[0].kind in COMPARISONS:
                self._trained_signs.setdefault(name, []).append([signs.cpu().numpy() for signs in _signs(output)])

        return compare


def _parts(ops: Sequence[Op]) -> dict[str, int]:
    """Which of the signs or products of its layer each operation is, by its output.

    They differ in their tensors; the layer used at another place, or bits in other groups, have the same.
    """
    numbers: dict[str, list[tuple[str, ...]]] = {}
    for op in ops:
        known, tensors = numbers.setdefault(op.name, []), tuple(op.tensors.values())
        if tensors not in known:
            known.append(tensors)
    return {op.output: numbers[op.name].index(tuple(op.tensors.values())) for op in ops}


def _signs(value: Tensor) -> list[Tensor]:
    terms = attached(value)
    return [value] if terms is None else [term.sign_pm1 for term in terms]


Numbers = NDArray[Any]


def both(
    packed: PackedNetwork, op: Op, part: int, module: Any, x: Tensor, output: Tensor
) -> tuple[Numbers, Numbers] | None:
    """Signs or integer sums of a trained layer with input x and that output, and those of the packed operation on x.

    `part`: which of the layer's signs, or products. None where the layer was not given the signs that it multiplies.
    """
    if op.kind in COMPARISONS:
        bits = packed.run_op(op, x.float().cpu())
        if not isinstance(bits, Bits):
            raise TypeError("a comparison writes bits")
        return _signs(output)[part].cpu().numpy(), bits.unpack()
    pairs = list(module.pairs(x))
    if part >= len(pairs):
        return None
    term, weight = pairs[part]
    if not bool((term.sign_pm1.abs() == 1).all()):
        return None
    sums, pm1 = module.multiplied(term.sign_pm1, weight.sign_pm1).round().cpu(), term.sign_pm1.cpu().numpy()
    if op.kind == "binary_linear":
        return sums.numpy(), packed.accumulators(op, Bits(pack_matrix(pm1), pm1.shape[1:]))
    words = pack_activations(pm1, op.attributes["groups"])
    return sums.permute(0, 2, 3, 1).numpy(), packed.accumulators(op, Bits(words, pm1.shape[1:]))
