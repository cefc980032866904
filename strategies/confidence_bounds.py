"""Abandoning by confidence bounds, with draws with replacement: an option of `abandon`.

After Chen et al. 2021 (arXiv 2009.04247), whose formulas are not fully printed: the constants here are ours. Draws
without replacement visit all choices equally often, and a bound that depends on the visits would change nothing there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnas import seeding
from bnas.space import SearchSpace
from strategies.elimination import Drawn, Elimination, Shrink

MEMORY = 0.7


class ConfidenceBounds(Elimination):
    """m <- 0.7 m + 0.3 score for each choice taken, from its first score on; n counts its draws, N those of its decision.

    A draw takes a choice with probability softmax(m - sqrt(2 ln N / n)) over those that remain, so that what is known
    to be good is trained more; what is given up has the smallest m + sqrt(2 ln N / n), so that what was hardly tried
    stays. The first K draws of the search are without replacement, as n must not be 0. m and n last over the phases.
    """

    def __init__(self, space: SearchSpace, repeats: int, shrink: Shrink, seed: int, **options: Any) -> None:
        super().__init__(space, repeats, shrink, seed, **options)
        self._visits: dict[str, dict[str, int]] = {d.name: dict.fromkeys(d.choices, 0) for d in space.decisions}
        self._moving: dict[str, dict[str, float]] = {d.name: {} for d in space.decisions}

    def draw(self, index: int) -> Drawn:
        if index < self.phases[0].choices:
            return super().draw(index)
        return {name: self._sampled(name, choices, index) for name, choices in self.remaining.items()}

    def _sampled(self, decision: str, choices: Sequence[str], index: int) -> str:
        rng: np.random.Generator = seeding.numpy_generator(self._seed, "draws", index, decision)
        lower = np.array([self.mean(decision, choice) - self._width(decision, choice) for choice in choices])
        powers = np.exp(lower - lower.max())
        return choices[int(rng.choice(len(choices), p=powers / powers.sum()))]

    def _width(self, decision: str, choice: str) -> float:
        """sqrt(2 ln N / n)."""
        visits = self._visits[decision]
        return math.sqrt(2 * math.log(sum(visits.values())) / visits[choice])

    def _note(self, decision: str, choice: str, score: float) -> None:
        self._visits[decision][choice] += 1
        moving = self._moving[decision]
        moving[choice] = MEMORY * moving[choice] + (1 - MEMORY) * score if choice in moving else score

    def _credited(self, decision: str, choice: str) -> float | None:
        return self._moving[decision].get(choice)

    def worth(self, decision: str, choice: str) -> float:
        mean = self.mean(decision, choice)
        return mean + self._width(decision, choice) if self._visits[decision][choice] else mean

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "visits": {decision: dict(table) for decision, table in self._visits.items()},
            "moving": {decision: dict(table) for decision, table in self._moving.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._visits = {decision: dict(table) for decision, table in state["visits"].items()}
        self._moving = {decision: dict(table) for decision, table in state["moving"].items()}
