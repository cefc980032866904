"""Dataclasses from plain mappings: each wrong key, type and gap has its message."""

from dataclasses import dataclass

import pytest

from bnas.errors import BnasError
from bnas.strict import build


@dataclass(frozen=True)
class Thing:
    count: int
    rate: float = 0.5
    name: str | None = None
    pair: tuple[int, ...] = (1, 2)
    flag: bool = False


def test_values_are_taken_and_a_whole_number_is_a_number() -> None:
    assert build(Thing, {"count": 3, "rate": 1, "pair": [4, 5]}, "t") == Thing(3, 1.0, None, (4, 5))
    assert build(Thing, {"count": 3, "name": None}, "t").name is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 3}, r"t: unknown key 'cuont'; it has count, rate, name, pair, flag\. Did you mean 'count'\?"),
        ({}, "t: missing count"),
        ({"count": 1.5}, "t.count: expected a whole number, got 1.5"),
        ({"count": True}, "t.count: expected a whole number, got True"),
        ({"count": 1, "rate": "fast"}, "t.rate: expected a number, got 'fast'"),
        ({"count": 1, "rate": True}, "t.rate: expected a number, got True"),
        ({"count": 1, "name": 3}, "t.name: expected a word, got 3"),
        ({"count": 1, "pair": 3}, "t.pair: expected a list, got 3"),
        ({"count": 1, "pair": ["a"]}, r"t.pair\[0\]: expected a whole number, got 'a'"),
        ({"count": 1, "flag": 1}, "t.flag: expected true or false, got 1"),
    ],
)
def test_each_mistake_has_its_message(values: dict[str, object], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        build(Thing, values, "t")
