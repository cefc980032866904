"""Evolution: sampling of paths, objectives, selection, ageing, the front and its knee, refusals."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bnas.errors import BnasError
from bnas.feasible import Feasible
from bnas.space import Gates
from strategies.evolution import Evolution
from strategies.evolution_options import EvolutionOptions
from strategies.paths import RANDOM_PATHS, fair, sandwich
from strategies.population import Scored, knee, parents, pareto_front, survivors
from tests.search.test_darts import contract


def evolution(space: str = "widths", **changes: Any) -> Evolution:
    made = contract.make("evolution", space, **changes)
    assert isinstance(made, Evolution)
    return made


def scored_by(search: Evolution, worth: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The records of a search whose candidates are worth what `worth(genotype)` says."""
    monkeypatch.setattr(
        search._evaluator, "score", lambda queue, first: ({"samples": 1}, [worth(genotype) for genotype in queue[:2]])
    )
    records: list[dict[str, Any]] = contract.finish(search)
    return records


def wide(genotype: Any) -> float:
    """Wider is better, by the ratios alone."""
    return sum(float(choice.removeprefix("x")) for _, choice in genotype.choices) / 24


LONG = {"population": 8, "generations": 8, "selection_size": 3}


def test_fair_paths_have_each_choice_equally_often() -> None:
    task = evolution()._task
    paths = fair(task)
    for step in range(3):
        found = paths(step)
        assert len(found) == 3
        for decision in task.space.decisions:
            assert sorted(gates.active[decision.name][0] for gates in found) == sorted(decision.choices)
    assert paths(1) == paths(1)
    assert paths(1) != paths(2)


def test_a_decision_of_fewer_choices_is_fair_up_to_one_path() -> None:
    task = evolution("group_mobilenet")._task
    for decision in task.space.decisions:
        chosen = [gates.active[decision.name][0] for gates in fair(task)(0)]
        counts = [chosen.count(choice) for choice in decision.choices]
        assert max(counts) - min(counts) <= 1


def test_a_sandwich_is_of_the_largest_and_the_smallest() -> None:
    task = evolution()._task
    largest, smallest, *rest = sandwich(task)(0)
    assert {choice for (choice,) in largest.active.values()} == {"x2"}
    assert {choice for (choice,) in smallest.active.values()} == {"x0.5"}
    assert len(rest) == RANDOM_PATHS


def test_the_sandwich_learns_from_its_largest_path_and_fair_paths_from_labels() -> None:
    def rest(sampling: str) -> tuple[float, list[torch.Tensor], torch.Tensor]:
        training: Any = evolution(sampling=sampling)._evaluator._training  # type: ignore[attr-defined]
        training.trainer.model.train()
        images, labels = evolution()._task.train.batch(0)
        logits = training._first(images).requires_grad_()
        loss = training._rest(training.trainer.model, logits, labels)
        with torch.no_grad():
            others = [training._net(images, gates) for gates in training._others]
        assert torch.autograd.grad(loss, logits, allow_unused=True, retain_graph=True) == (None,)
        return float(loss.detach()), others, logits.detach().softmax(dim=1)

    loss, others, soft = rest("sandwich")
    assert loss == pytest.approx(sum(float(torch.nn.functional.cross_entropy(x, soft)) for x in others), rel=1e-4)
    labels = evolution()._task.train.batch(0)[1]
    loss, others, _ = rest("fair")
    assert loss == pytest.approx(sum(float(torch.nn.functional.cross_entropy(x, labels)) for x in others), rel=1e-4)


@pytest.mark.parametrize("selection", ["best", "tournament"])
def test_breeding_finds_what_chance_does_not(selection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = evolution(**LONG, selection=selection)
    records = scored_by(search, wide, monkeypatch)
    first = max(record["objective"] for record in records if record.get("generation") == 1)
    assert records[-1]["objective"] > first
    keys = [search._evaluator.key(one.genotype) for one in search._scored]
    assert len(keys) == len(set(keys)) == 64


def test_the_penalty_weighs_cost_in_units_of_the_uniform_network(monkeypatch: pytest.MonkeyPatch) -> None:
    search = evolution(**LONG, objective="penalty", cost_weight=20.0)
    scored_by(search, wide, monkeypatch)
    unit = search._feasible.cost(search._task.space.reference()).macs_effective
    for one in search._scored:
        cost = search._feasible.cost(one.genotype).macs_effective / unit
        assert one.value == pytest.approx(max(100 * one.accuracy - 20 * cost, 0))
    assert search._chosen().value == max(one.value for one in search._scored)
    assert search._chosen().accuracy < max(one.accuracy for one in search._scored)
    harsh = evolution(**LONG, objective="penalty", cost_weight=1e6)
    scored_by(harsh, wide, monkeypatch)
    assert {one.value for one in harsh._scored} == {0.0}


def test_the_front_and_what_is_chosen_of_it_are_in_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    free = evolution(**LONG, objective="front")
    records = scored_by(free, wide, monkeypatch)
    fronts = [record for record in records if "front" in record]
    assert len(fronts) == 8
    assert {record["chosen"] for record in fronts} == {"knee"}
    front = fronts[-1]["front"]
    assert [point["cost"] for point in front] == sorted(point["cost"] for point in front)
    assert [point["accuracy"] for point in front] == sorted(point["accuracy"] for point in front)
    assert records[-1]["genotype"] in [point["choices"] for point in front]
    limited = evolution(**LONG, objective="front", budget=_half_of(free))
    records = scored_by(limited, wide, monkeypatch)
    assert {record["chosen"] for record in records if "front" in record} == {"best accuracy within the budget"}
    assert limited._chosen().accuracy == max(one.accuracy for one in limited._scored)


def _half_of(search: Evolution) -> Any:
    space = search._task.space
    dearest = space.genotype({decision.name: "x2" for decision in space.decisions})
    return contract.Budget(macs_effective=search._feasible.cost(dearest).macs_effective / 2)


def _one(accuracy: float, cost: float) -> Scored:
    return Scored(evolution()._first, accuracy, cost, accuracy)


def test_front_and_knee() -> None:
    points = [(0.5, 1.0), (0.8, 1.2), (0.7, 1.3), (0.9, 3.0), (0.9, 4.0), (0.4, 0.9)]
    front = pareto_front([_one(*point) for point in points])
    assert [(one.accuracy, one.cost) for one in front] == [(0.4, 0.9), (0.5, 1.0), (0.8, 1.2), (0.9, 3.0)]
    assert knee(front).accuracy == 0.8
    assert knee(front[:2]).accuracy == 0.5
    sagging = pareto_front([_one(0.1, 1.0), _one(0.2, 2.9), _one(0.9, 3.0)])
    assert knee(sagging).accuracy == 0.9


def test_selection_with_a_front_keeps_whole_fronts_first() -> None:
    scored = [_one(*point) for point in ((0.9, 3.0), (0.5, 1.0), (0.8, 3.5), (0.4, 1.1))]
    kept = survivors(scored, 2, front=True)
    assert {(one.accuracy, one.cost) for one in kept} == {(0.9, 3.0), (0.5, 1.0)}
    assert survivors(scored, 2, front=False) == [scored[0], scored[2]]
    chosen = parents(scored, 20, selection="best", size=2, front=True, seed=0, generation=1)
    assert {one.accuracy for one in chosen} == {0.9, 0.5}


def test_ageing_forgets_the_best_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    search = evolution(population=3, generations=6, children=1, crossover=0.0, survival="ageing", selection_size=2)
    scored_by(search, wide, monkeypatch)
    assert search._population == search._scored[-3:]
    assert len(search._scored) == 3 + 5
    elite = evolution(population=3, generations=6, children=1, survival="elite")
    scored_by(elite, wide, monkeypatch)
    assert elite._chosen() in elite._population


def test_a_score_that_is_not_a_number_is_refused_and_names_the_candidate() -> None:
    search = evolution()
    while search.rounds_done < search._evaluator.preparation_rounds:
        search.run_round()
    with torch.no_grad():
        search._evaluator._net.classifier.weight.fill_(math.nan)  # type: ignore[attr-defined]
    with pytest.raises(
        BnasError, match=r"candidate [0-9a-f]+ scores nan.*conv_0: x.*Lower search.options.learning_rate"
    ):
        search.run_round()


def test_candidates_trained_by_themselves_differ_up_to_symmetries() -> None:
    search = evolution("bats", evaluator="train", population=2, generations=2)
    records = contract.finish(search)
    assert len(search._scored) == 4
    # An epoch of three steps, two a round.
    assert len(records) == search.rounds_total == 8
    assert search.weights_for(search.derive()) is None
    assert search._evaluator.key(search.derive()) == search._task.space.digest(search.derive())


def test_trained_candidates_continue_in_another_object() -> None:
    whole = evolution("widths", evaluator="train", population=2, generations=2)
    records = contract.finish(whole)
    for stop in range(1, whole.rounds_total):
        part = evolution("widths", evaluator="train", population=2, generations=2)
        for _ in range(stop):
            part.run_round()
        fresh = evolution("widths", evaluator="train", population=2, generations=2)
        fresh.load_state_dict(part.state_dict())
        assert (fresh.rounds_done, fresh.rounds_total) == (stop, whole.rounds_total)
        assert contract.finish(fresh) == records[stop:]


def test_an_impossible_budget_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(BnasError, match="The cheapest found costs macs_real"):
        evolution(budget=contract.Budget(macs_effective=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "fare"}, "no sampling named 'fare'.*Did you mean 'fair'"),
        ({"objective": "flops"}, "no objective named 'flops'"),
        ({"cost": "flops"}, "no cost named 'flops'; there are: macs_real"),
        ({"population": 0}, "population is 0; it must be an integer at least 1"),
        ({"crossover": 1.5}, "crossover is 1.5; it must be a finite number at least 0 and at most 1"),
        ({"cost_weight": -1}, "cost_weight is -1"),
        ({"cost": "latency_us", "objective": "front"}, "latency_us is known only with a table"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        evolution(**options)


def test_active_paths_of_a_uniform_step_are_single() -> None:
    search = evolution("bats")
    (gates,) = search._evaluator._training._paths(0)  # type: ignore[attr-defined]
    assert isinstance(gates, Gates)
    assert max(len(active) for active in gates.active.values()) == 1
    assert isinstance(search._feasible, Feasible)
    assert EvolutionOptions().budget.limits == {}


def test_candidates_are_scored_as_the_options_say() -> None:
    assert evolution(score_convolutions="float")._evaluator._score.convolutions == "float"
    with pytest.raises(BnasError, match="no score_convolutions named 'bits'"):
        EvolutionOptions(score_convolutions="bits")


def test_a_search_goes_on_alike_whatever_its_convolutions_are_computed_by() -> None:
    def of_signs(convolutions: str) -> Evolution:
        drawn = evolution()
        task = replace(drawn._task, spec=replace(drawn._task.spec, scheme="bnn"))
        return Evolution(task, replace(drawn._options, score_convolutions=convolutions))

    records = contract.finish(of_signs("float"))
    first = of_signs("packed")
    # Halfway, between two candidates of the first generation.
    done = [first.run_round() for _ in range(len(records) - 2)]
    rest = of_signs("auto")
    rest.load_state_dict(first.state_dict())
    assert contract.same([*done, *contract.finish(rest)], records)


def test_candidates_of_a_round_share_what_lies_in_front_of_every_decision() -> None:
    evaluator: Any = evolution("bats")._evaluator
    space, ran = evaluator._task.space, []
    layer = next(module for module in evaluator._net.stem.modules() if isinstance(module, torch.nn.Conv2d))
    layer.register_forward_pre_hook(lambda layer, images: ran.append(layer))
    genotypes = [space.random(np.random.default_rng(seed)) for seed in range(2)]
    alone = [evaluator._score(space.gates(genotype)) for genotype in genotypes]
    assert ran.count(layer) == 2 * evaluator._score.forwards
    ran.clear()
    assert evaluator.score(genotypes, 0)[1] == alone
    assert ran.count(layer) == evaluator._score.forwards
