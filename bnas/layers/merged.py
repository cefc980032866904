"""All candidates that read one node at once: what they have in common is computed once.

Convolutions of one shape become one convolution with the filters of all of them; a pooling and its norm run once for all
edges; identities and the shortcuts of convolutions are one multiple of the node. The mathematics is that of each candidate
by itself. Modules keep their parameters and buffers. What cannot be merged runs by itself: an unusual activation, an
operation that reads another input, integers of an evaluation, a module that somebody watches through a hook.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary.outputs import Output
from bnas.layers.activation import Activation
from bnas.layers.conv import BinaryConv2d
from bnas.layers.ops import BinaryConvOp, Identity, Op, Pool, Zero
from bnas.layers.products import Operands
from bnas.layers.weighted import Term, activated, add_activated, weighted_sum

# Activations that several candidates can share a pass of.
ACTIVATIONS = ("none", "relu", "prelu")
# The kind of what gives x itself.
_X = "x"


class Candidate(NamedTuple):
    """An operation (an `Op`) into node `target` with its gate, a scalar (None: 1)."""

    target: int
    op: Any
    gate: Tensor | None


def fan_out(
    x: Tensor, binary: Callable[[Tensor], Tensor | None], candidates: Sequence[Candidate]
) -> dict[int, list[Term]]:
    """What a node x [N, C, H, W] gives to each target: terms whose gated sum it is. Zeroise gives nothing.

    `binary` makes the shared binary input of x.
    """
    groups: dict[Hashable, list[Candidate]] = {}
    for candidate in candidates:
        if not isinstance(candidate.op, Zero):
            groups.setdefault(_kind(candidate.op) or id(candidate), []).append(candidate)
    # Convolutions last, as the shortcut of each is one more gate of x.
    convolutions = [(kind, group) for kind, group in groups.items() if isinstance(kind, _ConvKind)]
    found: dict[int, list[Term]] = {}
    of_x = list(groups.get(_X, ()))
    for kind, group in groups.items():
        if isinstance(kind, _PoolKind):
            pooled = _pooled(x, [candidate.op for candidate in group])
            for target, _, gate in group:
                found.setdefault(target, []).append((pooled, gate))
        elif isinstance(kind, int):
            ((target, op, gate),) = group
            found.setdefault(target, []).append((op(x, binary(x) if op.reads_binary else None), gate))
    for several in _into_the_same_targets(convolutions):
        for target, term in _convolved(binary(x), several):
            found.setdefault(target, []).append((term, None))
        of_x += [candidate for group in several for candidate in group if candidate.op.residual]
    for target in dict.fromkeys(candidate.target for candidate in of_x):
        gates = [candidate.gate for candidate in of_x if candidate.target == target]
        found.setdefault(target, []).append((x, _total(gates, x)))
    # Without gates in the order of a built network, so that a path gives its numbers to the last bit.
    return {t: terms if _gated(terms) else [(weighted_sum(terms), None)] for t, terms in found.items()}


def _gated(terms: Sequence[Term]) -> bool:
    return any(gate is not None for _, gate in terms)


def _into_the_same_targets(
    convolutions: "Sequence[tuple[_ConvKind, list[Candidate]]]",
) -> Iterable[list[list[Candidate]]]:
    """Groups whose results add up in one tensor, together."""
    found: dict[Hashable, list[list[Candidate]]] = {}
    for kind, group in convolutions:
        targets = tuple(candidate.target for candidate in group)
        found.setdefault((targets, kind.layout), []).append(group)
    return found.values()


def _total(gates: Sequence[Tensor | None], x: Tensor) -> Tensor | None:
    if len(gates) == 1:
        return gates[0]
    known = [gate for gate in gates if gate is not None]
    ones = len(gates) - len(known)
    return torch.stack(known).sum() + ones if known else x.new_full((), float(ones))


class _ConvKind(NamedTuple):
    """What candidates share that are one convolution; `layout`: what results share that add up in one tensor."""

    window: tuple[Hashable, ...]
    layout: tuple[Hashable, ...]
    activation: str


class _PoolKind(NamedTuple):
    window: tuple[Any, ...]
    norm: tuple[Any, ...]


def _kind(op: Op) -> Hashable | None:
    """Operations of one kind run as one; None: this one runs by itself."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in op.modules()):
        return None
    if isinstance(op, Identity):
        return _X
    if isinstance(op, Pool):
        return _pool_kind(op)
    return _conv_kind(op) if type(op) is BinaryConvOp else None


def _conv_kind(op: BinaryConvOp) -> Hashable | None:
    conv, activation = op.conv, op.activation
    if op.norm is not None or type(conv) is not BinaryConv2d or type(conv.output) is not Output:
        return None
    if not conv.training and conv.operands is not Operands.REAL:
        return None
    if not isinstance(activation, Activation) or activation.kind not in ACTIVATIONS:
        return None
    window = (conv.kernel_size, conv.padding, conv.dilation, conv.pad_value, conv.in_channels)
    shuffle = 1 if op.shuffle is None else op.shuffle.groups
    layout = (conv.stride, conv.groups, conv.out_channels, shuffle, op.residual)
    return _ConvKind((*window, *layout), layout, activation.kind)


def _pool_kind(op: Pool) -> Hashable | None:
    pool: Any = op.pool
    norm = op.out_norm
    window = (type(pool), pool.kernel_size, pool.stride, pool.padding)
    if norm is None:
        return _PoolKind(window, ())
    # With running statistics, or with averages over all steps, each norm has its own numbers.
    if not norm.training or norm.affine or (norm.track_running_stats and norm.momentum is None):
        return None
    return _PoolKind(window, (norm.num_features, norm.track_running_stats, norm.momentum, norm.eps))


def _pooled(x: Tensor, pools: Sequence[Pool]) -> Tensor:
    out: Tensor = pools[0].pool(x)
    norms = [pool.out_norm for pool in pools if pool.out_norm is not None]
    return same_norm(out, norms) if norms else out


def same_norm(x: Tensor, norms: Sequence[nn.BatchNorm2d]) -> Tensor:
    """What each of several norms without slope makes of x by the statistics of the batch; all of them take note of it."""
    first: Any = norms[0]
    if len(norms) == 1 or not first.track_running_stats:
        result: Tensor = first(x)
        return result
    mean, variance = torch.zeros_like(first.running_mean), torch.ones_like(first.running_var)
    # At a momentum of 1 the running statistics become those of the batch.
    out = F.batch_norm(x, mean, variance, training=True, momentum=1.0, eps=first.eps)
    buffers = [dict(norm.named_buffers()) for norm in norms]
    with torch.no_grad():
        for name, batch in (("running_mean", mean), ("running_var", variance)):
            torch._foreach_lerp_([its[name] for its in buffers], [batch] * len(norms), first.momentum)
        torch._foreach_add_([its["num_batches_tracked"] for its in buffers], 1)
    return out


def _convolved(binary: Tensor | None, several: Sequence[Sequence[Candidate]]) -> list[tuple[int, Tensor]]:
    """Groups of candidates into the same targets, each group one convolution of `binary`: their gated sum a target."""
    assert binary is not None
    total: Tensor | None = None
    for group in several:
        ops = [candidate.op for candidate in group]
        first, groups = ops[0].conv, ops[0].conv.groups
        y = first.convolve(binary, _by_group([op.conv.binarizer(op.conv.weight) for op in ops], groups))
        gate, slope = _gate_of_filters(group, first), None
        if ops[0].activation.kind == "prelu":
            slope = _by_group([op.activation.body.weight for op in ops], groups)
        kind = ops[0].activation.kind
        alone = len(several) == 1 and gate is None
        total = activated(y, kind, slope) if alone else add_activated(total, y, gate, kind, slope)
    assert total is not None
    op = several[0][0].op
    parts = _of_targets(total, len(several[0]), op.conv.groups, 1 if op.shuffle is None else op.shuffle.groups)
    return [(candidate.target, part) for candidate, part in zip(several[0], parts, strict=True)]


def _by_group(tensors: Sequence[Tensor], groups: int) -> Tensor:
    """Tensors [O, ...] of several operations as one [T * O, ...], where the filters of a group stand together."""
    stacked = torch.stack(list(tensors))
    if groups > 1:
        stacked = stacked.unflatten(1, (groups, -1)).transpose(0, 1).flatten(1, 2)
    return stacked.flatten(0, 1)


def _gate_of_filters(group: Sequence[Candidate], conv: BinaryConv2d) -> Tensor | None:
    if all(candidate.gate is None for candidate in group):
        return None
    one = next(candidate.gate.new_ones(()) for candidate in group if candidate.gate is not None)
    gates = [one if candidate.gate is None else candidate.gate for candidate in group]
    return _by_group([gate.expand(conv.out_channels) for gate in gates], conv.groups)


def _of_targets(x: Tensor, targets: int, groups: int, shuffle: int) -> Sequence[Tensor]:
    """Undo the order of `_by_group` and shuffle the channels of each target: T tensors [N, O, H, W]."""
    n, channels, h, w = x.shape
    # In the order of channels_last memory, as in `channel_shuffle`.
    rows = x.permute(0, 2, 3, 1)
    if groups > 1 and targets > 1:
        rows = rows.reshape(n, h, w, groups, targets, -1).transpose(3, 4)
    if shuffle > 1:
        rows = rows.reshape(n, h, w, targets, shuffle, -1).transpose(4, 5)
    whole = rows.reshape(n, h, w, channels).permute(0, 3, 1, 2)
    return (whole,) if targets == 1 else whole.split(channels // targets, dim=1)
