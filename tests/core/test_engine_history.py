"""The history stays JSON lines, whole, whatever is written and wherever the writing ends."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnas.errors import BnasError
from bnas.history import History, comparable


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.jsonl")


def test_records_come_back_in_order(history: History) -> None:
    records = [{"round": n, "text": "a\nä", "nested": {"a": [1, None, True]}} for n in range(3)]
    for record in records:
        history.append(record)
    assert history.read() == records
    assert len(history.path.read_text().splitlines()) == 3


def test_nothing_written_is_no_records(history: History) -> None:
    assert history.read() == []
    assert history.cut(3) == 0


def test_what_is_not_finite_is_a_string_that_float_reads(history: History) -> None:
    history.append({"a": math.nan, "b": [math.inf], "c": {"d": (-math.inf, 1.0)}})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    record = json.loads(history.path.read_text(), parse_constant=refuse)
    assert record == {"a": "nan", "b": ["inf"], "c": {"d": ["-inf", 1.0]}}
    assert math.isnan(float(record["a"]))


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 9])
def test_cut_keeps_whole_lines(history: History, lines: int) -> None:
    for n in range(3):
        history.append({"round": n})
    with history.path.open("ab") as file:
        file.write(b'{"round": 3, "lo')
    assert history.cut(lines) == min(lines, 3)
    assert [record["round"] for record in history.read()] == list(range(min(lines, 3)))
    history.append({"round": "next"})
    assert history.read()[-1] == {"round": "next"}


def test_a_line_without_its_end_is_left_out(history: History) -> None:
    history.append({"round": 1})
    with history.path.open("ab") as file:
        file.write(b'{"round": 2}')
    assert history.read() == [{"round": 1}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{nonsense\n", "history.jsonl, line 2: not a line of JSON"),
        (b"\xff\xfe\n", "history.jsonl, line 2: not a line of JSON"),
        (b"[" * 100_000 + b"\n", "history.jsonl, line 2: not a line of JSON"),
        (b"9" * 10_000 + b"\n", "history.jsonl, line 2: not a line of JSON"),
        (b"[1]\n", "history.jsonl, line 2: a list, where a JSON object is needed"),
    ],
)
def test_a_line_that_is_no_record(history: History, line: bytes, words: str) -> None:
    history.append({"round": 1})
    history.path.write_bytes(history.path.read_bytes() + line + b'{"round": 3}\n')
    with pytest.raises(BnasError, match=words):
        history.read()


def test_a_full_disk(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append({"round": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BnasError, match=r"cannot write .*history.jsonl: the disk is full. The lines before are kept."):
        history.append({"round": 2})
    monkeypatch.undo()
    assert history.cut(1) == 1


def test_comparable_leaves_the_times_out() -> None:
    assert comparable({"round": 1, "loss": 2.0, "time": {"seconds": 3.0}}) == {"round": 1, "loss": 2.0}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=60), at=st.integers(0, 60))
def test_mutated_bytes_are_a_message_or_records(history: History, junk: bytes, at: int) -> None:
    whole = b'{"round": 1, "loss": 0.5}\n{"round": 2, "loss": 0.25}\n'
    history.path.write_bytes(whole[:at] + junk + whole[at + len(junk) // 2 :])
    try:
        records = history.read()
    except BnasError:
        return
    assert all(isinstance(record, dict) for record in records)
