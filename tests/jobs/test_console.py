"""What a terminal shows: progress on two lines, messages that wrap at words, commands that do not."""

import io
import json
import re

import pytest
from rich.console import Console

from experiments import console
from experiments.console import (
    Counter,
    RichReporter,
    count,
    facts,
    fail,
    hint,
    make_reporter,
    say,
    size,
    table,
    write_json,
)


@pytest.fixture
def terminal(monkeypatch):
    """The consoles as on a terminal of 100 columns; what they show."""
    shown = io.StringIO()
    for name in ("console", "errors"):
        made = Console(
            file=shown, force_terminal=True, width=100, highlight=False, color_system=None, legacy_windows=False
        )
        monkeypatch.setattr(console, name, made)
    return shown


def lines(shown):
    """The lines of a terminal's output without its control codes."""
    return [
        line.rstrip()
        for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()).replace("\r", "\n").splitlines()
    ]


def record(number, accuracy):
    times = {"seconds": 2.0, "samples_per_second": 1234.5}
    return {"round": number, "loss": 0.123456, "accuracy": 0.5, "val_accuracy": accuracy, "steps": 3, "time": times}


def test_progress_shows_rounds_time_left_metrics_and_the_best(terminal):
    reporter = RichReporter("val_accuracy")
    reporter.start("search bats by darts", 5, 1, [record(1, 0.9)])
    reporter.round(record(2, 0.75))
    reporter.message("a word in between")
    reporter.finish("stopped after 2 of 5 rounds")
    shown = lines(terminal)
    assert shown[0] == "search bats by darts: goes on after round 1 of 5"
    bars = [line for line in shown if "2/5 rounds" in line]
    assert re.fullmatch(r"search bats by darts .+ 2/5 rounds, 6 s left", bars[-1])
    figures = "  loss 0.1235  accuracy 0.5  val_accuracy 0.75  best val_accuracy 0.9 (round 1)  1,234 images/s"
    assert figures in shown
    assert "a word in between" in shown
    assert shown[-1] == "stopped after 2 of 5 rounds"
    assert max(map(len, shown)) <= 100


def test_the_last_round_has_no_time_left(terminal):
    reporter = RichReporter("accuracy")
    reporter.start("retrain", 1, 0)
    reporter.round({"round": 1, "time": {"seconds": 1.0}})
    reporter.finish("finished")
    assert any(line.endswith(" 1/1 rounds") for line in lines(terminal))


def test_a_reporter_for_a_terminal_and_one_for_a_file(terminal, monkeypatch):
    assert isinstance(make_reporter("accuracy"), RichReporter)
    monkeypatch.setattr(console, "console", Console(file=io.StringIO()))
    assert type(make_reporter("accuracy")).__name__ == "PlainReporter"


def test_messages_wrap_at_words_and_commands_do_not_wrap(terminal):
    say("word " * 30)
    hint("next", "bnas verify " + "runs/" * 30 + "model.bnas")
    fail("trouble " * 20 + "[bold]")
    shown = lines(terminal)
    assert shown[:2] == [("word " * 20).rstrip(), ("word " * 10).rstrip()]
    assert shown[2] == "next: bnas verify " + "runs/" * 30 + "model.bnas"
    assert shown[3].startswith("error: trouble ")
    assert shown[4].endswith("[bold]")
    assert max(map(len, (shown[3], shown[4]))) <= 100


def test_a_counter_counts_on_a_terminal_and_is_silent_elsewhere(terminal, capsys, monkeypatch):
    with Counter("images") as counter:
        counter(3, 7)
    assert any("images" in line and "3/7" in line for line in lines(terminal))
    elsewhere = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=elsewhere))
    with Counter("images") as counter:
        counter(3, 7)
    assert elsewhere.getvalue() == ""


def test_tables_do_not_read_names_as_markup(terminal):
    table("", ("class", "p"), [("[bold]", 1)])
    facts([("a [b]", "[/c]")])
    assert [line for line in lines(terminal) if line][1:] == ["[bold]  1", "a [b]  [/c]"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (12_345, "12.3 k"), (1.5, "1.5"), (2_500_000, "2.5 M"), (3e9, "3 G")],
)
def test_counts(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**20, "3.00 MiB"), (50.5, "50 B")]
)
def test_sizes(value, text):
    assert size(value) == text


def test_json_has_no_numbers_that_are_none(tmp_path, capsys):
    write_json(tmp_path / "a.json", {"a": [float("nan"), (float("inf"), 1.5)], "b": {3: None}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": ["nan", ["inf", 1.5]], "b": {"3": None}}
    assert capsys.readouterr().out == f"wrote {tmp_path / 'a.json'}\n"
