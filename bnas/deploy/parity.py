"""Layer by layer: what a trained layer computes from the input it had, against the packed operation on that input."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from bnas.deploy.ir import Op
from bnas.deploy.runtime import Bits, PackedNetwork, Value
from bnas.kernels.packing import pack_activations, pack_matrix

_WHAT = {"threshold": "signs", "binary_conv2d": "integer sums", "binary_linear": "integer sums"}


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
            return f"layer '{self.name}' ({self.kind}) does not run in the trained network"
        what = _WHAT[self.kind]
        return f"layer '{self.name}' ({self.kind}): {self.different} of {self.compared} {what} differ on equal input"


class Comparison:
    """Watches trained layers run, gives each one's input to the packed operations of its name, and counts.

    `signs` and `flips` count activations end to end, where each network has its own inputs.
    """

    def __init__(self, packed: PackedNetwork, ops: Sequence[Op]) -> None:
        self._packed = packed
        self._ops = [op for op in ops if op.kind in _WHAT]
        self._compared = dict.fromkeys((op.output for op in self._ops), 0)
        self._different = dict.fromkeys((op.output for op in self._ops), 0)
        self._trained_signs: dict[str, list[NDArray[Any]]] = {}
        self._inputs_seen: dict[str, list[tuple[str, ...]]] = {}
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
        if op.name not in self._trained_signs or not isinstance(value, Bits) or op.kind != "threshold":
            return
        seen = self._inputs_seen.setdefault(op.name, [])
        # A second threshold on the same input holds the same signs in other groups.
        if op.inputs in seen:
            return
        trained = self._trained_signs[op.name][len(seen)]
        seen.append(op.inputs)
        self.signs += trained.size
        self.flips += int((trained != value.unpack()).sum())

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        ops = [op for op in self._ops if op.name == name]

        def compare(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for op in ops:
                trained, run = both(self._packed, op, module, inputs[0], output)
                self._compared[op.output] += trained.size
                self._different[op.output] += int((trained != run).sum())
            if ops[0].kind == "threshold":
                self._trained_signs.setdefault(name, []).append(output.cpu().numpy())

        return compare


def both(packed: PackedNetwork, op: Op, module: Any, x: Tensor, output: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """Signs or integer sums of a trained layer with input x and that output, and those of the packed operation on x."""
    if op.kind == "threshold":
        bits = packed.run_op(op, x.float().cpu())
        if not isinstance(bits, Bits):
            raise TypeError("a threshold writes bits")
        return output.cpu().numpy(), bits.unpack()
    sums, pm1 = module.accumulate(x).cpu(), x.cpu().numpy()
    if op.kind == "binary_linear":
        return sums.numpy(), packed.accumulators(op, Bits(pack_matrix(pm1), pm1.shape[1:]))
    words = pack_activations(pm1, op.attributes["groups"])
    return sums.permute(0, 2, 3, 1).numpy(), packed.accumulators(op, Bits(words, pm1.shape[1:]))
