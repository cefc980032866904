"""Which form of a kernel runs: measured once a shape, kept on disk, never one that is slower than cuDNN or cuBLAS.

Only the decision and its file; `triton_measure` takes the times.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnas import atomic
from bnas.errors import BnasError

DENSE = "dense"


@dataclass(frozen=True)
class Choice:
    """A form and its tile: pixels, filters, words, warps."""

    form: str
    tile: tuple[int, int, int, int]


@dataclass(frozen=True)
class Trial:
    """What one choice did: its median time, or why it is out of the question."""

    choice: Choice
    microseconds: float | None
    problem: str = ""


def best(trials: Sequence[Trial]) -> Choice:
    """The quickest of those that gave the right integers; `dense` (cuDNN, cuBLAS) unless another is quicker.

    `BnasError` where none did.
    """
    timed = [(t.microseconds, t.choice.form != DENSE, t) for t in trials if t.microseconds is not None]
    if not timed:
        problems = "; ".join(f"{t.choice.form} {t.choice.tile}: {t.problem}" for t in trials)
        raise BnasError(f"no form of the kernel gives the right integers on this device: {problems}")
    return min(timed, key=lambda entry: entry[:2])[2].choice


class Dispatcher:
    """Choices by shape, in memory and in `path`; the file belongs to one device and one set of versions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._choices = _read(path)

    def choose(self, shape: str, measure: Callable[[], Sequence[Trial]], known: Collection[Choice]) -> Choice:
        """The choice for `shape`: what was found before, where that is still among the `known`."""
        choice = self._choices.get(shape)
        if choice is None or choice not in known:
            choice = self._choices[shape] = best(measure())
            self._save()
        return choice

    def _save(self) -> None:
        # Another process may have measured other shapes meanwhile; where two write at once, one measures again later.
        self._choices = {**_read(self.path), **self._choices}
        content = {shape: asdict(choice) for shape, choice in sorted(self._choices.items())}
        try:
            with atomic.explaining("write", self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self.path, json.dumps(content, indent=1) + "\n")
        except BnasError as error:
            warnings.warn(f"the choice of kernels is not kept, and will be measured again: {error}", stacklevel=2)


def file_for(environment: Mapping[str, Any]) -> Path:
    """The file of choices for a device and versions: in $BNAS_CACHE, or in ~/.cache/bnas."""
    digest = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:16]
    folder = os.environ.get("BNAS_CACHE") or Path.home() / ".cache" / "bnas"
    return Path(folder) / f"kernels-{digest}.json"


def _read(path: Path) -> dict[str, Choice]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {shape: _choice(entry) for shape, entry in content.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged, its choices of kernels are measured again ({error!r})", stacklevel=3)
        return {}


def _choice(entry: Any) -> Choice:
    pixels, filters, words, warps = entry["tile"]
    return Choice(str(entry["form"]), (pixels, filters, words, warps))
