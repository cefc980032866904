"""The architecture as logits: what a gradient search learns, and the gates that it makes of them.

`soft`: softmax(alpha / T) over all choices (DARTS, Liu et al. 2019, arXiv 1806.09055). `gumbel`: softmax((alpha + g) / T)
with g from Gumbel(0, 1), drawn anew in every step (Jang et al. 2017, arXiv 1611.01144). `straight-through`: of that
sample only the largest choice runs, with weight `hard + (soft - soft.detach())`, which is exactly 1 and has the gradient
of the soft weight (Bengio et al. 2013, arXiv 1308.3432; GDAS, Dong and Yang 2019, arXiv 1910.04465): the memory and time
of one path.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bnas import seeding
from bnas.errors import BnasError
from bnas.space import Gates, SearchSpace, soft_gates

GATES = ("soft", "gumbel", "straight-through")
START = 1e-3


def gumbel(count: int, seed: int, *address: object) -> Tensor:
    """`count` numbers from Gumbel(0, 1) = -log E with E from Exp(1), on the CPU, a function of seed and address."""
    exponential = torch.empty(count, dtype=torch.float64)
    return -exponential.exponential_(generator=seeding.torch_generator(seed, *address)).log().float()


class Alphas:
    """A vector of logits for each open decision and, with edge normalization, one for each competing group (betas).

    With betas, the gates of a decision are multiplied by its share among those it competes with, softmax(beta)
    (PC-DARTS, Xu et al. 2020, arXiv 1907.05737).
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        device: torch.device,
        *,
        kind: str = "soft",
        edge_normalization: bool = False,
    ) -> None:
        self._space, self._seed, self._device, self._kind = space, seed, device, kind
        generator = seeding.torch_generator(seed, "darts", "alphas")

        def start(count: int) -> Tensor:
            return (START * torch.randn(count, generator=generator)).to(device).requires_grad_()

        # A decision with one choice has nothing to learn.
        self.of_decision = {d.name: start(len(d.choices)) for d in space.decisions if len(d.choices) > 1}
        self.of_group: dict[str, Tensor] = {}
        if edge_normalization:
            groups = {unit[0].group: len(unit) for unit in space.units() if unit[0].group is not None}
            if not groups:
                raise BnasError(
                    f"edge_normalization weighs decisions that compete, and space {space.name} has none: set false"
                )
            self.of_group = {group: start(size) for group, size in groups.items()}

    @property
    def logits(self) -> list[Tensor]:
        return [*self.of_decision.values(), *self.of_group.values()]

    def distributions(self, temperature: float) -> dict[str, Tensor]:
        """softmax(alpha / T) of each open decision."""
        return {name: torch.softmax(alpha / temperature, dim=0) for name, alpha in self.of_decision.items()}

    def scores(self, temperature: float) -> dict[str, Tensor]:
        """What a genotype is derived from: the distributions times the edges' shares."""
        return self._shared_out(self.distributions(temperature))

    def sampled_gates(self, temperature: float, *address: object) -> Gates:
        """Gates of a training step; what is random about them is a function of the seed and `address`."""
        if self._kind == "soft":
            return self._soft(self.distributions(temperature))
        noise = gumbel(sum(map(len, self.of_decision.values())), self._seed, "darts", "gumbel", *address)
        parts = noise.to(self._device).split([len(alpha) for alpha in self.of_decision.values()])
        noisy = {name: alpha + part for (name, alpha), part in zip(self.of_decision.items(), parts, strict=True)}
        soft = {name: torch.softmax(vector / temperature, dim=0) for name, vector in noisy.items()}
        return self._soft(soft) if self._kind == "gumbel" else self._straight_through(soft)

    def settled_gates(self, temperature: float) -> Gates:
        """Gates without noise: all choices, or with straight-through the largest alone."""
        soft = self.distributions(temperature)
        return self._straight_through(soft) if self._kind == "straight-through" else self._soft(soft)

    def soft_gates(self, temperature: float) -> Gates:
        """All choices of all decisions, weighted without noise, whatever the kind."""
        return self._soft(self.distributions(temperature))

    def _soft(self, weights: Mapping[str, Tensor]) -> Gates:
        return soft_gates(self._space.decisions, self._shared_out(weights))

    def _straight_through(self, soft: Mapping[str, Tensor]) -> Gates:
        """Only the largest choice runs. The host has to know which: one look at the device for all decisions."""
        on_host = torch.cat([vector.detach() for vector in soft.values()]).cpu().split([len(v) for v in soft.values()])
        chosen = {name: int(vector.argmax()) for name, vector in zip(soft, on_host, strict=True)}
        active, weights = {}, {}
        for decision in self._space.decisions:
            index = chosen.get(decision.name, 0)
            active[decision.name] = (decision.choices[index],)
            if decision.name in soft:
                of_chosen = soft[decision.name][index : index + 1]
                # In this order the value is exactly 1.
                weights[decision.name] = torch.ones_like(of_chosen) + (of_chosen - of_chosen.detach())
        return Gates(active, self._shared_out(weights))

    def _shared_out(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each decision's weights times its share among those it competes with, where edges are normalized."""
        shares = {
            decision.name: share
            for unit in self._space.units()
            if unit[0].group in self.of_group
            for decision, share in zip(unit, torch.softmax(self.of_group[unit[0].group], dim=0), strict=True)
        }
        return {name: vector * shares[name] if name in shares else vector for name, vector in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU."""
        return {
            part: {name: logit.detach().to("cpu", copy=True) for name, logit in logits.items()}
            for part, logits in (("alphas", self.of_decision), ("betas", self.of_group))
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, logits in (("alphas", self.of_decision), ("betas", self.of_group)):
            for name, logit in logits.items():
                logit.copy_(state[part][name])
