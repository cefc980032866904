"""`bnas rank`: two orders of the same architectures, cut off and continued, bad input."""

import json
from pathlib import Path
from typing import Any

import pytest

from bnas.stopping import StopRequest
from experiments import api
from experiments.rank import rank
from tests.jobs import tiny_chain
from tests.jobs.conftest import Chain
from tests.jobs.test_compare import StopsAfter
from tests.jobs.tiny_chain import bnas

WORDS = ("--architectures", "4", "--epochs", "1")


@pytest.fixture
def run(chain: Chain, tmp_path: Path) -> Path:
    """A search of this test's own, as a ranking writes below it."""
    api.search(chain.job, tmp_path / "run")
    return tmp_path / "run"


def test_tau_of_shared_and_own_weights(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = bnas(capsys, "rank", run, *WORDS, "--max-minutes", "0.00001")
    assert said.code == 3
    assert "stopped with 0 of 4 trained: the 1e-05 minutes are over" in said.out
    assert f"to go on: bnas rank {run}" in said.out
    said = bnas(capsys, "rank", run, *WORDS, "--json", tmp_path / "rank.json")
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "rank.json").read_text())
    assert (found["total"], found["images"], found["epochs"]) == (4, 24, 1)
    assert [row["is_found"] for row in found["rows"]] == [True, False, False, False]
    assert len({row["digest"] for row in found["rows"]}) == 4
    assert -1 <= float(found["correlation"]["tau"]) <= 1
    assert f"Kendall's tau {float(found['correlation']['tau']):+.3f}" in said.out
    # Longer training alone changes what is trained, and nothing about the shared scores.
    assert bnas(capsys, "rank", run, "--architectures", "4", "--epochs", "3", "--json", tmp_path / "b.json").code == 2


def test_cut_off_it_goes_on(chain: Chain, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    while not found or not found[-1].finished:
        with StopRequest() as stop:
            reporter = StopsAfter(1, stop)
            found.append(
                rank(
                    run,
                    chain.job,
                    architectures=4,
                    epochs=1,
                    reporter=lambda best, r=reporter: r,
                    say=lambda text: None,
                    stop=stop,
                )
            )
    # An epoch is a round, and the stop comes at its end.
    assert [len(ranking.rows) for ranking in found] == [1, 2, 3, 4]
    assert [ranking.correlation is None for ranking in found] == [True, True, True, False]
    assert bnas(capsys, "rank", run, *WORDS, "--json", tmp_path / "whole.json").code == 0
    assert json.loads((tmp_path / "whole.json").read_text()) == found[-1].to_dict()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--architectures", "2"), "architectures is 2; it must be an integer at least 3"),
        (("--epochs", "0"), "epochs is 0; it must be an integer at least 1"),
    ],
)
def test_numbers_that_rank_nothing(
    words: tuple[str, ...], said: str, chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bnas(capsys, "rank", chain.run, *words)
    assert found.code == 2
    assert said in found.err


def test_runs_without_shared_weights(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: Any = tiny_chain.OPTIONS["random"]
    api.search(tiny_chain.job(chain.images, strategy="random", options=options), tmp_path / "random")
    found = bnas(capsys, "rank", tmp_path / "random")
    assert found.code == 2
    assert "strategy random keeps no shared weights" in found.err
    found = bnas(capsys, "rank", tmp_path / "nothing")
    assert found.code == 2
    assert "is not a run" in found.err
