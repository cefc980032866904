"""A full disk, a locked folder, no memory, NaN, a bug: a message, and nothing that was finished is lost."""

import errno
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnas import engine, lock, saved
from bnas.errors import BnasError
from bnas.progress import SilentReporter
from bnas.rundir import RunDir
from tests.core.engine_records import Told, ends_as, state
from tests.core.engine_toy import Toy, files, forked, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 4 rounds."""
    folder = tmp_path_factory.mktemp("whole")
    run(Toy(4), folder)
    return folder


class FullAtRound3(Toy):
    """The disk fills up while the third round is being saved, at the `call`-th fsync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
        super().__init__(4)
        self._patch, self._call = monkeypatch, call

    def run_round(self) -> dict[str, Any]:
        metrics = super().run_round()
        if self.rounds_done == 3:
            fsync, left = os.fsync, [self._call]

            def full(descriptor: int) -> None:
                left[0] -= 1
                if left[0] <= 0:
                    raise OSError(errno.ENOSPC, "full")
                fsync(descriptor)

            self._patch.setattr(os, "fsync", full)
        return metrics


@pytest.mark.parametrize(("call", "name"), [(1, "history.jsonl"), (2, "search.ckpt")])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path, call: int, name: str) -> None:
    told = Told()
    with pytest.raises(BnasError) as caught:
        run(FullAtRound3(monkeypatch, call), tmp_path, told)
    monkeypatch.undo()
    assert str(caught.value) == (
        f"cannot write {tmp_path / name}: the disk is full. Rounds 1 to 2 are safe in {tmp_path}; round 3 will be done "
        "again. Free some space. Then give the same command again."
    )
    assert told.end == f"ended by an error. Rounds 1 to 2 are safe in {tmp_path}"
    assert state(tmp_path)["rounds_done"] == 2
    run(Toy(4), tmp_path)
    assert ends_as(tmp_path, whole)


def test_a_disk_that_is_full_from_the_start_is_told_before_any_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    work = Toy()
    with pytest.raises(
        BnasError, match=r"cannot write .*search.ckpt: the disk is full. Nothing was done yet. Free some"
    ):
        run(work, tmp_path)
    assert work.rounds_run == 0


def test_a_real_limit_on_file_sizes(tmp_path: Path, whole: Path) -> None:
    # The kernel refuses the checkpoint of round 3 in the middle of a write; no function is replaced.
    run(Toy(2), tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(BnasError) as caught:
            run(Toy(4), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'search.ckpt'}: it would be larger than this process may write (`ulimit -f`). Rounds "
        f"1 to 2 are safe in {tmp_path}; round 3 will be done again. Raise the limit. Then give the same command again."
    )
    run(Toy(4), tmp_path)
    assert ends_as(tmp_path, whole)


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_before = os.open

    def refuse(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "read-only")
        return open_before(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        BnasError, match=r"cannot write .*\.lock: the file system is read-only. Choose a folder that you"
    ):
        run(Toy(), tmp_path)


def test_a_second_start_in_the_same_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def second() -> None:
        # A fork inherits what this thread holds; a process of its own would not.
        lock._mine.folders.clear()
        run(Toy(1), tmp_path)

    with files(tmp_path).locked():
        assert os.waitpid(forked(second), 0)[1] != 0
    assert f"BnasError('{tmp_path} is in use by process {os.getpid()} on " in capfd.readouterr().err


@pytest.mark.parametrize(("step", "number", "where"), [(7, 3, "the end of round 2"), (1, 1, "the start")])
def test_nan_once_goes_back_to_the_last_round(tmp_path: Path, whole: Path, step: int, number: int, where: str) -> None:
    told = Told()
    work = Toy(4, nan_at=step, nan_times=1)
    outcome = run(work, tmp_path, told)
    assert outcome.notes == (
        f"round {number}, step {step}: the loss is nan: went back to {where}, once, and goes on from there",
    )
    assert told.messages == list(outcome.notes)
    assert work.rounds_run == 5
    assert ends_as(tmp_path, whole)


def test_nan_twice_in_one_round_stops(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(BnasError) as caught:
        run(Toy(4, nan_at=7, nan_times=2), tmp_path)
    assert str(caught.value) == (
        f"round 3, step 7: the loss is nan, again after going back once. Rounds 1 to 2 are safe in {tmp_path}. "
        "Try a smaller learning rate, a smaller grad_clip, a longer warm-up or float32, in another --run folder"
    )
    run(Toy(4), tmp_path)
    assert ends_as(tmp_path, whole)


def test_nan_twice_in_the_first_round(tmp_path: Path) -> None:
    with pytest.raises(BnasError, match=r"round 1, step 0: the loss is nan, again .* No round was finished yet. Try"):
        run(Toy(4, nan_at=0, nan_times=2), tmp_path)


def test_nan_with_a_damaged_checkpoint_goes_back_one_more(tmp_path: Path, whole: Path) -> None:
    class Worse(Toy):
        def run_round(self) -> dict[str, Any]:
            if self.rounds_done == 2 and self._nan_left:
                files(tmp_path).checkpoint.write_bytes(b"")
            return super().run_round()

    outcome = run(Worse(4, nan_at=7, nan_times=1), tmp_path)
    assert "search.ckpt.previous, of the round before, is used" in outcome.notes[0]
    assert outcome.notes[1].startswith("round 3, step 7: the loss is nan: went back to the end of round 1")
    assert ends_as(tmp_path, whole)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which "
                "1.20 GiB is free. Process 1 has ..."
            ),
            "2.50 GiB more were asked for (GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free)",
        ),
        (MemoryError(), "How much was asked for is not known"),
    ],
)
def test_out_of_memory(tmp_path: Path, error: Exception, words: str) -> None:
    class Large(Toy):
        def run_round(self) -> dict[str, Any]:
            if self.rounds_done == 1:
                raise error
            return super().run_round()

    with pytest.raises(BnasError) as caught:
        run(Large(), tmp_path, fingerprint={"batch_size": 256}, memory_keys=("batch_size", "channels"))
    assert str(caught.value) == (
        f"search {tmp_path}, round 2: out of memory. {words}. Smaller values of these keys need less, half the value "
        f"about half the memory: batch_size (now 256), channels. Round 1 is safe in {tmp_path}"
    )


def test_what_torch_and_numpy_really_say(tmp_path: Path) -> None:
    class Huge(Toy):
        def __init__(self, make: Any) -> None:
            super().__init__()
            self._make = make

        def run_round(self) -> dict[str, Any]:
            self._make(1 << 52)
            return super().run_round()

    for make, asked in ((torch.empty, "16777216.00 GiB"), (np.empty, "32.0 PiB")):
        with pytest.raises(BnasError, match=f"{asked} more were asked for. No round was finished yet"):
            run(Huge(make), tmp_path)


def test_out_of_memory_while_loading_is_not_a_misfit(tmp_path: Path) -> None:
    run(Toy(1), tmp_path)
    work = Toy(2)

    def load(state: dict[str, Any]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    work.load_state_dict = load
    with pytest.raises(BnasError, match=r"round 1: out of memory. 20.00 MiB more were asked for"):
        run(work, tmp_path)


def test_an_error_of_the_work_passes_and_keeps_the_rounds(tmp_path: Path, whole: Path) -> None:
    class Broken(Toy):
        def run_round(self) -> dict[str, Any]:
            if self.rounds_done == 2:
                raise RuntimeError("a bug")
            return super().run_round()

    told = Told()
    with pytest.raises(RuntimeError, match="a bug"):
        run(Broken(4), tmp_path, told)
    assert told.end == f"ended by an error. Rounds 1 to 2 are safe in {tmp_path}"
    run(Toy(4), tmp_path)
    assert ends_as(tmp_path, whole)


def test_work_that_miscounts_is_a_bug(tmp_path: Path) -> None:
    class Still(Toy):
        def run_round(self) -> dict[str, Any]:
            return {}

    class Forgetful(Toy):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    with pytest.raises(RuntimeError, match="run_round must raise rounds_done by one"):
        run(Still(), tmp_path / "a")
    run(Toy(1), tmp_path / "b")
    with pytest.raises(RuntimeError, match="load_state_dict went to round 0, not 1"):
        run(Forgetful(), tmp_path / "b")


def test_a_changed_environment_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Toy(1), tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    outcome = run(Toy(2), tmp_path)
    assert len(outcome.notes) == 1
    assert "-> 64): the last digits may differ from those of an uninterrupted run" in outcome.notes[0]


def test_a_retraining_does_not_need_the_lock_of_its_search(tmp_path: Path) -> None:
    retrain = RunDir(tmp_path).files_for_retrain("0")
    with files(tmp_path).locked():
        outcome = engine.run(Toy(1), retrain, kind="retrain", reporter=SilentReporter())
    assert outcome.status == "finished"
    assert saved.read(retrain, kind="retrain") is not None
