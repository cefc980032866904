"""TARGETS: what a packed network is to run on, and which of its operations cannot run there."""

from collections.abc import Callable, Mapping

from bnas.deploy.ir import Op
from bnas.kernels import BACKENDS
from bnas.registry import Registry

# (operation, shapes of its tensors by role) -> why it cannot run there; None: it can.
Refusal = Callable[[Op, Mapping[str, tuple[int, ...]]], str | None]


def nothing(op: Op, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The target runs every operation of docs/format.md."""


def c_source(op: Op, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What `bnas.deploy.c` writes."""
    from bnas.deploy.c.emit import EMITTERS

    return None if op.kind in EMITTERS else f"{op.kind} cannot be written as C"


def onnx_model(op: Op, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What `bnas.deploy.onnx` writes."""
    from bnas.deploy.onnx.emit import EMITTERS

    return None if op.kind in EMITTERS else f"{op.kind} cannot be written as ONNX"


# Kernel back ends compute what the reference does, whatever the operation. A target that knows less than the format has
# a function here that says so; plugins add their own.
TARGETS: Registry[Refusal] = Registry(
    "deploy target", {**dict.fromkeys(BACKENDS, nothing), "c": c_source, "onnx": onnx_model}
)
