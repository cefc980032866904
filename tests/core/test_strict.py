"""Dataclasses from plain mappings: each wrong key, type and gap has its message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from bnas.errors import BnasError
from bnas.strict import build, shown


@dataclass(frozen=True)
class Inner:
    depth: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise BnasError(f"depth is {self.depth}; at least 1")


@dataclass(frozen=True)
class Thing:
    count: int
    rate: float = 0.5
    name: str | None = None
    pair: tuple[int, ...] = (1, 2)
    flag: bool = False
    two: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)
    free: Mapping[str, Any] = field(default_factory=dict)
    derived: int = field(init=False, default=0)


@dataclass(frozen=True)
class Nothing:
    pass


def test_values_are_taken_and_a_whole_number_is_a_number() -> None:
    made = build(Thing, {"count": 3, "rate": 1, "pair": [4, 5], "two": [1, 2.5], "free": {"a": [None]}}, "t")
    assert made == Thing(3, 1.0, None, (4, 5), two=(1.0, 2.5), free={"a": [None]})
    assert type(made.rate) is float
    assert type(made.two[0]) is float
    assert build(Thing, {"count": 3, "name": None, "inner": {"depth": 2}}).inner == Inner(2)


def test_a_heading_with_nothing_below_it_is_an_empty_table() -> None:
    assert build(Thing, {"count": 1, "inner": None, "free": None}) == Thing(1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"cuont": 3},
            "unknown key 'cuont'; there are: count, rate, name, pair, flag, two, inner, free. Did you mean 'count'?",
        ),
        ({"count": 1, "derived": 2}, "unknown key 'derived'; there are: count"),
        ({"count": 1, "inner": {"dpeth": 2}}, "inner: unknown key 'dpeth'; there are: depth. Did you mean 'depth'?"),
        ({"count": 1, "inner": {"depth": 0}}, "inner: depth is 0; at least 1"),
        ({"count": 1, "inner": {"depth": "x"}}, "inner.depth: expected a whole number, found 'x'"),
        ({"count": 1, "inner": 3}, "inner: expected a table of keys and values, found 3"),
        ({"count": 1, "free": [1]}, "free: expected a table of keys and values, found [1]"),
        ({"count": 1, "free": {1: 2}}, "free: expected a table of keys and values, found {1: 2}"),
        ({}, "missing count"),
        ({"count": 1.5}, "count: expected a whole number, found 1.5"),
        ({"count": True}, "count: expected a whole number, found true"),
        ({"count": None}, "count: expected a whole number, found nothing (null)"),
        ({"count": 1, "rate": "fast"}, "rate: expected a number, found 'fast'"),
        ({"count": 1, "rate": True}, "rate: expected a number, found true"),
        (
            {"count": 1, "rate": 10**400},
            f"rate: 1{'0' * 55} ... is too large for a number",
        ),
        ({"count": 1, "name": 3}, "name: expected a word, found 3"),
        ({"count": 1, "pair": 3}, "pair: expected a list, found 3"),
        ({"count": 1, "pair": "ab"}, "pair: expected a list, found 'ab'"),
        ({"count": 1, "pair": ["a"]}, "pair[0]: expected a whole number, found 'a'"),
        ({"count": 1, "two": [1.0]}, "two: expected a list of 2, found 1: [1.0]"),
        ({"count": 1, "flag": 1}, "flag: expected true or false, found 1"),
    ],
)
def test_each_mistake_has_its_message(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BnasError) as caught:
        build(Thing, values)
    assert str(caught.value).startswith(said)


def test_the_place_and_the_path_to_it_start_each_message() -> None:
    with pytest.raises(BnasError, match=r"^job\.yaml: search\.size\.count: expected a whole number, found 'x'$"):
        build(Thing, {"count": "x"}, "job.yaml", key="search.size")
    with pytest.raises(BnasError, match=r"^job\.yaml: search\.size\.inner: depth is 0; at least 1$"):
        build(Thing, {"count": 1, "inner": {"depth": 0}}, "job.yaml", key="search.size")
    with pytest.raises(BnasError, match=r"^job\.yaml: search\.size: missing count$"):
        build(Thing, {}, "job.yaml", key="search.size")


def test_a_class_without_options_says_so() -> None:
    with pytest.raises(BnasError, match=r"^unknown key 'a'; none is taken here\.$"):
        build(Nothing, {"a": 1})


def test_a_long_value_is_cut_and_a_short_one_shown_as_in_a_job() -> None:
    assert shown("x" * 100) == "'" + "x" * 55 + " ..."
    assert len(shown(list(range(1000)))) == 60
    assert [shown(value) for value in (None, False, 1e-3, "no", [1])] == [
        "nothing (null)",
        "false",
        "0.001",
        "'no'",
        "[1]",
    ]
