"""The files of one run; the only place that knows their names.

RUN/                    a search: job.yaml as understood, environment.json, history.jsonl, genotype.json, search.ckpt
RUN/retrain-<id>/       a retraining: its own job.yaml, environment.json, history.jsonl, checkpoint.pt, model.bnas
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnas import atomic, lock
from bnas.checkpoint import previous_path
from bnas.environment import differences, environment
from bnas.errors import BnasError

_RETRAIN = "retrain-"
_RETRAIN_CHECKPOINT = "checkpoint.pt"
_OLD = ".old-"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RunFiles:
    """The paths of one search or one retraining. Nothing is on the disk before `prepare`."""

    folder: Path
    checkpoint: Path
    job: Path = field(init=False)
    environment: Path = field(init=False)
    history: Path = field(init=False)
    genotype: Path = field(init=False)
    packed: Path = field(init=False)
    tensorboard: Path = field(init=False)

    def __post_init__(self) -> None:
        names = {
            "job": "job.yaml",
            "environment": "environment.json",
            "history": "history.jsonl",
            "genotype": "genotype.json",
            "packed": "model.bnas",
            "tensorboard": "tensorboard",
        }
        for key, name in names.items():
            object.__setattr__(self, key, self.folder / name)

    def is_started(self) -> bool:
        """Whether a run has been here (a job.yaml alone may be the user's own)."""
        marks = (self.folder / lock.LOCK_FILE, self.environment, self.checkpoint, previous_path(self.checkpoint))
        return any(mark.exists() for mark in marks)

    def prepare(self) -> None:
        """Make the folder; `BnasError` where that cannot be, or where files of the user's own would be overwritten."""
        if self.folder.exists() and not self.folder.is_dir():
            raise BnasError(f"{self.folder} is a file; a run needs a folder. Choose another --run folder")
        own = [path for path in (self.job, self.history, self.genotype, self.packed) if path.exists()]
        if own and not self.is_started():
            names = ", ".join(path.name for path in own)
            raise BnasError(
                f"{self.folder} holds {names} but no run, and the run would overwrite it. Choose another --run folder"
            )
        with atomic.explaining("make", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[str | None]:
        """Hold the folder for the block (see `bnas.lock.locked`), and clear away what killed writers left half-written."""
        with lock.locked(self.folder) as warning:
            for path in (self.checkpoint, self.job, self.environment, self.genotype):
                atomic.sweep(path)
            yield warning

    def fresh(self) -> Path | None:
        """Move the folder, all of it, to `<folder>.old-<n>` and return that path; None where it holds no run.

        `BnasError` where a process works in it or in a retraining below it.
        """
        if not self.is_started():
            return None
        if lock.is_mine(self.folder):
            raise RuntimeError(f"{self.folder} cannot be moved by the process that holds its lock")
        source = Path(os.path.abspath(self.folder))
        if Path.cwd().is_relative_to(source.resolve()):
            raise BnasError(f"{source} cannot be moved while it is the current folder. Change to another folder first")
        with contextlib.ExitStack() as holds:
            for below in (source, *(path.parent for path in source.glob(f"*/{lock.LOCK_FILE}"))):
                holds.enter_context(lock.locked(below))
            target = _free_name(source)
            with atomic.explaining("rename", source, "Nothing was moved."):
                os.rename(source, target)
                atomic.sync_folder(target.parent)
        return target

    def record_environment(self) -> str | None:
        """Write environment.json; a note where it differs from that of the last start, which then stays under `earlier`."""
        now = environment()
        earlier: list[object] = []
        note = None
        if self.environment.exists():
            before = self._read_environment()
            earlier = list(before.pop("earlier", ()))
            changed = differences(before, now)
            if changed:
                earlier.append(before)
                note = (
                    f"the environment is not that of the last start ({changed}): "
                    "the last digits may differ from those of an uninterrupted run"
                )
        whole = {**now, "earlier": earlier} if earlier else now
        atomic.write_text(self.environment, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        return note

    def _read_environment(self) -> dict[str, Any]:
        with atomic.explaining("read", self.environment):
            content = self.environment.read_bytes()
        try:
            found = json.loads(content)
            is_whole = isinstance(found, dict) and isinstance(found.get("earlier", []), list)
        except (ValueError, RecursionError):
            is_whole = False
        # It is a record for people: a file that was edited into something else counts as an unknown environment.
        return found if is_whole else {}


@dataclass(frozen=True)
class RunDir:
    """The folder of one search and its retrainings."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def files_for_search(self) -> RunFiles:
        return RunFiles(self.path, self.path / "search.ckpt")

    def files_for_retrain(self, id: str) -> RunFiles:
        """The files of one retraining; `BnasError` for an id that cannot be part of a folder's name."""
        if not _ID.fullmatch(id) or _OLD in id:
            raise BnasError(
                f"retraining id '{id}': letters, digits, '.', '_' and '-' are allowed, "
                f"a letter or digit first, and no '{_OLD}'"
            )
        folder = self.path / f"{_RETRAIN}{id}"
        return RunFiles(folder, folder / _RETRAIN_CHECKPOINT)

    def retrainings(self) -> tuple[str, ...]:
        """The ids of the retrainings that have been started, sorted."""
        found = (path.name.removeprefix(_RETRAIN) for path in self.path.glob(f"{_RETRAIN}*") if path.is_dir())
        ids = sorted(id for id in found if _ID.fullmatch(id) and _OLD not in id)
        return tuple(id for id in ids if self.files_for_retrain(id).is_started())


def retraining_at(path: Path) -> RunFiles | None:
    """The files of a retraining whose folder or checkpoint `path` is, going by the name; None for any other path."""
    # "." and ".." have no name to go by.
    name = Path(os.path.abspath(path)).name
    if name == _RETRAIN_CHECKPOINT:
        return RunFiles(path.parent, path)
    return RunFiles(path, path / _RETRAIN_CHECKPOINT) if name.startswith(_RETRAIN) else None


def _free_name(folder: Path) -> Path:
    number = 1
    while (target := folder.with_name(f"{folder.name}{_OLD}{number}")).exists():
        number += 1
    return target
