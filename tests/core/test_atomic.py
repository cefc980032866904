"""A file is written whole or not at all, and every refusal of the file system is a message."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bnas import atomic
from bnas.errors import BnasError


def fail(number: int):
    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return failing


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    atomic.write_text(path, "new ä")
    assert path.read_bytes() == "new ä".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_old_file_moves_to_keep_as(tmp_path: Path) -> None:
    path, old = tmp_path / "a", tmp_path / "a.previous"
    for data in (b"1", b"2", b"3"):
        with atomic.replacing(path, keep_as=old) as file:
            file.write(data)
    assert (path.read_bytes(), old.read_bytes()) == (b"3", b"2")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full. The file is as it was before. Free some space. Then give the same command"),
        (errno.EDQUOT, "the disk quota is used up. The file is as it was before. Free some space."),
        (errno.EROFS, "the file system is read-only. The file is as it was before. Choose a folder that you can write"),
        (errno.EACCES, "permission denied. The file is as it was before. Choose a folder that you can write to."),
        (errno.EPERM, "permission denied."),
        (errno.EIO, "Input/output error. The file is as it was before. Mend this. Then give the same command again."),
    ],
)
def test_a_refusal_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    monkeypatch.setattr(os, call, fail(number))
    with pytest.raises(BnasError) as caught:
        atomic.write_text(path, "new")
    assert str(caught.value).startswith(f"cannot write {path}: {words}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_kept_is_the_callers_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    with pytest.raises(BnasError, match=r"the disk is full. Round 1 is safe. Free"):
        atomic.write_text(tmp_path / "a", "x", kept="Round 1 is safe.")


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "none" / "a": "there is no such file or folder",
        tmp_path / "file" / "a": "a part of the path is a file, not a folder",
        tmp_path / "folder": "a folder of that name exists",
        tmp_path / ("x" * 250): "the name is too long",
    }
    for path, words in cases.items():
        with pytest.raises(BnasError, match=words):
            atomic.write_text(path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic.replacing(path) as file:
        file.writelines([b"half", "text"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_limit_on_the_file_size(tmp_path: Path) -> None:
    # The kernel refuses the write in the middle; no function is replaced.
    program = (
        "import sys; from pathlib import Path; from bnas import atomic\n"
        "try: atomic.write_bytes(Path(sys.argv[1]), bytes(100_000))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    path = tmp_path / "a"
    path.write_bytes(b"old")
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith(f"BnasError cannot write {path}: it would be larger than this process may write")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_fsync_of_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail(errno.EINVAL))
    atomic.sync_folder(tmp_path)


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / ".a.123-00.part").write_bytes(b"half")
    (tmp_path / ".b.123-00.part").write_bytes(b"half")
    (tmp_path / "a").write_bytes(b"whole")
    atomic.sweep(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.123-00.part", "a"]
