"""`evolution`: architectures bred by selection, crossover and mutation, under hard budgets or against their cost.

By default a super-network is trained by sampled paths first, and candidates are scored with its weights (single path
one-shot, Guo et al. 2019, arXiv 1904.00420; for binary MobileNets Phan et al. 2020, arXiv 2005.06305). `evaluator:
train` trains each candidate by itself (Shen et al. 2019, arXiv 1909.07378). `survival: ageing` with one child a
generation and no crossover is regularized evolution (Real et al. 2019, arXiv 1802.01548). Selection is deap's;
crossover and mutation are the space's, as decisions may compete.
"""

from typing import Any

import numpy as np
from torch import Tensor

from bnas import seeding
from bnas.collapse import CollapseWatch
from bnas.feasible import Feasible
from bnas.genotype import Genotype
from bnas.strategy import SearchTask, StepKind, describe_genotype, distinct_genotypes
from strategies.candidates import checked_score
from strategies.evolution_options import EvolutionOptions
from strategies.population import Scored, knee, mutant, parents, pareto_front, survivors

# Children in a row that may be known already before the space counts as exhausted.
TRIES = 100
ADVICE = "a longer training of the super-network, more score_images, a lower cost_weight, a wider budget"


class Evolution:
    """The strategy; see the module. Rounds train the super-network, then score a few candidates each.

    Every candidate is remembered, and none is scored twice. A search that finds no new one ends early.
    """

    def __init__(self, task: SearchTask, options: EvolutionOptions) -> None:
        self._task, self._options = task, options
        self._feasible = Feasible(task, options.budget)
        self._front = options.objective == "front"
        self._unit = self._feasible.cost(task.space.reference()).of(options.cost) if self._weighs_cost else 1.0
        self._queue = distinct_genotypes(
            task.space, options.population, task.seed, "evolution", "first", draw=self._feasible.random
        )
        self._first = self._queue[0]
        self._evaluator = options.make_evaluator(task)
        self._scored: list[Scored] = []
        self._known = {self._evaluator.key(genotype) for genotype in self._queue}
        self._population: list[Scored] = []
        # How many of the scored have been in a population.
        self._counted = 0
        self._generation, self._rounds, self._ended = 1, 0, False
        self._watch = CollapseWatch(options, ADVICE)
        self._collapsed = False

    @property
    def _weighs_cost(self) -> bool:
        return self._options.objective != "accuracy"

    @property
    def _children(self) -> int:
        return self._options.children or self._options.population

    @property
    def rounds_total(self) -> int:
        if self._collapsed:
            return self.rounds_done
        coming = 0 if self._ended else self._options.generations - self._generation
        left = self._evaluator.rounds_left(self._queue) + coming * self._evaluator.rounds_for(self._children)
        return self._evaluator.preparation_rounds + self._rounds + left

    @property
    def rounds_done(self) -> int:
        return self._evaluator.preparation_done + self._rounds

    def run_round(self) -> dict[str, Any]:
        if self._evaluator.preparation_done < self._evaluator.preparation_rounds:
            metrics = self._evaluator.prepare()
        else:
            metrics = self._score_some()
        return metrics | self._watched()

    def _watched(self) -> dict[str, Any]:
        """The architecture that is chosen now, what follows from it, and the answer as it stands then."""
        space, current = self._task.space, self.derive()
        record = describe_genotype(space, current)
        if self._scored:
            verdict = self._watch.judge(self.rounds_done, space.facts(current), lambda: dict(current.choices))
            record |= verdict.record
            self._collapsed = verdict.action == "stop"
        answer = self.derive()
        return record | {"genotype": dict(answer.choices), "digest": space.digest(answer)}

    def _score_some(self) -> dict[str, Any]:
        metrics, accuracies = self._evaluator.score(self._queue, len(self._scored))
        metrics["generation"] = self._generation
        self._rounds += 1
        new = [
            self._judged(genotype, accuracy)
            for genotype, accuracy in zip(self._queue[: len(accuracies)], accuracies, strict=True)
        ]
        self._scored += new
        self._queue = self._queue[len(new) :]
        metrics["candidates"] = len(self._scored)
        if self._scored:
            chosen = self._chosen()
            metrics |= {"val_accuracy": chosen.accuracy, "objective": chosen.value}
            if self._weighs_cost:
                metrics["cost"] = chosen.cost
        if not self._queue:
            if self._front:
                metrics["front"] = [one.to_dict() for one in pareto_front(self._scored)]
                metrics["chosen"] = "best accuracy within the budget" if self._options.budget.limits else "knee"
            self._breed()
        return metrics

    def _judged(self, genotype: Genotype, accuracy: float) -> Scored:
        checked_score(accuracy, genotype, self._task.space.digest(genotype))
        cost = self._feasible.cost(genotype).of(self._options.cost) / self._unit if self._weighs_cost else 0.0
        value = accuracy
        if self._options.objective == "penalty":
            value = max(100 * accuracy - self._options.cost_weight * cost, 0.0)
        return Scored(genotype, accuracy, cost, value)

    def _breed(self) -> None:
        """Who survives the generation that is scored, and the candidates of the next one."""
        o = self._options
        if o.survival == "ageing":
            self._population = self._scored[-o.population :]
        else:
            both = [*self._population, *self._scored[self._counted :]]
            self._population = survivors(both, o.population, front=self._front)
        self._counted = len(self._scored)
        if self._generation == o.generations:
            return
        self._generation += 1
        chosen = parents(
            self._population,
            2 * self._children,
            selection=o.selection,
            size=o.selection_size,
            front=self._front,
            seed=self._task.seed,
            generation=self._generation,
        )
        rng = seeding.numpy_generator(self._task.seed, "evolution", "children", self._generation)
        for mother, father in zip(chosen[::2], chosen[1::2], strict=True):
            child = self._child(mother.genotype, father.genotype, rng)
            if child is not None:
                self._queue.append(child)
                self._known.add(self._evaluator.key(child))
        self._ended = not self._queue

    def _child(self, mother: Genotype, father: Genotype, rng: np.random.Generator) -> Genotype | None:
        """A candidate within the budget that is not known yet; at last one drawn at random; None if there is none."""
        space = self._task.space
        if space.count() == 1:
            return None
        for attempt in range(TRIES):
            if attempt > TRIES // 2:
                child = self._feasible.random(rng)
            elif rng.random() < self._options.crossover and attempt < TRIES // 4:
                child = self._feasible.proposed(lambda: space.crossover(mother, father, rng), rng)
            else:
                child = self._feasible.proposed(lambda: mutant(space, mother, self._options.mutation, rng), rng)
            if self._evaluator.key(child) not in self._known:
                return child
        return None

    def _chosen(self) -> Scored:
        """The best by the objective; of a front the most accurate within a budget, or without one its knee."""
        if self._front and not self._options.budget.limits:
            return knee(pareto_front(self._scored))
        return max(self._scored, key=lambda one: one.value)

    def derive(self) -> Genotype:
        """The chosen candidate so far; the first drawn among equals, or before any is scored.

        After a stop because of a collapse, that of the last healthy round.
        """
        if self._collapsed:
            return self._task.space.genotype(self._watch.healthy)
        return self._chosen().genotype if self._scored else self._first

    def weights_for(self, genotype: Genotype) -> dict[str, Tensor] | None:
        return self._evaluator.weights_for(genotype)

    def step_kinds(self) -> tuple[StepKind, ...]:
        total = len(self._queue) + (self._options.generations - 1) * self._children
        return self._evaluator.step_kinds(self._queue, total)

    def state_dict(self) -> dict[str, Any]:
        return {
            "evaluator": self._evaluator.state_dict(),
            "scored": [one.to_dict() for one in self._scored],
            "queue": [dict(genotype.choices) for genotype in self._queue],
            "population": [self._scored.index(one) for one in self._population],
            "counted": self._counted,
            "generation": self._generation,
            "rounds": self._rounds,
            "ended": self._ended,
            "watch": self._watch.state_dict(),
            "collapsed": self._collapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        genotype = self._task.space.genotype
        self._scored = [
            Scored(genotype(one["choices"]), one["accuracy"], one["cost"], one["value"]) for one in state["scored"]
        ]
        self._queue = [genotype(choices) for choices in state["queue"]]
        self._population = [self._scored[index] for index in state["population"]]
        self._known = {self._evaluator.key(one) for one in (*(s.genotype for s in self._scored), *self._queue)}
        self._counted, self._generation = state["counted"], state["generation"]
        self._rounds, self._ended = state["rounds"], state["ended"]
        self._watch.load_state_dict(state["watch"])
        self._collapsed = state["collapsed"]
        self._evaluator.load_state_dict(state["evaluator"], self._queue, len(self._scored))
