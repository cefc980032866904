"""Costs of a super-network whose choices are modules of their own: what each choice adds, and what is there anyway."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnas.cost import measure
from bnas.genotype import Decision
from bnas.space import Gates, soft_gates

Pair = tuple[float, float]
Locate = Callable[[list[str]], tuple[str, str] | None]


class ChoiceCosts:
    """(real, binary) MACs of one image, per (decision, choice), measured once on the meta device.

    `locate` takes a layer's dotted name in parts and says which choice of which decision the layer belongs to, or None
    where it runs whatever is chosen. A decision may choose in several places; their costs add up.
    """

    def __init__(
        self, net: nn.Module, input_shape: tuple[int, int, int], decisions: Sequence[Decision], locate: Locate
    ) -> None:
        every = soft_gates(decisions, {})

        def run(model: Any, x: Tensor) -> Tensor:
            result: Tensor = model(x, every)
            return result

        self._decisions = decisions
        self.fixed: Pair = (0.0, 0.0)
        self.of_choice: dict[tuple[str, str], Pair] = {}
        for layer in measure(net, input_shape, forward=run, as_deployed=True).layers:
            macs = (layer.macs_real, layer.macs_binary)
            place = locate(layer.name.split("."))
            if place is None:
                self.fixed = _sum(self.fixed, macs)
            else:
                self.of_choice[place] = _sum(self.of_choice.get(place, (0.0, 0.0)), macs)

    def expected(self, gates: Gates, device: torch.device) -> tuple[Tensor, Tensor]:
        """(real, binary) MACs as scalars, weighted by the gates and differentiable in them."""
        real, binary = (torch.tensor(value, device=device) for value in self.fixed)
        for decision in self._decisions:
            for choice, weight in gates.of(decision.name):
                macs = self.of_choice.get((decision.name, choice), (0.0, 0.0))
                real = real + macs[0] * (1.0 if weight is None else weight)
                binary = binary + macs[1] * (1.0 if weight is None else weight)
        return real, binary


def _sum(a: Pair, b: tuple[float, float]) -> Pair:
    return a[0] + b[0], a[1] + b[1]
