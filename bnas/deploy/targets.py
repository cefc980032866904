"""TARGETS: what a packed network is to run on, and which of its operations cannot run there."""

from collections.abc import Callable, Mapping

from bnas.deploy.ir import Op
from bnas.kernels import BACKENDS
from bnas.registry import Registry

# (operation, shapes of its tensors by role) -> why it cannot run there; None: it can.
Refusal = Callable[[Op, Mapping[str, tuple[int, ...]]], str | None]


def nothing(op: Op, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The target runs every operation of docs/format.md."""


# Kernel back ends compute what the reference does, whatever the operation. A target that knows less than the format has
# a function here that says so; plugins add their own.
TARGETS: Registry[Refusal] = Registry("deploy target", dict.fromkeys(BACKENDS, nothing))
