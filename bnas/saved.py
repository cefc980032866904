"""What the checkpoint of a run says: how far it is, with which job, and the state of its work."""

from dataclasses import dataclass
from typing import Any, TypeGuard

from bnas import checkpoint
from bnas.atomic import AS_BEFORE
from bnas.errors import BnasError
from bnas.rundir import RunFiles


@dataclass(frozen=True)
class Saved:
    """`history_lines`: how many lines of the history belong to it. `note`: see `checkpoint.Loaded`, not saved."""

    rounds_done: int
    rounds_total: int
    history_lines: int
    fingerprint: dict[str, Any] | None
    state: dict[str, Any]
    note: str | None = None

    @property
    def is_finished(self) -> bool:
        return self.rounds_done >= self.rounds_total


def read(files: RunFiles, *, kind: str, put_aside: bool = False) -> Saved | None:
    """The newest undamaged checkpoint of a run, for the engine and for any reader; None before the first one.

    See `checkpoint.load_newest` for `put_aside`, which needs the lock, and for the errors.
    """
    loaded = checkpoint.load_newest(files.checkpoint, kind=kind, put_aside=put_aside)
    if loaded is None:
        return None
    content = loaded.content
    done, total, lines = (content.get(key) for key in ("rounds_done", "rounds_total", "history_lines"))
    fingerprint, state = content.get("fingerprint"), content.get("state")
    if not (_is_count(done) and _is_count(total) and _is_count(lines) and isinstance(state, dict)):
        raise BnasError(f"{loaded.path} is a checkpoint, but not of a run: it lacks rounds, history lines or state")
    if not isinstance(fingerprint, (dict, type(None))):
        raise BnasError(f"{loaded.path} is a checkpoint, but not of a run: its job is not a mapping")
    return Saved(done, total, lines, fingerprint, state, loaded.note)


def write(files: RunFiles, saved: Saved, *, kind: str, kept: str = AS_BEFORE) -> None:
    """Make `saved` the newest checkpoint; `BnasError` with `kept` where the file system refuses."""
    content = {
        "rounds_done": saved.rounds_done,
        "rounds_total": saved.rounds_total,
        "history_lines": saved.history_lines,
        "fingerprint": saved.fingerprint,
        "state": saved.state,
    }
    checkpoint.save(files.checkpoint, content, kind=kind, kept=kept)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0
