"""What the architecture to come is expected to cost, as a term of the loss: differentiable in the gates."""

import torch
from torch import Tensor

from bnas.cost import BINARY_MACS_PER_REAL
from bnas.space import Gates, Supernet


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
