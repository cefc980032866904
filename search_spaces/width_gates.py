"""Gates read as numbers of channels: what a super-network of widths is sliced to, and how soft gates weigh channels."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from bnas.layers.residual import BlockGates
from bnas.space import Gates

# channels[decision][choice]: how many channels that choice has.
Channels = Mapping[str, Mapping[str, int]]


class Place(NamedTuple):
    """The decisions that say how wide a block's input, its inside and its output are; None where there is none."""

    entering: str
    inner: str | None
    outer: str


@lru_cache(maxsize=1024)
def _reached(widths: tuple[int, ...], device: torch.device) -> Tensor:
    """[len(widths), max(widths)]: 1 where a channel is within a width, else 0; kept on the device."""
    limits = torch.tensor(widths).unsqueeze(1)
    return (torch.arange(max(widths)) < limits).float().to(device)


class WidthGates:
    """The active widths of each decision, with their weights.

    A decision with a single active choice and no weight has no gate: it is a plain width. Otherwise its gate is one
    weight a channel, up to the widest active choice: the sum of the weights of the choices that have this channel.
    """

    def __init__(self, gates: Gates, channels: Channels, device: torch.device) -> None:
        self._active: dict[str, list[tuple[int, Tensor | None]]] = {}
        self._weights: dict[str, Tensor] = {}
        for decision, of_choice in channels.items():
            active = gates.active[decision]
            weights = gates.weights.get(decision)
            if weights is None and len(active) > 1:
                weights = torch.ones(len(active), device=device)
            if weights is not None:
                self._weights[decision] = weights
            each = [None] * len(active) if weights is None else weights.unbind()
            self._active[decision] = [(of_choice[c], weight) for c, weight in zip(active, each, strict=True)]
        self._gates: dict[str, Tensor | None] = {}

    def widest(self) -> dict[str, int]:
        """Channels of the widest active choice, by decision."""
        return {decision: max(width for width, _ in active) for decision, active in self._active.items()}

    def expected(self, decision: str) -> float | Tensor:
        """The number of channels, weighted by the gates: exact where there are none, else a float64 scalar."""
        total: float | Tensor = 0.0
        for width, weight in self._active[decision]:
            total = total + (width if weight is None else width * weight.double())
        return total

    def gate(self, decision: str) -> Tensor | None:
        """The gate [C] of a decision; None for a plain width."""
        if decision not in self._gates:
            self._gates[decision] = self._gate(decision)
        return self._gates[decision]

    def _gate(self, decision: str) -> Tensor | None:
        weights = self._weights.get(decision)
        if weights is None:
            return None
        return weights @ _reached(tuple(width for width, _ in self._active[decision]), weights.device)

    def around(self, place: Place) -> BlockGates:
        """The gates of a block."""
        return BlockGates(
            self.gate(place.entering),
            None if place.inner is None else self.gate(place.inner),
            self.gate(place.outer),
            place.inner is not None and self._equal(place.inner, place.outer),
        )

    def _equal(self, a: str, b: str) -> Tensor | bool:
        """Whether two decisions have the same width, or how far their active widths coincide (`BlockGates.equal`)."""
        of_a, of_b = dict(self._active[a]), dict(self._active[b])
        common = tuple(width for width in of_a if width in of_b)
        joint = [_product(of_a[width], of_b[width]) for width in common]
        weights = [weight for weight in joint if weight is not None]
        if not weights:
            return bool(common)
        return torch.stack(weights) @ _reached(common, weights[0].device)


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a * b
