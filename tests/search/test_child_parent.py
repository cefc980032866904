"""Child-parent and abandoning searches: scores, paths, schedules, budgets, bad options."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from bnas.budget import Budget
from bnas.data import Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.feasible import Feasible
from bnas.scoring import PathScore
from bnas.space import NetSpec
from bnas.strategy import SearchTask
from bnas.training.updates import latent_weights
from experiments.job_files import make_job
from search_spaces import make_space
from strategies.abandon import Abandon, AbandonOptions
from strategies.child_parent import ChildParent, ChildParentOptions


def batches(count: int) -> Batches:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(count) % 3)
    return Batches(images, 8, seed=0, normalization=Normalization.of(images))


def task(scheme: str = "xnor", space: str = "widths", ratios: Sequence[float] = (0.5, 1, 2)) -> SearchTask:
    args = {"widths": {"network": "vgg_small", "ratios": list(ratios)}, "bats": {"nodes": 1}}[space]
    size = {"widths": {"channels": 4}, "bats": {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}}[space]
    spec = NetSpec((1, 8, 8), 3, scheme, {}, size)
    return SearchTask(make_space(space, args), spec, batches(24), batches(18), 0, torch.device("cpu"))


def test_scores_of_both_forms() -> None:
    accuracies = {"child": 0.6, "parent": 0.9}

    def judged(**options) -> float:
        return ChildParent(task(), ChildParentOptions(**options)).judge(accuracies)

    assert judged() == pytest.approx(0.6 - 0.3)
    assert judged(gap="printed") == pytest.approx(0.6 + 2 * 0.3)
    assert judged(beta=3) == pytest.approx(0.6 - 3 * 0.3)
    assert judged(beta=0) == judged(gap="printed", beta=0) == 0.6
    # A better child of the same parent: worth more with the penalty, less as printed.
    assert ChildParent(task(), ChildParentOptions()).judge({"child": 0.7, "parent": 0.9}) > judged()
    printed = ChildParent(task(), ChildParentOptions(gap="printed"))
    assert printed.judge({"child": 0.7, "parent": 0.9}) < judged(gap="printed")
    assert Abandon(task(), AbandonOptions()).judge({"child": 0.6}) == 0.6


def test_child_and_parent_are_two_networks_on_the_same_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    search = ChildParent(task(), ChildParentOptions(repeats=1, draw_steps=2, round_steps=2))
    child, parent = search._members["child"].net, search._members["parent"].net
    assert latent_weights(child)
    assert not latent_weights(parent)
    recipes = {role: member.trainer.recipe for role, member in search._members.items()}
    assert [(recipes[r].optimizer, recipes[r].learning_rate) for r in recipes] == [("adam", 1e-3), ("sgd", 0.025)]
    paths: dict[str, list] = {"child": [], "parent": []}
    for role, member in search._members.items():
        member.net.register_forward_pre_hook(lambda _, args, role=role: paths[role].append(args[1]))
    scored: dict[Any, Any] = {}
    score = PathScore.__call__
    monkeypatch.setattr(PathScore, "__call__", lambda s, gates: scored.update({s.net: gates}) or score(s, gates))
    search.run_round()
    # Two steps, and what the panel looks at.
    assert [len(p) for p in paths.values()] == [2 + 1, 2]
    assert paths["child"][:2] == paths["parent"]
    assert scored == {child: paths["child"][0], parent: paths["parent"][0]}
    assert all(len(active) == 1 for gates in paths["child"] for active in gates.active.values())
    assert len({str(gates.active) for gates in paths["child"]}) == 1


def test_one_cosine_over_all_draws() -> None:
    search = ChildParent(task(), ChildParentOptions(repeats=1, draw_steps=2, round_steps=2))
    records = [search.run_round() for _ in range(search.rounds_total)]
    assert [record["choices"] for record in records] == [3, 3, 3, 2, 2]
    rates = [record["child_learning_rate"] for record in records]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9e-3
    assert rates[-1] < 0.1e-3
    assert [len(record.get("given_up", [])) for record in records] == [0, 0, 6, 0, 6]
    assert all(len(choices) == 1 for choices in search._elimination.remaining.values())


def test_a_record_credits_what_the_accuracies_say() -> None:
    search = ChildParent(task(), ChildParentOptions(repeats=1, draw_steps=1))
    record = search.run_round()
    gap = record["parent_val_accuracy"] - record["val_accuracy"]
    assert record["score"] == pytest.approx(record["val_accuracy"] - gap)
    assert record["samples"] == 2 * 8
    drawn = search._elimination.draw(0)
    assert all(search._elimination.mean(name, choice) == record["score"] for name, choice in drawn.items())


@pytest.mark.parametrize(("search_class", "options"), [(ChildParent, ChildParentOptions), (Abandon, AbandonOptions)])
def test_a_budget_is_kept_in_every_round(search_class: type, options: type) -> None:
    given = task(ratios=[0.5, 2])
    costs = Feasible(given, Budget())
    narrow = costs.cost(given.space.derive({d.name: [1.0, 0.0] for d in given.space.decisions})).weight_bytes

    def searched(budget: Budget) -> tuple[list[float], Any]:
        search = search_class(given, options(repeats=1, draw_steps=1, budget=budget))
        found = []
        for _ in range(search.rounds_total):
            search.run_round()
            found.append(costs.cost(search.derive()).weight_bytes)
        return found, search

    assert searched(Budget())[0][-1] > 1.5 * narrow
    found, search = searched(Budget(weight_bytes=1.5 * narrow))
    assert max(found) <= 1.5 * narrow
    # What is left is the answer: nothing that was given up is taken back.
    assert {name: (choice,) for name, choice in search.derive().choices} == {
        name: tuple(choices) for name, choices in search._elimination.remaining.items()
    }
    with pytest.raises(BnasError, match="no architecture of space widths was found within the budget"):
        search_class(given, options(budget=Budget(weight_bytes=0.5 * narrow))).derive()


def test_a_cost_weight_makes_the_answer_cheap() -> None:
    given = task()

    def answer(weight: float) -> dict[str, str]:
        search = Abandon(given, AbandonOptions(repeats=1, draw_steps=1, warmup_epochs=0, cost_weight=weight))
        for _ in range(search.rounds_total):
            search.run_round()
        return dict(search.derive().choices)

    assert set(answer(1000.0).values()) == {"x0.5"}
    assert set(answer(0.0).values()) != {"x0.5"}


def test_warm_up_visits_other_paths_every_step_and_credits_nothing() -> None:
    search = Abandon(task(), AbandonOptions(warmup_epochs=2, repeats=1, draw_steps=1))
    assert search.rounds_total == 2 + 3 + 2
    paths = {str(search._path(step).active) for step in range(6)}
    assert len(paths) > 3
    assert [sorted(search.run_round()) for _ in range(2)][1].count("score") == 0
    assert search._elimination.done == 0
    assert "score" in search.run_round()


def test_confidence_bounds_from_the_warm_up_to_the_end() -> None:
    search = Abandon(task(), AbandonOptions(draws="confidence_bounds", warmup_epochs=1, repeats=2, draw_steps=1))
    for _ in range(search.rounds_total):
        search.run_round()
    assert all(len(choices) == 1 for choices in search._elimination.remaining.values())
    visits = [sorted(table.values()) for table in search._elimination.state_dict()["visits"].values()]
    assert {sum(counts) for counts in visits} == {2 * 3 + 2 * 2}
    assert len({str(counts) for counts in visits}) > 1, "draws with replacement visit unevenly"


def test_weights_of_the_child_are_handed_on() -> None:
    given = task(space="bats")
    search = ChildParent(given, ChildParentOptions(repeats=1, drop=8, draw_steps=1))
    search.run_round()
    genotype = search.derive()
    weights = search.weights_for(genotype)
    given.space.build(genotype, given.spec).load_state_dict(weights)
    ours = search._members["child"].net.state_for(genotype)
    assert all(torch.equal(weights[name], tensor) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (ChildParentOptions, {"gap": "printd"}, "no gap named 'printd'"),
        (ChildParentOptions, {"beta": -1}, "beta is -1"),
        (ChildParentOptions, {"drop": 0}, "drop is 0"),
        (ChildParentOptions, {"repeats": 0}, "repeats is 0"),
        (ChildParentOptions, {"cost_weight": -1}, "cost_weight is -1"),
        (ChildParentOptions, {"score_norms": "own"}, "no score_norms named 'own'"),
        (AbandonOptions, {"score_convolutions": "bits"}, "no score_convolutions named 'bits'"),
        (AbandonOptions, {"draws": "ucb"}, "no draws named 'ucb'"),
        (AbandonOptions, {"warmup_epochs": -1}, "warmup_epochs is -1"),
        (AbandonOptions, {"learning_rate": 0}, "learning_rate is 0"),
    ],
)
def test_bad_options(options: type, values: dict, message: str) -> None:
    with pytest.raises(BnasError, match=message):
        options(**values)


def test_scores_are_computed_as_the_options_say() -> None:
    search = ChildParent(task(), ChildParentOptions(score_convolutions="packed", score_norms="recalibrated"))
    assert {member.score.convolutions for member in search._members.values()} == {"packed"}


def test_a_real_child_is_refused() -> None:
    with pytest.raises(BnasError, match=r"search\.scheme is real for both"):
        ChildParent(task(scheme="real"), ChildParentOptions())


def test_the_scheme_of_a_job_is_the_strategys_where_it_says_auto() -> None:
    def scheme(strategy: str, **search) -> str:
        return make_job({"search": {"strategy": strategy, **search}}).search.scheme

    assert [scheme(name) for name in ("child_parent", "abandon", "darts")] == ["xnor", "xnor", "binary-activations"]
    assert scheme("child_parent", scheme="bats") == "bats"
