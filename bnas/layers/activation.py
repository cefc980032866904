"""What follows a binary convolution: a place in a network, whose function may be chosen."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.errors import check_choice
from bnas.layers.weighted import prelu


class RPReLU(nn.Module):
    """PReLU(x + b_c) + d_c for [N, C, ...], with slope a_c: the activation of ReActNet.

    Liu, Shen, Savvides, Cheng 2020, arXiv 2003.03488, eq. 7 (there x - gamma + zeta). Slopes start at 0.25 and both shifts
    at 0, as in the released code, so that it starts as a PReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.after = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        return f"{len(self.slope)}"

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.dim() - 2)
        return F.prelu(x + self.before.view(shape), self.slope) + self.after.view(shape)


_KINDS: Mapping[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "relu": lambda channels: nn.ReLU(),
    "prelu": nn.PReLU,
    "rprelu": RPReLU,
    "hardtanh": lambda channels: nn.Hardtanh(),
}
ACTIVATIONS = tuple(_KINDS)


class Activation(nn.Module):
    """One of ACTIVATIONS on `channels` channels."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        check_choice("activation", kind, ACTIVATIONS)
        self.kind, self.channels = kind, channels
        self.body = _KINDS[kind](channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "prelu" and self.training:
            # With the quicker gradient; `body` is what is traced, in evaluation.
            return prelu(x, self.body.weight)  # type: ignore[arg-type]
        out: Tensor = self.body(x)
        return out


class MixedActivation(nn.Module):
    """Several of ACTIVATIONS in one place of a super-network.

    `chosen` says which of them run, each with its gate (None: 1); the super-network sets it for a pass.
    """

    def __init__(self, kinds: Sequence[str], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.bodies = nn.ModuleDict({kind: _KINDS[kind](channels) for kind in kinds})
        self.chosen: list[tuple[str, Tensor | None]] = [(kinds[0], None)]

    def forward(self, x: Tensor) -> Tensor:
        terms = [self.bodies[k](x) if gate is None else gate * self.bodies[k](x) for k, gate in self.chosen]
        total: Tensor = sum(terms[1:], terms[0])
        return total
