"""YAML means what it looks like; whatever is not YAML, or more than data, is a message with its line."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.errors import BnasError
from experiments import yaml_file
from experiments.yaml_file import LARGEST_BYTES, parse, read, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-1.5e3", -1500.0),
        ("4.", 4.0),
        (".5", 0.5),
        ("0", 0),
        ("-3", -3),
        ("+3", 3),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        *((word, word) for word in ("no", "on", "yes", "off", "No", "TRUE", "Null", "y")),
        *((word, word) for word in ("010", "0o7", "0x10", "1_000", "1:30", "2001-01-01", "1e", "e5", "<<", "=")),
        *((word, word) for word in (".inf", "-.inf", ".nan", "inf", "nan")),
    ],
)
def test_a_scalar_is_what_it_looks_like(text, value):
    found = parse(f"a: {text}\n", "t")["a"]
    assert found == value
    assert type(found) is type(value)


def test_comments_lists_tables_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeff# what\na: [1, 2.0, no]  # é\nb: {c: null}\n".encode())
    assert read(path) == {"a": [1, 2.0, "no"], "b": {"c": None}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3", "t line 3: "),
        ("a: 1\na: 2", "t line 2: the key 'a' stands here twice"),
        ("b:\n  a: 1\n  a: 2", "t line 3: the key 'a' stands here twice"),
        ("1: a", "t line 1: the key 1 is not a word"),
        ("[a]: 1", "t line 1: the key ['a'] is not a word"),
        ("a: &x [1]\nb: *x", "t line 2: aliases are not taken here"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "t line 3: aliases are not taken here"),
        ("a: !!python/object/apply:os.system [ls]", "t line 1: tags (!) are not taken here"),
        ("a: !!int '3'", "t line 1: tags (!) are not taken here"),
        ("a: 1\nb: 1e400", "t line 2: 1e400 is too large for a number"),
        ("a: 1\n--- \nb: 2", "t line 2: but found another document"),
        ("a: b: c", "t line 1: mapping values are not allowed here"),
        ("a:\n\t- 1", "t line 2: found character '\\t' that cannot start any token"),
        ("a: " + "9" * 5000, "t: not YAML (Exceeds the limit"),
        ("[" * 5000, "t: not YAML (maximum recursion depth exceeded"),
        ("a: \x00", "t: not YAML (unacceptable character #x0000"),
    ],
)
def test_what_is_not_taken_is_named_with_its_line(text, said):
    with pytest.raises(BnasError) as caught:
        parse(text, "t")
    assert str(caught.value).startswith(said)


def test_an_alias_bomb_is_refused_before_it_grows():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    with pytest.raises(BnasError, match="t line 2: aliases are not taken here"):
        parse("\n".join(lines), "t")


def test_files_that_are_not_text(tmp_path):
    path = tmp_path / "a.yaml"
    with pytest.raises(BnasError, match=r"^cannot read .*a\.yaml: there is no such file"):
        read(path)
    with pytest.raises(BnasError, match="a folder of that name exists"):
        read(tmp_path)
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(BnasError, match=r"a\.yaml: not a text file in UTF-8"):
        read(path)
    path.write_bytes(b"#" * (LARGEST_BYTES + 1))
    with pytest.raises(BnasError, match=r"a\.yaml: more than 262,144 bytes; a job has a few thousand"):
        read(path)


ODD_TEXT = st.text(
    st.sampled_from("-+.0159eExo_:, #'\"[]{}&*!|>%@`~?nNoyutrfals\n\t\\ü\x85\u2028\x7f\ufeff\ud800😀\x00")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ODD_TEXT | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_written_on_a_line_is_read_back(value):
    line = scalar(value)
    assert "\n" not in line
    found = parse(f"key: {line}  # comment", "t")["key"]
    assert found == value
    assert repr(found) == repr(value)


def test_ordinary_words_and_numbers_need_no_quotes():
    assert scalar({"a": [1, 1e-5, "bats", "runs/first.npz", None, True]}) == (
        "{a: [1, 1e-05, bats, runs/first.npz, null, true]}"
    )
    assert [scalar(word) for word in ("no", "true", "1e3", "a b", "")] == ["no", '"true"', '"1e3"', '"a b"', '""']
    assert scalar(("a", 0.1)) == "[a, 0.1]"
    assert math.isclose(yaml_file.parse(scalar(0.1 + 0.2), "t"), 0.1 + 0.2, rel_tol=0)
