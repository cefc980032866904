"""Abandoning choices by the scores of sampled architectures, until each decision has one left; no network in here.

In a phase every decision has at most K choices. `repeats` times, K architectures are drawn; the score of each is
credited to every choice that it took. Then each decision gives up its worst choices, so that at most K' remain: K - 1
in CP-NAS (Zhuo et al. 2020, arXiv 2005.00057), half of K in Beihang's BNAS (Chen et al. 2020, arXiv 1911.10862).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bnas import seeding
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.space import Scores, SearchSpace

Drawn = Mapping[str, str]
Shrink = Callable[[int], int]
# Below every score: a choice that is given up, or never tried.
LOWEST = -1e9


def drop_fixed(drop: int, count: int) -> int:
    """How many of `count` choices stay when `drop` go; one always stays."""
    return max(1, count - drop)


def drop_half(count: int) -> int:
    """How many of `count` choices stay when half of them go; of an odd number, the smaller half goes."""
    return (count + 1) // 2


class Phase(NamedTuple):
    """Draws `first` ... `end` - 1 with at most `choices` choices a decision, of which `left` stay."""

    choices: int
    left: int
    first: int
    end: int


class Elimination:
    """Remaining choices and credited scores of a space's decisions, with draws without replacement.

    The published draw takes one of K choices of every edge without replacement, so that K draws visit all. Decisions
    with k < K choices: random permutations of the k, one after the other, cut at K draws (ours); each choice is then
    taken K // k times or once more. They give up choices only once K' < k. The mean of a choice is over all its draws
    in a phase. A choice that is the last one that may be derived (`never_derived`) stays, whatever its score.

    `within(genotype, scores)`: the genotype, or a changed one that keeps a budget. At the end of each phase the choices
    of the best architecture within the budget stay, too, so that the last choices left are never over it.
    `penalties[decision][choice]` is taken off the choice's mean score: what it costs by itself.
    """

    def __init__(
        self,
        space: SearchSpace,
        repeats: int,
        shrink: Shrink,
        seed: int,
        within: Callable[[Genotype, Scores], Genotype] | None = None,
        penalties: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self._penalties = penalties or {}
        self.space, self._seed, self._within = space, seed, within
        self.remaining: dict[str, list[str]] = {d.name: list(d.choices) for d in space.decisions}
        self._decisions = {decision.name: decision for decision in space.decisions}
        self.phases = _phases(max(len(choices) for choices in self.remaining.values()), repeats, shrink)
        if not self.phases:
            raise BnasError(
                f"in space {space.name} every decision has one choice, so there is nothing to abandon; "
                "take another strategy, or other arguments of the space"
            )
        self.done = 0
        self._credits: dict[str, dict[str, list[float]]] = {}
        self._means: dict[str, dict[str, float]] = {}

    @property
    def total(self) -> int:
        """Draws of the whole search."""
        return self.phases[-1].end

    @property
    def phase(self) -> Phase:
        """The phase of the draw at hand; at the end, the last one."""
        return next((phase for phase in self.phases if self.done < phase.end), self.phases[-1])

    def draw(self, index: int) -> Drawn:
        """The choice of every decision in draw `index`, from the choices that remain now."""
        phase = next(phase for phase in self.phases if index < phase.end)
        repeat, position = divmod(index - phase.first, phase.choices)
        return {
            name: self._tiled(name, choices, position, (phase.choices, repeat))
            for name, choices in self.remaining.items()
        }

    def _tiled(self, decision: str, choices: Sequence[str], position: int, address: tuple[int, int]) -> str:
        tile, place = divmod(position, len(choices))
        rng: np.random.Generator = seeding.numpy_generator(self._seed, "draws", *address, decision, tile)
        return choices[int(rng.permutation(len(choices))[place])]

    def credit(self, drawn: Drawn, score: float) -> list[str]:
        """Credit draw number `done` with its score; at the end of a phase, what was given up as "decision: choice"."""
        for decision, choice in drawn.items():
            self._note(decision, choice, score)
        ending = self.phase
        self.done += 1
        return self._end_phase(ending) if self.done == ending.end else []

    def _note(self, decision: str, choice: str, score: float) -> None:
        self._credits.setdefault(decision, {}).setdefault(choice, []).append(score)

    def mean(self, decision: str, choice: str) -> float:
        """Mean score less the penalty; `LOWEST` for a choice that was never drawn."""
        score = self._credited(decision, choice)
        return LOWEST if score is None else score - self._penalties.get(decision, {}).get(choice, 0.0)

    def _credited(self, decision: str, choice: str) -> float | None:
        """Mean of this phase's scores; of the one before where there is none yet."""
        scores = self._credits.get(decision, {}).get(choice)
        if scores:
            return sum(scores) / len(scores)
        return self._means.get(decision, {}).get(choice)

    def worth(self, decision: str, choice: str) -> float:
        """What the choice with the smallest value of is given up."""
        return self.mean(decision, choice)

    def indicators(self, decision: str) -> dict[str, float]:
        """softmax of `worth` over the remaining choices: the indicator of the papers, by which choices are ranked."""
        worths = {choice: self.worth(decision, choice) for choice in self.remaining[decision]}
        largest = max(worths.values())
        powers = {choice: math.exp(value - largest) for choice, value in worths.items()}
        return {choice: power / sum(powers.values()) for choice, power in powers.items()}

    def scores(self) -> dict[str, list[float]]:
        """As `SearchSpace.derive` takes them: the mean of every choice, `LOWEST` for those given up."""
        return {
            d.name: [self.mean(d.name, c) if c in self.remaining[d.name] else LOWEST for c in d.choices]
            for d in self.space.decisions
        }

    def derive(self) -> Genotype:
        """The architecture of the best means, of which the choices given up are no part, within the budget."""
        scores = self.scores()
        genotype = self.space.derive(scores)
        return genotype if self._within is None else self._within(genotype, scores)

    def _end_phase(self, phase: Phase) -> list[str]:
        dropped = []
        kept = set() if self._within is None else set(self.derive().choices)
        for decision in self.remaining:
            indicators = self.indicators(decision)
            # The worst first; of equal ones the last listed.
            listed = self.remaining[decision][::-1]
            for choice in sorted(listed, key=lambda name: indicators[name]):
                if len(self.remaining[decision]) <= phase.left:
                    break
                if (decision, choice) not in kept and self._spare(decision, choice):
                    self.remaining[decision].remove(choice)
                    dropped.append(f"{decision}: {choice}")
        self._means = {
            decision: {choice: score for choice in choices if (score := self._credited(decision, choice)) is not None}
            for decision, choices in self.remaining.items()
        }
        self._credits = {}
        return dropped

    def _spare(self, decision: str, choice: str) -> bool:
        """Whether a choice that may be derived would be left without this one."""
        return any(c != choice for c in self.remaining[decision] if c in self.space.drawable(self._decisions[decision]))

    def state_dict(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "remaining": {decision: list(choices) for decision, choices in self.remaining.items()},
            "credits": {d: {c: list(scores) for c, scores in table.items()} for d, table in self._credits.items()},
            "means": {decision: dict(table) for decision, table in self._means.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        self.remaining = {decision: list(choices) for decision, choices in state["remaining"].items()}
        self._credits = {d: {c: list(scores) for c, scores in table.items()} for d, table in state["credits"].items()}
        self._means = {decision: dict(table) for decision, table in state["means"].items()}


def _phases(choices: int, repeats: int, shrink: Shrink) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    first = 0
    while choices > 1:
        left = shrink(choices)
        phases.append(Phase(choices, left, first, first + repeats * choices))
        first, choices = phases[-1].end, left
    return tuple(phases)
