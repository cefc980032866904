"""The command line in processes of its own: pipes that close, Ctrl-C, seeds, and what it imports."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bnas.genotype import Genotype
from bnas.history import History, comparable
from experiments import api
from tests.jobs.tiny_chain import CHECKOUT, bnas, started


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def heavy(*line, folder):
    """The command line in a process of its own, and what it imported of what takes long."""
    code = (
        "import sys\nfrom experiments.cli import main\n"
        "try: main()\nfinally: print('heavy:', *sorted({'torch', 'matplotlib', 'numba'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *map(str, line)]
    environment = {**os.environ, "PYTHONPATH": CHECKOUT}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("line", [["--help"], ["serch"], ["search", "x", "--sett", "1"]], ids=str)
def test_help_and_a_mistyped_line_start_without_torch(tmp_path, line):
    assert heavy(*line, folder=tmp_path).stdout.splitlines()[-1].strip() == "heavy:"


def test_the_same_seed_gives_the_same_genotype_in_another_process_and_draws_nothing(tmp_path, chain):
    done = heavy("search", chain.job_file, "--run", "again", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "heavy: torch"
    mine = api.load_genotype(chain.run / "genotype.json")
    assert Genotype.from_json((tmp_path / "again/genotype.json").read_text()) == mine
    records = [
        [comparable(r) for r in History(run / "history.jsonl").read()] for run in (chain.run, tmp_path / "again")
    ]
    assert records[0] == records[1]
    assert len(records[0]) > 2


# Rounds of one step each, more of them than there is time for.
LONG = ("--set", "search.options.epochs=3000", "--set", "search.options.round_steps=1")


def test_ctrl_c_finishes_the_round_saves_it_and_says_what_to_type(capsys, tmp_path, chain):
    process = started("search", chain.job_file, "--run", "long run", "--fresh", *LONG, folder=tmp_path)
    history = History(tmp_path / "long run/history.jsonl")
    end = time.monotonic() + 60
    while len(history.read()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, err = finished(process)
    assert code == 3
    assert "Ctrl-C: finishing the round, then saving; Ctrl-C again stops at once" in err
    assert "Traceback" not in err
    done = len(history.read())
    assert f"stopped after {done} of " in out
    assert out.splitlines()[-1] == f"to go on: bnas search {chain.job_file} --run 'long run' {' '.join(LONG)}"
    said = bnas(capsys, "search", chain.job_file, "--run", tmp_path / "long run", *LONG, "--max-minutes", "1e-9")
    assert f"{done} of them done" in said.out


@pytest.mark.parametrize("command", ["--help", "search"])
def test_a_pipe_that_closes_ends_it_without_a_traceback(capsys, tmp_path, chain, command):
    line = ["search", chain.job_file, "--run", "run", *LONG] if command == "search" else ["--help"]
    reading, writing = os.pipe()
    process = started(*line, folder=tmp_path, stdout=writing)
    os.close(writing)
    if command == "search":
        assert os.read(reading, 100).startswith(b"search bats by darts: ")
    os.close(reading)
    _, _, err = finished(process)
    assert err == ""
    if command == "search":
        done = len(History(tmp_path / "run/history.jsonl").read())
        said = bnas(capsys, "search", chain.job_file, "--run", tmp_path / "run", *LONG, "--max-minutes", "1e-9")
        assert f"stopped after {done} of " in said.out or f"stopped after {done - 1} of " in said.out
