"""Which paths of a super-network are trained in a step: one drawn uniformly, fair ones, or a sandwich."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas import seeding
from bnas.feasible import extremes
from bnas.space import Gates, Supernet
from bnas.stopwatch import BOOKKEEPING, part
from bnas.strategy import SearchTask
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer

SAMPLINGS = ("uniform", "fair", "sandwich")
# Of the sandwich, beside the largest and the smallest (Yu and Huang 2019).
RANDOM_PATHS = 2

Paths = Callable[[int], list[Gates]]


def uniform(task: SearchTask) -> Paths:
    """One path a step, drawn uniformly (Guo et al. 2019, arXiv 1904.00420)."""

    def paths(step: int) -> list[Gates]:
        rng = seeding.numpy_generator(task.seed, "evolution", "path", step)
        return [task.space.gates(task.space.random(rng))]

    return paths


def fair(task: SearchTask) -> Paths:
    """As many paths a step as the largest decision has choices, each choice in as many of them (FairNAS).

    Chu et al. 2019, arXiv 1907.01845: per decision a permutation of its choices, one to each path; the gradients of all
    paths add up to one update. A decision with fewer choices takes permutations until every path has one, so that its
    choices differ by at most one path; one that competes for a place is in a path as often as the draw keeps it.
    """
    space = task.space
    most = max(len(space.drawable(decision)) for decision in space.decisions)

    def paths(step: int) -> list[Gates]:
        rng = seeding.numpy_generator(task.seed, "evolution", "fair", step)
        dealt: dict[str, list[str]] = {}
        for decision in space.decisions:
            choices = space.drawable(decision)
            dealt[decision.name] = []
            while len(dealt[decision.name]) < most:
                dealt[decision.name] += [choices[int(i)] for i in rng.permutation(len(choices))]
        found = []
        for path in range(most):
            kept = {name for name, _ in space.random(rng).choices}
            found.append(space.gates(space.genotype({name: dealt[name][path] for name in dealt if name in kept})))
        return found

    return paths


def sandwich(task: SearchTask) -> Paths:
    """The largest path, the smallest and `RANDOM_PATHS` random ones (Yu and Huang 2019, arXiv 1903.05134).

    By MACs of the super-network. The others learn from the largest one's answers (see `SeveralPaths`).
    """
    smallest, largest = (task.space.gates(genotype) for genotype in extremes(task.space, task.spec))

    def paths(step: int) -> list[Gates]:
        rng = seeding.numpy_generator(task.seed, "evolution", "sandwich", step)
        drawn = [task.space.gates(task.space.random(rng)) for _ in range(RANDOM_PATHS)]
        return [largest, smallest, *drawn]

    return paths


_PATHS: dict[str, Callable[[SearchTask], Paths]] = {"uniform": uniform, "fair": fair, "sandwich": sandwich}


class SeveralPaths:
    """A trainer of shared weights that runs several paths on each batch and adds their losses up to one update.

    The loss of every path is the cross-entropy with the labels; in a sandwich, that of all but the first is the
    cross-entropy with the first one's softmax, which gets no gradient from it (in-place distillation). A step holds the
    activations of all its paths.
    """

    def __init__(self, task: SearchTask, net: Supernet, sampling: str, recipe: Recipe) -> None:
        self._net, self._is_sandwich = net, sampling == "sandwich"
        self._paths = _PATHS[sampling](task)
        self._others: list[Gates] = []
        self._images = torch.empty(0)
        self.a_step = len(self._paths(0))
        self.trainer = Trainer(
            net,
            task.train,
            recipe,
            seed=task.seed,
            device=task.device,
            forward=self._first,
            extra_losses=(self._rest,) if self.a_step > 1 else (),
            purpose="evolution",
        )

    def _first(self, images: Tensor) -> Tensor:
        with part(BOOKKEEPING):
            first, *self._others = self._paths(self.trainer.step)
        self._images = images
        logits: Tensor = self._net(images, first)
        return logits

    def _rest(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        target = logits.detach().float().softmax(dim=1) if self._is_sandwich else labels
        losses = [F.cross_entropy(self._net(self._images, gates).float(), target) for gates in self._others]
        return torch.stack(losses).sum()

    def run_steps(self, count: int) -> dict[str, Any]:
        """As `Trainer.run_steps`; `samples` counts an image once for every path that it went through."""
        metrics = dict(self.trainer.run_steps(count))
        metrics["samples"] *= self.a_step
        return metrics
