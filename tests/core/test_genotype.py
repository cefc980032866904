"""A genotype is a checked value with a JSON form; what is not one is refused with the reason."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnas.errors import BnasError
from bnas.genotype import Decision, Genotype

NAMES = st.text("abc._019", min_size=1, max_size=8)


@given(NAMES, st.dictionaries(NAMES, st.integers() | NAMES | st.lists(st.integers())), st.dictionaries(NAMES, NAMES))
def test_json_round_trip(space: str, arguments: dict[str, object], choices: dict[str, str]) -> None:
    genotype = Genotype.make(space, arguments, choices)
    again = Genotype.from_json(genotype.to_json(about={"seed": 3}))
    assert again == genotype
    assert again.content_digest == genotype.content_digest


def test_order_and_absent_choices_do_not_matter() -> None:
    a = Genotype.make("s", {}, {"x": "1", "y": "2", "z": "absent"})
    b = Genotype.make("s", {}, {"y": "2", "x": "1"})
    assert a == b
    assert a.choice("z") == "absent"
    assert a.content_digest != Genotype.make("s", {}, {"x": "2", "y": "2"}).content_digest


GOOD = Genotype.make("s", {}, {"x": "1"}).to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", 'no "format": "bnas-genotype"'),
        (json.dumps(GOOD | {"version": 2}), "version 2; this release reads version 1"),
        (json.dumps(GOOD | {"space": 5}), "'space' is the name of a search space, got 5"),
        (json.dumps(GOOD | {"space_args": [1]}), "'space_args' is a table"),
        (json.dumps(GOOD | {"choices": [1]}), "'choices' is a table"),
        (json.dumps(GOOD | {"choices": {"x": 1}}), "'x': 1 is not a pair of names"),
    ],
)
def test_what_is_not_a_genotype_is_refused(text: str, message: str) -> None:
    with pytest.raises(BnasError, match=message):
        Genotype.from_json(text)


@given(st.binary(max_size=200))
def test_mutated_text_ends_in_a_genotype_or_a_message(noise: bytes) -> None:
    text = json.dumps(GOOD)
    mutated = text[: len(noise) % len(text)] + noise.decode("latin-1") + text[len(noise) % len(text) + 3 :]
    with suppress(BnasError):
        assert isinstance(Genotype.from_json(mutated), Genotype)


def test_a_decision_is_wholly_valid_or_not_made() -> None:
    with pytest.raises(ValueError, match="repeated"):
        Decision("d", ("a", "a"))
    with pytest.raises(ValueError, match="reserved"):
        Decision("d", ("a", "absent"))
    with pytest.raises(ValueError, match="go together"):
        Decision("d", ("a",), group="g")
