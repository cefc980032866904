"""The folder of a run: names, what is refused, what --fresh moves, what it ran on."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from bnas import environment as environment_module
from bnas.environment import environment
from bnas.errors import BnasError
from bnas.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def started(files) -> None:
    files.prepare()
    with files.locked():
        files.record_environment()


def test_the_names(run: RunDir) -> None:
    search, retrain = run.files_for_search(), run.files_for_retrain("7")
    assert search.folder == run.path
    assert (search.job.name, search.environment.name, search.history.name) == (
        "job.yaml",
        "environment.json",
        "history.jsonl",
    )
    assert (search.genotype, search.checkpoint) == (run.path / "genotype.json", run.path / "search.ckpt")
    assert retrain.folder == run.path / "retrain-7"
    assert (retrain.checkpoint, retrain.packed) == (retrain.folder / "checkpoint.pt", retrain.folder / "model.bnas")
    assert retrain.job == retrain.folder / "job.yaml"
    assert not run.path.exists()


def test_a_path_may_be_text(tmp_path: Path) -> None:
    assert RunDir(str(tmp_path)).files_for_search().folder == tmp_path


@pytest.mark.parametrize("id", ["", "a/b", "..", "-x", "0.old-1", "a b"])
def test_ids_that_are_no_folder_names(run: RunDir, id: str) -> None:
    with pytest.raises(BnasError, match=r"retraining id '.*': letters, digits, '.', '_' and '-' are allowed"):
        run.files_for_retrain(id)


def test_retrainings_are_listed(run: RunDir) -> None:
    assert run.retrainings() == ()
    for id in ("1", "0"):
        started(run.files_for_retrain(id))
    assert run.files_for_retrain("0").fresh() == run.path / "retrain-0.old-1"
    (run.path / "retrain-empty").mkdir()
    assert run.retrainings() == ("1",)


def test_a_run_on_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BnasError, match=r"file is a file; a run needs a folder. Choose another --run folder"):
        RunDir(tmp_path / "file").files_for_search().prepare()
    with pytest.raises(BnasError, match=r"cannot make .*: a part of the path is a file, not a folder"):
        RunDir(tmp_path / "file" / "run").files_for_search().prepare()


def test_a_read_only_place(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    # Replaced and not chmod, which does not bind root.
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(
        BnasError, match=r"cannot make .*run: the file system is read-only. Choose a folder that you can"
    ):
        run.files_for_search().prepare()
    monkeypatch.undo()
    run.files_for_search().prepare()
    monkeypatch.setattr(os, "open", refuse)
    words = r"cannot write .*\.lock: the file system is read-only"
    with pytest.raises(BnasError, match=words), run.files_for_search().locked():
        pass


def test_files_of_the_users_own_are_not_overwritten(run: RunDir) -> None:
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    run.files_for_search().prepare()
    (run.path / "job.yaml").write_text("mine")
    with pytest.raises(
        BnasError, match=r"run holds job.yaml but no run, and the run would overwrite it. Choose another"
    ):
        run.files_for_search().prepare()
    assert run.files_for_search().fresh() is None
    assert (run.path / "job.yaml").read_text() == "mine"


def test_a_run_that_was_copied_without_its_hidden_files_is_still_one(run: RunDir) -> None:
    files = run.files_for_search()
    started(files)
    files.job.write_text("x")
    (run.path / ".lock").unlink()
    files.prepare()


def test_fresh_moves_everything_and_counts(run: RunDir, tmp_path: Path) -> None:
    files = run.files_for_search()
    assert files.fresh() is None
    for number in (1, 2):
        started(files)
        files.job.write_text(f"{number}")
        started(run.files_for_retrain("0"))
        assert files.fresh() == tmp_path / f"run.old-{number}"
        assert not run.path.exists()
        assert (tmp_path / f"run.old-{number}" / "job.yaml").read_text() == f"{number}"
        assert (tmp_path / f"run.old-{number}" / "retrain-0" / "environment.json").exists()


def test_fresh_of_a_relative_path(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(run.files_for_search())
    monkeypatch.chdir(tmp_path)
    assert RunDir(Path("run")).files_for_search().fresh() == tmp_path / "run.old-1"


def test_fresh_of_the_current_folder(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    started(run.files_for_search())
    monkeypatch.chdir(run.path)
    with pytest.raises(
        BnasError, match=r"run cannot be moved while it is the current folder. Change to another folder"
    ):
        RunDir(Path()).files_for_search().fresh()


def test_fresh_that_the_system_refuses(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    started(run.files_for_search())

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(BnasError, match=r"cannot rename .*run: permission denied. Nothing was moved. Choose"):
        run.files_for_search().fresh()


def test_half_written_files_of_killed_writers_are_cleared(run: RunDir) -> None:
    files = run.files_for_search()
    files.prepare()
    (run.path / ".search.ckpt.99-ab.part").write_bytes(b"x")
    (run.path / ".job.yaml.99-ab.part").write_bytes(b"x")
    with files.locked():
        assert [path.name for path in run.path.iterdir()] == [".lock"]


def test_the_environment_is_json_and_complete() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert set(found) >= {"bnas", "python", "numpy", "platform", "processor", "cuda", "cuda_device", "host"}
    assert found["processor"]


def test_a_changed_environment_is_told_and_kept(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    files = run.files_for_search()
    started(files)
    assert files.record_environment() is None
    first = json.loads(files.environment.read_text())
    assert "earlier" not in first
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(environment_module.socket, "gethostname", lambda: "another")
    note = files.record_environment()
    assert note == (
        f"the environment is not that of the last start (threads {first['threads']} -> 64): "
        "the last digits may differ from those of an uninterrupted run"
    )
    now = json.loads(files.environment.read_text())
    assert (now["threads"], now["host"], now["earlier"]) == (64, "another", [first])
    assert files.record_environment() is None
    assert json.loads(files.environment.read_text()) == now


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"[" * 100_000, b'{"earlier": 3}'])
def test_an_environment_file_that_is_none_is_written_anew(run: RunDir, content: bytes) -> None:
    files = run.files_for_search()
    files.prepare()
    files.environment.write_bytes(content)
    note = files.record_environment()
    assert note is not None
    assert "None -> " in note
    assert json.loads(files.environment.read_text())["torch"] == torch.__version__
