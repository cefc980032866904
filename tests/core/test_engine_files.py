"""Damaged, foreign and lost files of a run, and another job in its folder: told, and never overwritten."""

from pathlib import Path

import pytest
import torch

from bnas import checkpoint, engine, saved
from bnas.errors import BnasError
from bnas.history import History
from bnas.progress import SilentReporter
from tests.core.engine_records import Told, ends_as, records, state
from tests.core.engine_toy import Toy, equal, files, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 4 rounds."""
    folder = tmp_path_factory.mktemp("whole")
    run(Toy(4), folder)
    return folder


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint(tmp_path: Path, whole: Path, damage: str) -> None:
    run(Toy(3), tmp_path)
    path = files(tmp_path).checkpoint
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(bytes(data) if damage == "bit" else path.read_bytes()[:-1])
    told = Told()
    work = Toy(4)
    outcome = run(work, tmp_path, told)
    assert work.rounds_run == 2
    assert told.messages == list(outcome.notes)
    assert "search.ckpt.previous, of the round before, is used, and the damaged file is kept as" in told.messages[0]
    assert (tmp_path / "search.ckpt.damaged").exists()
    assert ends_as(tmp_path, whole)


def test_both_checkpoints_damaged(tmp_path: Path) -> None:
    run(Toy(3), tmp_path)
    kept = records(tmp_path)
    for name in ("search.ckpt", "search.ckpt.previous"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        BnasError, match=r"search.ckpt is cut short.* and .*previous is cut short.*start anew in another"
    ):
        run(Toy(4), tmp_path)
    assert records(tmp_path) == kept


def test_a_checkpoint_of_another_kind(tmp_path: Path) -> None:
    run(Toy(1), tmp_path)
    with pytest.raises(BnasError, match="a checkpoint of kind 'search', where one of kind 'retrain' is needed"):
        engine.run(Toy(1), files(tmp_path), kind="retrain", reporter=SilentReporter())


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    run(Toy(1), tmp_path)
    work = Toy(2)
    work.model = torch.nn.Sequential(torch.nn.Linear(6, 7))
    with pytest.raises(
        BnasError,
        match=r"search.ckpt does not fit this job \(RuntimeError: Error\(s\) .* \.\.\.\)\. It is of another job or",
    ):
        run(work, tmp_path)


@pytest.mark.parametrize("key", ["rounds_done", "history_lines", "state", "fingerprint"])
def test_a_checkpoint_that_is_not_of_a_run(tmp_path: Path, key: str) -> None:
    run(Toy(1), tmp_path)
    content = checkpoint.load(files(tmp_path).checkpoint, kind="search")
    checkpoint.save(files(tmp_path).checkpoint, {**content, key: -1}, kind="search")
    with pytest.raises(BnasError, match=r"search.ckpt is a checkpoint, but not of a run: it"):
        run(Toy(1), tmp_path)


def test_history_without_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    run(Toy(2), tmp_path)
    (tmp_path / "search.ckpt").unlink()
    (tmp_path / "search.ckpt.previous").unlink()
    with pytest.raises(
        BnasError, match=r"history.jsonl has rounds, but search.ckpt is gone. Choose another --run folder"
    ):
        run(Toy(2), tmp_path)
    assert len(records(tmp_path)) == 2


def test_a_history_that_lost_lines_is_told(tmp_path: Path, whole: Path) -> None:
    run(Toy(2), tmp_path)
    files(tmp_path).history.write_text("")
    outcome = run(Toy(4), tmp_path)
    assert outcome.notes == (f"{tmp_path / 'history.jsonl'} has 0 of 2 lines; the rest is lost",)
    assert [record["round"] for record in records(tmp_path)] == [3, 4]
    assert equal(state(tmp_path), state(whole))
    assert run(Toy(4), tmp_path).notes == ()


def test_a_history_line_that_rotted_does_not_stop_the_run(tmp_path: Path, whole: Path) -> None:
    run(Toy(2), tmp_path)
    files(tmp_path).history.write_text("nonsense\n" + files(tmp_path).history.read_text().splitlines()[1] + "\n")
    outcome = run(Toy(4), tmp_path)
    assert "history.jsonl, line 1: not a line of JSON" in outcome.notes[0]
    assert outcome.notes[0].endswith("the run goes on without showing the rounds before")
    assert equal(state(tmp_path), state(whole))


JOB = {"space.cells": 8, "train.epochs": 10, "device": "cpu", "train.betas": (0.9, 0.99)}


def test_a_changed_job_is_refused_key_by_key(tmp_path: Path) -> None:
    run(Toy(2), tmp_path, fingerprint=JOB, job_text="old")
    changed = {**JOB, "space.cells": 20, "train.epochs": 12, "new": True}
    with pytest.raises(BnasError) as caught:
        run(
            Toy(4),
            tmp_path,
            fingerprint=changed,
            job_text="new",
            why_fixed={"train.epochs": "the cosine schedule has that length"},
        )
    assert str(caught.value) == (
        f"{tmp_path} was started with another job, and has 2 rounds. space.cells: was 8, now 20; train.epochs: was 10, "
        "now 12 (the cosine schedule has that length); new: was not there, now true. To go on, give the old values. "
        "For the new ones: choose another --run folder, or start anew in this one with --fresh "
        "(the old content is kept beside it)"
    )
    assert files(tmp_path).job.read_text() == "old"
    assert state(tmp_path)["rounds_done"] == 2


def test_what_may_change_and_what_is_the_same(tmp_path: Path) -> None:
    run(Toy(2), tmp_path, fingerprint=JOB)
    same = {**dict(reversed(JOB.items())), "train.betas": [0.9, 0.99]}
    outcome = run(Toy(3), tmp_path, fingerprint={**same, "device": "cuda"}, may_change=("device",))
    assert outcome.rounds_done == 3
    found = saved.read(files(tmp_path), kind="search")
    assert found is not None
    assert found.fingerprint is not None
    assert found.fingerprint["device"] == "cuda"


def test_a_changed_job_begins_anew_while_nothing_is_finished(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(BnasError):
        run(Toy(4, nan_at=0, nan_times=2), tmp_path, fingerprint=JOB)
    History(files(tmp_path).history).append({"round": 1, "of": "a process killed before its checkpoint"})
    run(Toy(4), tmp_path, fingerprint={**JOB, "space.cells": 3})
    assert ends_as(tmp_path, whole)
