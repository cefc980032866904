"""The small interface between a search strategy and everything that runs it: SearchTask and Strategy."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bnas import seeding
from bnas.genotype import Genotype
from bnas.space import NetSpec, SearchSpace
from bnas.training.source import BatchSource

# Draws in a row that may repeat known architectures before a space counts as exhausted.
DRAWS_BEFORE_EXHAUSTED = 200


@dataclass(frozen=True)
class SearchTask:
    """All that a strategy gets. There is no test split to peek at.

    `train` trains weights; `val` trains or scores architectures. Both give batches as functions of the step.
    `deployed`: the network that the found architecture will be, whose costs budgets limit; None: that of `spec`.
    """

    space: SearchSpace
    spec: NetSpec
    train: BatchSource
    val: BatchSource
    seed: int
    device: torch.device
    deployed: NetSpec | None = None


@dataclass(frozen=True)
class StepKind:
    """One kind of step that a search is made of: how often it is done, and how to do one. For `bnas plan`.

    `start(sample)` prepares the kind's representative number `sample` (below `samples`: candidates differ in cost) and
    returns its step, which is called a few times and timed. `keys`: the options that `count` is in proportion to.
    """

    name: str
    count: int
    keys: tuple[str, ...]
    start: Callable[[int], Callable[[], object]]
    samples: int = 1


class Strategy(Protocol):
    """A resumable sequence of rounds that ends in a genotype; made as `factory(task, options)`.

    It is a `Resumable` of the engine: a round is a bounded slice of work, everything random is a function of the seed
    and the step, and after `load_state_dict(state)` every round does what it would have done in the process that saved
    `state`. The strategy owns gates and scores; it changes neither the space nor, but for training its weights, the
    super-network.
    """

    @property
    def rounds_total(self) -> int: ...

    @property
    def rounds_done(self) -> int: ...

    def run_round(self) -> Mapping[str, Any]:
        """One round; its metrics hold `genotype`, the choices that would be derived now (`describe_genotype`)."""
        ...

    def derive(self) -> Genotype:
        """The architecture found so far; after the last round, the result."""
        ...

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor] | None:
        """The searched weights of that architecture as the built network's state dict, or None where there are none."""
        ...

    def step_kinds(self) -> Sequence[StepKind]:
        """What all rounds together consist of, but for saving. Their steps are real ones: the strategy is spent then."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def describe_genotype(space: SearchSpace, genotype: Genotype) -> dict[str, Any]:
    """What each round's history record says of the architecture at hand: choices, digest, histogram, facts."""
    return {
        "genotype": dict(genotype.choices),
        "digest": space.digest(genotype),
        "operations": dict(Counter(choice for _, choice in genotype.choices)),
        **space.facts(genotype),
    }


Draw = Callable[[np.random.Generator], Genotype]


def distinct_genotypes(
    space: SearchSpace, count: int, seed: int, *address: object, draw: Draw | None = None
) -> list[Genotype]:
    """Up to `count` random genotypes that differ under the space's symmetries; fewer when there are no more.

    `draw`: how one is drawn, by default uniformly from the whole space.
    """
    draw = space.random if draw is None else draw
    rng: np.random.Generator = seeding.numpy_generator(seed, *address)
    found: dict[str, Genotype] = {}
    repeats = 0
    while len(found) < count and repeats < DRAWS_BEFORE_EXHAUSTED:
        drawn = draw(rng)
        digest = space.digest(drawn)
        repeats = repeats + 1 if digest in found else 0
        found.setdefault(digest, drawn)
    return list(found.values())


def slice_steps(round_steps: int, steps_per_epoch: int) -> int:
    """Steps of one round: as asked for, or (0) an epoch but at most 200, so that a kill never costs long."""
    return round_steps or min(steps_per_epoch, 200)
