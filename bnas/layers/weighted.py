"""Sums of gated terms, with gradients of their own: fewer passes over memory than one operation after the other.

Autograd takes a pass for each product and each sum, forward and backward, and keeps what each of them read.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# A tensor and the gate that multiplies it, a scalar (None: 1).
Term = tuple[Tensor, Tensor | None]

_CHANNELS_LAST = (0, 2, 3)


def weighted_sum(terms: Sequence[Term]) -> Tensor:
    """sum_j gate_j * term_j of terms of one shape, in their order. A single term without a gate is itself."""
    if len(terms) == 1 and terms[0][1] is None:
        return terms[0][0]
    if all(gate is None for _, gate in terms):
        total = terms[0][0] + terms[1][0]
        for term, _ in terms[2:]:
            total = total + term
        return total
    tensors = [term for term, _ in terms]
    gates = [gate for _, gate in terms]
    result: Tensor = _WeightedSum.apply(len(terms), *tensors, *gates)
    return result


def _start(term: Tensor, gate: Tensor | None) -> Tensor:
    return term.clone() if gate is None else term * gate


def _add(total: Tensor, term: Tensor, gate: Tensor | None) -> None:
    """total += gate * term"""
    if gate is None:
        total.add_(term)
    elif gate.device.type == "cpu":
        # Here reading a number is free, and adding a multiple is one operation; elsewhere the host would wait for it.
        total.add_(term, alpha=gate.item())
    else:
        total.addcmul_(term.to(total.dtype), gate.to(total.dtype))


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *given: Tensor | None) -> Tensor:
        tensors, gates = given[:count], given[count:]
        ctx.count = count
        ctx.save_for_backward(*(t if g is not None else None for t, g in zip(tensors, gates, strict=True)), *gates)
        first, *others = (term for term in tensors if term is not None)
        dtype = first.dtype
        for term in others:
            dtype = torch.promote_types(dtype, term.dtype)
        total = _start(first.to(dtype), gates[0])
        for term, gate in zip(others, gates[1:], strict=True):
            _add(total, term, gate)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grad_outputs
        tensors, gates = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needed = ctx.needs_input_grad[1:]
        of_tensors = [
            (g if gate is None else g * gate) if wanted else None
            for gate, wanted in zip(gates, needed[: ctx.count], strict=True)
        ]
        of_gates = [
            (g * term).sum().to(gate.dtype) if wanted else None
            for term, gate, wanted in zip(tensors, gates, needed[ctx.count :], strict=True)
        ]
        return (None, *of_tensors, *of_gates)


def add_activated(total: Tensor | None, y: Tensor, gate: Tensor | None, kind: str, slope: Tensor | None) -> Tensor:
    """total + gate * act(y): y [N, C, H, W], a gate a channel [C] (None: 1), act none, relu or prelu (slope [C]).

    Both `total` and y are overwritten: they must be nobody else's. A `total` of None is 0.
    """
    result: Tensor = _AddActivated.apply(total, y, gate, kind, slope)
    return result


def prelu(y: Tensor, slope: Tensor) -> Tensor:
    """PReLU of y [N, C, H, W] with a slope a channel [C]; the gradient of torch's own is several times as slow on a CPU."""
    if y.device.type != "cpu" or not torch.is_grad_enabled():
        return F.prelu(y, slope)
    result: Tensor = _PReLU.apply(y, slope)
    return result


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(y, slope)
        return F.prelu(y, slope)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        y, slope = ctx.saved_tensors
        return prelu_gradients(grad_outputs[0], y, slope, ctx.needs_input_grad[1])


def activated(y: Tensor, kind: str, slope: Tensor | None) -> Tensor:
    """act(y) alone, by torch's own operations where they are good."""
    return prelu(y, slope) if slope is not None else y.relu() if kind == "relu" else y


class _AddActivated(torch.autograd.Function):
    """d/dy = gate g act'(y), d/dgate = sum g act(y), d/dslope = gate sum g min(y, 0); act(y) = y act'(y) for all three."""

    @staticmethod
    def forward(
        ctx: Any, total: Tensor | None, y: Tensor, gate: Tensor | None, kind: str, slope: Tensor | None
    ) -> Tensor:
        if kind == "relu":
            y.relu_()
        ctx.kind = kind
        # torch's own in-place ReLU keeps its result, too; the convolution in front of it does not need what it gave.
        ctx.save_for_backward(y, gate, slope)
        out = y if slope is None else F.prelu(y, slope)
        if total is None:
            return _start(out, None if gate is None else _along(gate, out))
        ctx.mark_dirty(total)
        return total.add_(out) if gate is None else total.addcmul_(out, _along(gate, out))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grad_outputs
        y, gate, slope = ctx.saved_tensors
        of_total, of_y, of_gate, _, of_slope = ctx.needs_input_grad
        passed, at_slope = _derived(g, y, ctx.kind, slope, of_slope)
        gates = (passed * y).sum(_CHANNELS_LAST).to(gate.dtype) if of_gate else None
        if gate is not None:
            passed = passed * _along(gate, passed) if passed is g else passed.mul_(_along(gate, passed))
            at_slope = None if at_slope is None else at_slope * gate
        return g if of_total else None, passed if of_y else None, gates, None, at_slope


def prelu_gradients(g: Tensor, y: Tensor, slope: Tensor, of_slope: bool = True) -> tuple[Tensor, Tensor | None]:
    """(g act'(y), sum of g min(y, 0) a channel) for PReLU, y [N, C, H, W] and slope [C]."""
    passed = torch.ops.aten.threshold_backward(g, y, 0)
    rest = g - passed
    at_slope = (rest * y).sum(_CHANNELS_LAST).to(slope.dtype) if of_slope else None
    return passed.addcmul_(rest, _along(slope, rest)), at_slope


def _derived(g: Tensor, y: Tensor, kind: str, slope: Tensor | None, of_slope: bool) -> tuple[Tensor, Tensor | None]:
    if slope is not None:
        return prelu_gradients(g, y, slope, of_slope)
    return (torch.ops.aten.threshold_backward(g, y, 0) if kind == "relu" else g), None


def _along(vector: Tensor, x: Tensor) -> Tensor:
    return vector.to(x.dtype).view(1, -1, 1, 1)
