"""What the architecture to come is expected to cost, as a term of the loss: differentiable in the gates."""

from typing import Protocol

import torch
from torch import Tensor

from bnas.cost import BINARY_MACS_PER_REAL
from bnas.feasible import Feasible
from bnas.genotype import Decision, Genotype
from bnas.space import Gates, SearchSpace, Supernet


class ExpectedCost(Protocol):
    """A scalar that is 1 where the expectation is `unit`; `figure`: what a record calls it in its own unit."""

    figure: str
    unit: float

    def __call__(self, gates: Gates) -> Tensor: ...


class ExpectedMacs:
    """(real + binary / 64) MACs of one image, weighted by the gates, over `unit`.

    unit: in MACs; 0: the expectation under `start`. `figure`: what a record calls the expectation in its own unit.
    """

    figure = "expected_macs"

    def __init__(self, net: Supernet, unit: float, start: Gates) -> None:
        self._net = net
        with torch.no_grad():
            self.unit = unit or float(self._macs(start))

    def __call__(self, gates: Gates) -> Tensor:
        """A scalar without a dimension: 1 where the expectation is `unit`."""
        return self._macs(gates) / self.unit

    def _macs(self, gates: Gates) -> Tensor:
        real, binary = self._net.expected_cost(gates)
        return real + binary / BINARY_MACS_PER_REAL


class ExpectedLatency:
    """Microseconds of one image by a table of measured operations, weighted by the gates, over `unit`.

    The price of a choice is what the deployed network of the space's reference takes longer with it than with the
    quickest choice of the same unit (a competing group keeps as many decisions as ever). The expectation is the latency
    of the quickest choices plus the prices times the gates: exact where the times of choices add up and competing
    decisions take equal times, as on the edges of a normal cell; linear around the reference elsewhere (widths).

    feasible: with a budget that names a table. unit: in microseconds; 0: the expectation under `start`. Every price takes
    building and packing a network, once.
    """

    figure = "expected_latency_us"

    def __init__(self, space: SearchSpace, feasible: Feasible, device: torch.device, unit: float, start: Gates) -> None:
        self._choices = {decision.name: decision.choices for decision in space.decisions}
        prices: dict[str, list[float]] = {}
        for members in space.units():
            taken = {
                (decision.name, choice): feasible.cost(_with(space, members, decision, choice)).of("latency_us")
                for decision in members
                for choice in space.drawable(decision)
            }
            least = min(taken.values())
            for decision in members:
                # What is never derived is not there to be run.
                prices[decision.name] = [taken.get((decision.name, c), least) - least for c in decision.choices]
        quickest = space.derive({name: [-price for price in values] for name, values in prices.items()})
        self._base = feasible.cost(quickest).of("latency_us")
        self._prices = {name: torch.tensor(values, device=device) for name, values in prices.items()}
        with torch.no_grad():
            self.unit = unit or float(self._microseconds(start))

    def __call__(self, gates: Gates) -> Tensor:
        return self._microseconds(gates) / self.unit

    def _microseconds(self, gates: Gates) -> Tensor:
        total = next(iter(self._prices.values())).new_tensor(self._base)
        for name, active in gates.active.items():
            price = self._prices[name][[self._choices[name].index(choice) for choice in active]]
            weights = gates.weights.get(name)
            total = total + (price if weights is None else price * weights).sum()
        return total


def _with(space: SearchSpace, members: tuple[Decision, ...], decision: Decision, choice: str) -> Genotype:
    """The reference with that choice; a competing group keeps the decision beside the first others."""
    others = [member for member in members if member is not decision][: (decision.keep or 1) - 1]
    rest = {name: chosen for name, chosen in space.reference().choices if name not in {m.name for m in members}}
    return space.genotype({**rest, **{m.name: space.drawable(m)[0] for m in others}, decision.name: choice})
