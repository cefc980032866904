"""Draws, credits and what is given up, on a space without networks."""

from collections import Counter

import numpy as np
import pytest

from bnas.errors import BnasError
from bnas.genotype import Decision
from search_spaces.bats import Bats
from strategies.confidence_bounds import ConfidenceBounds
from strategies.elimination import LOWEST, Elimination, drop_fixed, drop_half


class Uneven(Bats):
    """Decisions of 4, 3 and 1 choices; two edges with a choice that is never derived compete for one place."""

    def __init__(self) -> None:
        super().__init__(nodes=1)
        self.decisions = (
            Decision("four", ("a", "b", "c", "d")),
            Decision("three", ("x", "y", "z")),
            Decision("one", ("only",)),
            Decision("left", ("zero", "up", "down"), group="node", keep=1),
            Decision("right", ("zero", "up", "down"), group="node", keep=1),
        )


def one_at_a_time(count: int) -> int:
    return drop_fixed(1, count)


def search(repeats: int = 2, shrink=one_at_a_time, seed: int = 0, kind: type[Elimination] = Elimination) -> Elimination:
    return kind(Uneven(), repeats, shrink, seed)


# What each choice adds to the score of an architecture.
WORTH = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3, "x": 0.3, "y": 0.1, "z": 0.2, "only": 0.0, "zero": 0.6, "up": 0.1}


def worth(drawn) -> float:
    return sum(WORTH.get(choice, 0.0) for choice in drawn.values()) + 0.3 * (drawn["right"] == "up")


def run(elimination: Elimination) -> list[list[str]]:
    return [elimination.credit(d, worth(d)) for d in iter_draws(elimination)]


def iter_draws(elimination: Elimination):
    while elimination.done < elimination.total:
        yield elimination.draw(elimination.done)


def test_phases_of_the_papers() -> None:
    class Eight(Bats):
        pass

    beihang, cp_nas = Elimination(Eight(), 3, drop_half, 0), Elimination(Eight(), 3, one_at_a_time, 0)
    assert [(p.choices, p.left) for p in beihang.phases] == [(8, 4), (4, 2), (2, 1)]
    assert beihang.total == 42
    assert [p.choices for p in cp_nas.phases] == [8, 7, 6, 5, 4, 3, 2]
    assert cp_nas.total == 105
    assert [drop_half(count) for count in (7, 4, 3, 2)] == [4, 2, 2, 1]
    assert drop_fixed(5, 3) == 1


def test_every_choice_is_drawn_once_in_k_draws_and_smaller_decisions_about_as_evenly() -> None:
    elimination = search(repeats=3)
    for repeat in range(3):
        draws = [elimination.draw(4 * repeat + position) for position in range(4)]
        assert Counter(d["four"] for d in draws) == Counter("abcd")
        # 3 choices in 4 draws: a whole permutation, then the first of another.
        assert Counter(d["three"] for d in draws[:3]) == Counter("xyz")
        assert [d["one"] for d in draws] == ["only"] * 4
    orders = {tuple(elimination.draw(4 * r + i)["four"] for i in range(4)) for r in range(3)}
    assert len(orders) > 1
    assert [search(seed=1).draw(i) for i in range(8)] != [search().draw(i) for i in range(8)]


def test_the_worst_go_and_small_decisions_wait_their_turn() -> None:
    elimination = search(repeats=300)
    given_up = [dropped for dropped in run(elimination) if dropped]
    assert [sorted(d for d in dropped if d[0] in "ft") for dropped in given_up] == [
        ["four: a"],
        ["four: c", "three: y"],
        ["four: d", "three: z"],
    ]
    assert elimination.remaining["four"] == ["b"]
    assert elimination.remaining["three"] == ["x"]
    # Zeros have the best scores, but one choice that may be derived stays.
    assert elimination.remaining["left"] == elimination.remaining["right"] == ["up"]
    genotype = Uneven().derive(elimination.scores())
    assert dict(genotype.choices) == {"four": "b", "three": "x", "one": "only", "right": "up"}


def test_means_indicators_and_ties() -> None:
    elimination = search(repeats=1)
    credited: dict[str, list[float]] = {}
    for index, score in enumerate((0.5, 0.25, 0.75, 0.5)):
        assert elimination.mean("four", "b") == (credited["b"][0] if "b" in credited else LOWEST)
        drawn = elimination.draw(index)
        credited.setdefault(drawn["four"], []).append(score)
        credited.setdefault(drawn["three"], []).append(score)
        if index < 3:
            elimination.credit(drawn, score)
    for choice in "xyz":
        expected = np.mean(credited[choice][: 1 if len(credited[choice]) == 2 else None])
        assert elimination.mean("three", choice) == pytest.approx(expected)
    values = np.exp([elimination.mean("three", choice) for choice in "xyz"])
    indicators = elimination.indicators("three")
    assert list(indicators.values()) == pytest.approx(values / values.sum())
    equal = search(repeats=1)
    for drawn in [equal.draw(index) for index in range(4)]:
        dropped = equal.credit(drawn, 0.5)
    assert dropped == ["four: d"]


@pytest.mark.parametrize("kind", [Elimination, ConfidenceBounds])
def test_continued_from_its_state(kind: type[Elimination]) -> None:
    whole, part = search(kind=kind), search(kind=kind)
    everything = run(whole)
    first = [part.credit(drawn, worth(drawn)) for drawn, _ in zip(iter_draws(part), range(11), strict=False)]
    other = search(kind=kind)
    other.load_state_dict(part.state_dict())
    assert first + run(other) == everything
    assert other.state_dict() == whole.state_dict()


def test_bounds_draw_good_choices_more_often_and_give_up_the_worst() -> None:
    elimination = search(repeats=30, shrink=drop_half, kind=ConfidenceBounds)
    drawn = []
    for choices in iter_draws(elimination):
        drawn.append(choices["four"])
        elimination.credit(choices, 10 * WORTH[choices["four"]])
        if elimination.done == elimination.phases[0].end:
            break
    counts = Counter(drawn)
    assert Counter(drawn[:4]) == Counter("abcd")
    assert counts["b"] > counts["a"]
    assert elimination.remaining["four"][0] != "a"
    assert "b" in elimination.remaining["four"]


def test_bounds_formulas() -> None:
    elimination = search(repeats=1, shrink=drop_half, kind=ConfidenceBounds)
    order = []
    for index, score in enumerate((0.5, 0.25, 1.0)):
        drawn = elimination.draw(index)
        order.append(drawn["three"])
        elimination.credit(drawn, score)
    assert elimination.worth("three", order[1]) == pytest.approx(0.25 + np.sqrt(2 * np.log(3)))
    drawn = elimination.draw(3)
    before = elimination.mean("three", drawn["three"])
    elimination._note("three", drawn["three"], 0.0)
    assert elimination.mean("three", drawn["three"]) == pytest.approx(0.7 * before)
    assert elimination.worth("three", drawn["three"]) == pytest.approx(0.7 * before + np.sqrt(2 * np.log(4) / 2))


def test_nothing_to_abandon() -> None:
    class Fixed(Bats):
        def __init__(self) -> None:
            super().__init__(nodes=1)
            self.decisions = (Decision("one", ("only",)),)

    with pytest.raises(BnasError, match="in space bats every decision has one choice, so there is nothing to abandon"):
        Elimination(Fixed(), 1, drop_half, 0)
