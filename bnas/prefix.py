"""What several passes over the same batches have in common: outputs of modules, remembered by the order of the batches."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@contextmanager
def remembering(modules: Sequence[nn.Module], most_bytes: int) -> Iterator[Callable[[], None]]:
    """In the block, each of `modules` runs once a batch in all passes; what it yields is called in front of each pass.

    For modules whose outputs depend on nothing but the batch: the n-th call of each in a pass gives the outputs of its
    n-th call in the first one, and leaves its buffers (running statistics) as that did. Weights must not change in the
    block. Outputs take up to `most_bytes`; those that do not fit, and those that a reader changed in place, are
    computed again. Nothing is kept behind the block.
    """
    memory = _Memory(most_bytes)
    try:
        for module in modules:
            module.forward = memory.around(module)
        yield memory.begin
    finally:
        for module in modules:
            # What hid the method of the class.
            vars(module).pop("forward", None)


class _Memory:
    """Outputs by module and number of the call in a pass."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._calls: Counter[nn.Module] = Counter()
        self._kept: dict[tuple[nn.Module, int], _Kept] = {}

    def begin(self) -> None:
        self._calls.clear()

    def around(self, module: nn.Module) -> Callable[..., Any]:
        compute = module.forward

        def forward(*inputs: Any) -> Any:
            key = module, self._calls[module]
            self._calls[module] += 1
            kept = self._kept.get(key)
            if kept is not None and kept.is_unchanged():
                kept.put_buffers(module)
                return kept.output
            if kept is not None:
                self._left += self._kept.pop(key).size
            made = _Kept.of(module, compute(*inputs))
            if made.size <= self._left:
                self._left -= made.size
                self._kept[key] = made
            return made.output

        return forward


@dataclass(frozen=True)
class _Kept:
    """`state`: the versions of the output's tensors. `buffers`: the module's behind the call."""

    output: Any
    state: tuple[int, ...]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module, output: Any) -> "_Kept":
        return cls(output, _versions(output), {name: value.clone() for name, value in module.named_buffers()})

    @property
    def size(self) -> int:
        """Bytes; what is in the output twice counts once."""
        tensors = {id(tensor): tensor for tensor in tree_leaves(self.output)}
        return sum(tensor.nbytes for tensor in tensors.values())

    def is_unchanged(self) -> bool:
        return self.state == _versions(self.output)

    def put_buffers(self, module: nn.Module) -> None:
        for name, value in module.named_buffers():
            value.copy_(self.buffers[name])


def _versions(output: Any) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in tree_leaves(output))
