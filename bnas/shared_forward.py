"""Forwards of several paths of one super-network: what paths have in common is computed once a batch.

A forward is a row of segments (`Supernet.segments`), each of which reads some of the decisions. Paths that agree in what a
segment and those in front of it read have the same state behind it, to the last bit. So paths are a trie of segments under
choices, and each of its nodes is computed once. It is walked depth first, and a state is kept only where paths branch off
behind it: at most one a segment. Segments may change what they read in place: all branches but the last read a copy.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bnas.space import Gates, Segment


class SharedForward:
    """images [N, C, H, W] -> logits [paths, N, classes]: those of `net(images, gates)` of each path, by `net.segments`.

    `estimates`: batch norms take notes of what they see, call by call from a fresh start, and each path has statistics of
    its own, as if the network ran for nobody else. Other buffers, and weights, must not change from call to call.
    """

    def __init__(self, segments: Sequence[Segment], paths: Sequence[Gates], *, estimates: bool = False) -> None:
        self._count = len(paths)
        self._first = _branches(None, segments, paths, range(len(paths)), estimates)

    def __call__(self, images: Tensor) -> Tensor:
        logits: dict[int, Tensor] = {}
        self._branch_off(self._first, images.clone(), logits)
        return torch.stack([logits[path] for path in range(self._count)])

    def _branch_off(self, nodes: Sequence["_Node"], state: Any, logits: dict[int, Tensor]) -> None:
        """Each node and what follows it, from a state that the last one may have for itself: segments work in place."""
        for node in nodes[:-1]:
            self._descend(node, tree_map_only(Tensor, Tensor.clone, state), logits)
        self._descend(nodes[-1], state, logits)

    def _descend(self, node: "_Node", state: Any, logits: dict[int, Tensor]) -> None:
        state = node.run(state)
        while len(node.next) == 1:
            (node,) = node.next
            state = node.run(state)
        if node.next:
            self._branch_off(node.next, state, logits)
        else:
            logits |= dict.fromkeys(node.paths, state)


class _Node:
    """A segment under the choices that `paths` have in common up to it; `next`: what follows for them.

    `parted`: other nodes run the same segment and need other statistics of its norms.
    """

    def __init__(self, segment: Segment, gates: Gates, paths: Sequence[int], parted: bool) -> None:
        self.paths, self.parted = paths, parted
        self.next: list[_Node] = []
        self._segment, self._gates = segment, gates
        self._statistics = _Statistics(segment.modules) if parted else None

    def run(self, state: Any) -> Any:
        """The state behind the segment from that in front of it."""
        if self._statistics is None:
            return self._segment.run(state, self._gates)
        return self._statistics.around(lambda: self._segment.run(state, self._gates))


class _Statistics:
    """The running statistics of one node, kept while other nodes run the same norms."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        found = [m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._norms: list[Any] = [norm for norm in found if norm.num_batches_tracked is not None]
        self._kept: list[Tensor] | None = None

    def around(self, run: Callable[[], Any]) -> Any:
        """What `run` gives, with these statistics; they are then as it leaves them."""
        if self._kept is None:
            return self._first(run)
        _copy(self._kept, self._live())
        state = run()
        _copy(self._live(), self._kept)
        return state

    def _first(self, run: Callable[[], Any]) -> Any:
        """From a fresh start. Of all candidates' norms, those that run are the same in every batch."""
        for norm in self._norms:
            norm.reset_running_stats()
        was = [norm.num_batches_tracked._version for norm in self._norms]
        state = run()
        self._norms = [
            norm for norm, version in zip(self._norms, was, strict=True) if norm.num_batches_tracked._version != version
        ]
        self._kept = [buffer.clone() for buffer in self._live()]
        return state

    def _live(self) -> list[Tensor]:
        return [buffer for n in self._norms for buffer in (n.running_mean, n.running_var, n.num_batches_tracked)]


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    # A segment may run no norm at all.
    if source:
        torch._foreach_copy_(target, source)


def _branches(
    before: _Node | None, segments: Sequence[Segment], gates: Sequence[Gates], paths: Sequence[int], estimates: bool
) -> list[_Node]:
    """The nodes that follow `before` for these paths, with all that follows them."""
    if not segments:
        return []
    groups: dict[Hashable, list[int]] = {}
    for path in paths:
        groups.setdefault(_read(segments[0], gates[path]), []).append(path)
    parted = estimates and (len(groups) > 1 or (before is not None and before.parted))
    nodes = [_Node(segments[0], gates[its[0]], its, parted) for its in groups.values()]
    for node in nodes:
        node.next = _branches(node, segments[1:], gates, node.paths, estimates)
    return nodes


def _read(segment: Segment, gates: Gates) -> Hashable:
    """Equal for gates under which the segment does the same; gates that are tensors are told apart by which they are."""
    names = sorted(gates.active) if segment.reads is None else segment.reads
    return tuple((name, gates.active[name], id(gates.weights.get(name))) for name in names)
