"""What of a search space a target cannot run, found by building and lowering its networks; and the space without it."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from bnas import seeding
from bnas.deploy.targets import Refusal
from bnas.deploy.trace import trace
from bnas.errors import BnasError
from bnas.genotype import Decision
from bnas.space import NetSpec, SearchSpace

Choices = dict[str, str]


class Refused(NamedTuple):
    """A choice that is left out, and why."""

    decision: str
    choice: str
    reason: str


def refusals(network: nn.Module, target: Refusal) -> list[str]:
    """Why the target cannot run that network; empty where it can. A network that does not pack runs nowhere."""
    try:
        draft, _, _ = trace(network)
    except BnasError as error:
        return [str(error)]
    found = []
    for op in draft.ops:
        reason = target(op, {role: draft.tensors[name].shape for role, name in op.tensors.items()})
        if reason is not None:
            found.append(f"{op}: {reason}")
    return found


def prune(space: SearchSpace, spec: NetSpec, name: str, target: Refusal) -> tuple[SearchSpace, list[Refused]]:
    """The space with only those choices that the target `name` runs in a network of that spec, and those left out.

    Each choice is judged in a network in which nothing else is refused. `BnasError` where there is no such network: a
    decision has no choice that runs, or a layer that is always there does not. The genotypes of the smaller space are
    genotypes of the whole one.
    """
    judge = _Judge(space, spec, target)
    clean = judge.clean_choices()
    base = {d.name: next((c for c in space.drawable(d) if (d.name, c) in clean), "") for d in space.decisions}
    for decision in space.decisions:
        if not base[decision.name]:
            base[decision.name] = judge.least_refused(decision, base)
    remaining = judge.of(base)
    if remaining:
        raise BnasError(
            f"{space.name} has no network that target {name} runs; of the one that fits best it refuses "
            f"{'; '.join(remaining[:3])}{f' and {len(remaining) - 3} more' if len(remaining) > 3 else ''}"
        )
    refused = []
    for decision in space.decisions:
        for choice in space.drawable(decision):
            reasons = [] if (decision.name, choice) in clean else judge.of(base, decision, choice)
            if reasons:
                refused.append(Refused(decision.name, choice, reasons[0]))
    return (_without(space, refused) if refused else space), refused


def _without(space: SearchSpace, refused: list[Refused]) -> SearchSpace:
    gone = {(entry.decision, entry.choice) for entry in refused}
    smaller = copy.copy(space)
    smaller.decisions = tuple(
        replace(d, choices=tuple(c for c in d.choices if (d.name, c) not in gone)) for d in space.decisions
    )
    for decision in smaller.decisions:
        if not smaller.drawable(decision):
            reason = next(entry.reason for entry in refused if entry.decision == decision.name)
            raise BnasError(f"decision {decision.name} of {space.name} is left without a choice, such as {reason}")
    return smaller


class _Judge:
    """Builds networks of a space and asks the target about them."""

    def __init__(self, space: SearchSpace, spec: NetSpec, target: Refusal) -> None:
        self.space, self.spec, self.target = space, spec, target

    def _refusals(self, choices: Choices) -> list[str]:
        with seeding.borrowed(0, "deploy-target"):
            network = self.space.build(self.space.genotype(choices), self.spec)
        return refusals(network, self.target)

    def of(self, base: Mapping[str, str], decision: Decision | None = None, choice: str = "") -> list[str]:
        """Refusals of the network of `base`, with that choice in it; of a group its first decisions are kept."""
        choices: Choices = {}
        for unit in self.space.units():
            kept = sorted(unit, key=lambda d: d is not decision)[: unit[0].keep or 1]
            choices |= {d.name: choice if d is decision else base[d.name] for d in kept}
        return self._refusals(choices)

    def clean_choices(self) -> set[tuple[str, str]]:
        """(decision, choice) pairs that occur in a network without refusals; few networks cover all pairs."""
        clean: set[tuple[str, str]] = set()
        for choices in self._covering():
            if not self._refusals(choices):
                clean |= set(choices.items())
        return clean

    def _covering(self) -> Iterator[Choices]:
        """Networks in which every choice occurs: everywhere the n-th choice, and each part of a group in turn."""
        units = self.space.units()
        most = max(len(self.space.drawable(d)) for d in self.space.decisions)
        turns = max(-(-len(unit) // (unit[0].keep or 1)) for unit in units)
        for number in range(most):
            for turn in range(turns):
                choices: Choices = {}
                for unit in units:
                    keep = unit[0].keep or 1
                    kept = [unit[(turn * keep + i) % len(unit)] for i in range(keep)]
                    for decision in kept:
                        options = self.space.drawable(decision)
                        choices[decision.name] = options[number % len(options)]
                yield choices

    def least_refused(self, decision: Decision, base: Mapping[str, str]) -> str:
        """The choice with the fewest refusals in the network of `base`, whose open ends are first choices."""
        filled = {d.name: base[d.name] or self.space.drawable(d)[0] for d in self.space.decisions}
        return min(self.space.drawable(decision), key=lambda choice: len(self.of(filled, decision, choice)))
