"""One process at a time in a folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bnas import lock
from bnas.errors import BnasError
from bnas.rundir import RunDir

HOLD = """
import sys
from pathlib import Path
from bnas import lock
with lock.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the folder until it is killed."""
    (tmp_path / "run").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path, holder: subprocess.Popen) -> None:
    words = (
        rf"run is in use by process {holder.pid} on .+, started \d{{4}}-\d\d-\d\dT.*Wait until it ends or stop it, or"
    )
    with pytest.raises(BnasError, match=words), lock.locked(tmp_path / "run"):
        pass
    with pytest.raises(BnasError, match=words):
        RunDir(tmp_path / "run").files_for_search().fresh()
    assert (tmp_path / "run").exists()


def test_the_lock_ends_with_a_killed_process(tmp_path: Path, holder: subprocess.Popen) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock.locked(tmp_path / "run") as warning:
        assert warning is None


def test_a_run_is_not_moved_from_under_its_retraining(tmp_path: Path, holder: subprocess.Popen) -> None:
    outer = RunDir(tmp_path)
    (tmp_path / "run").rename(tmp_path / "retrain-0")
    with outer.files_for_search().locked():
        pass
    with pytest.raises(BnasError, match=f"retrain-0 is in use by process {holder.pid}"):
        outer.files_for_search().fresh()


def test_the_same_thread_may_nest_and_another_may_not(tmp_path: Path) -> None:
    seen: list[str] = []

    def other() -> None:
        try:
            with lock.locked(tmp_path):
                seen.append("locked")
        except BnasError as error:
            seen.append(str(error))

    with lock.locked(tmp_path):
        with lock.locked(tmp_path / "." / ""):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"in use by process {os.getpid()}" in seen[0]
    assert not lock.is_mine(tmp_path)
    other()
    assert seen[1] == "locked"


def test_a_holder_that_has_not_signed_yet(tmp_path: Path) -> None:
    with lock.locked(tmp_path):
        (tmp_path / ".lock").write_text("")
        lock._mine.folders.clear()
        with pytest.raises(BnasError, match=r"in use by another process. Wait"), lock.locked(tmp_path):
            pass


def test_fresh_within_the_own_lock_is_a_bug(tmp_path: Path) -> None:
    files = RunDir(tmp_path).files_for_search()
    with files.locked(), pytest.raises(RuntimeError, match="cannot be moved by the process that holds its lock"):
        files.fresh()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with lock.locked(tmp_path) as warning:
        assert warning == (
            f"the file system of {tmp_path} has no locks: a second process on this folder would not be noticed"
        )


def test_a_folder_moved_between_open_and_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    flock, calls = fcntl.flock, []

    def moving(descriptor: int, operation: int) -> None:
        if not calls:
            folder.rename(tmp_path / "run.old-1")
            folder.mkdir()
        calls.append(operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", moving)
    with lock.locked(folder):
        assert len(calls) == 2
        assert str(os.getpid()) in (folder / ".lock").read_text()
