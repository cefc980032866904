"""How the steps of a super-network are run: one operation after the other, as a captured CUDA graph, or compiled.

A step of a super-network is thousands of small operations, and a GPU waits for the host that starts them. `graph` records
forward and backward once and replays them (`torch.cuda.make_graphed_callables`); a graph belongs to one set of active
choices, one shape and one precision, so that other sets run eagerly. `compile` hands each cell to `torch.compile`, all
cells of one kind to the same code. What fails on a machine is reported once, with its reason, and runs eagerly.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnas.errors import BnasError, check_choice
from bnas.memory import is_shortage
from bnas.space import Gates, Supernet

EXECUTIONS = ("eager", "graph", "compile")
# Graphs kept: a search has a step on its gates and one on its weights.
MOST_GRAPHS = 2

Replay = Callable[..., Tensor]
Capture = Callable[[nn.Module, tuple[Tensor, ...]], Replay]


class Execution:
    """`net(x, gates)`, run as `kind` says. `capture` and `compile`: what does it, for tests."""

    def __init__(
        self,
        net: Supernet,
        kind: str,
        device: torch.device,
        *,
        capture: Capture | None = None,
        compile: Callable[[nn.Module], None] | None = None,
    ) -> None:
        check_choice("execution", kind, EXECUTIONS)
        if kind == "graph" and device.type != "cuda":
            raise BnasError(f"execution graph captures a CUDA graph; on {device.type} take eager or compile")
        self.net, self.kind = net, kind
        self._capture = capture or capture_graph
        self._graphs: dict[Hashable, Replay] = {}
        self._parts: list[nn.Module] = []
        if kind == "compile":
            self._parts = list(getattr(net, "cells", [])) or [net]
            for part in self._parts:
                (compile or _compile)(part)

    def __call__(self, x: Tensor, gates: Gates) -> Tensor:
        """Logits of x [N, C, H, W]. Of a graph they are overwritten by the next call."""
        try:
            if self.kind == "graph":
                return self._replayed(x, gates)
            logits: Tensor = self.net(x, gates)
        except Exception as error:
            if self.kind == "eager" or is_shortage(error):
                raise
            self._give_up(error)
            logits = self.net(x, gates)
        return logits

    def _replayed(self, x: Tensor, gates: Gates) -> Tensor:
        names = tuple(gates.weights)
        given = (x, *gates.weights.values())
        key = (
            tuple(sorted(gates.active.items())),
            tuple((name, gates.weights[name].requires_grad) for name in names),
            (x.shape, x.dtype, torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)),
            # Modes decide what a norm computes; all norms of a network have the same.
            next(((m.training, m.track_running_stats) for m in self.net.modules() if _is_norm(m)), None),
            (self.net.training, torch.is_grad_enabled()),
        )
        if key not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS or not torch.is_grad_enabled():
                logits: Tensor = self.net(x, gates)
                return logits
            with _buffers_put_back(self.net):
                self._graphs[key] = self._capture(_OfTensors(self.net, gates, names), given)
        return self._graphs[key](*given)

    def _give_up(self, error: Exception) -> None:
        failed, self.kind = self.kind, "eager"
        self._graphs.clear()
        for part in self._parts:
            # What `nn.Module.compile` sets; without it a call runs `forward`.
            part._compiled_call_impl = None
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(f"execution {failed} does not work here and is off, steps run eagerly: {reason}", stacklevel=3)


class _OfTensors(nn.Module):
    """A super-network under one set of active choices, as a function of tensors alone."""

    def __init__(self, net: Supernet, gates: Gates, names: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.active, self.names = net, gates.active, names

    def forward(self, x: Tensor, *weights: Tensor) -> Tensor:
        logits: Tensor = self.net(x, Gates(self.active, dict(zip(self.names, weights, strict=True))))
        return logits


@contextmanager
def _buffers_put_back(net: nn.Module) -> Iterator[None]:
    """Buffers of a network as they were, after the block: capturing runs the network a few times."""
    before = [buffer.clone() for buffer in net.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(net.buffers(), before, strict=True):
                buffer.copy_(value)


def capture_graph(module: nn.Module, given: tuple[Tensor, ...]) -> Replay:
    """Forward and backward of `module` on tensors of these shapes as CUDA graphs."""
    samples = tuple(tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in given)
    # Under autocast its cache of weights in low precision would outlive the capture.
    was = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        make: Any = torch.cuda.make_graphed_callables
        # A choice may be off, and its weights without a gradient.
        replay: Replay = make(module, samples, allow_unused_input=True)
    finally:
        torch.set_autocast_cache_enabled(was)
    return replay


def _compile(part: nn.Module) -> None:
    part.compile(dynamic=False)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
