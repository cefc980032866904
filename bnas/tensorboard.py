"""The scalars of each round for TensorBoard, where it is installed."""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnas.errors import BnasError
from bnas.progress import Record


def is_installed() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardReporter:
    """Writes every number of a record, and of the mappings in it, to `folder`. `BnasError` where TensorBoard is missing."""

    def __init__(self, folder: Path) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise BnasError("TensorBoard is not installed: pip install 'bnas[tensorboard]'") from error
        self._writer_of = module.SummaryWriter
        self._folder = folder
        self._writer: Any = None

    def start(self, title: str, rounds_total: int, rounds_done: int, earlier: Sequence[Record] = ()) -> None:
        # purge_step hides what a killed run wrote of rounds that are now done again.
        self._writer = self._writer_of(str(self._folder), purge_step=rounds_done + 1)

    def round(self, record: Record) -> None:
        for name, value in _scalars(record):
            if name != "round":
                self._writer.add_scalar(name, value, record["round"])
        self._writer.flush()

    def message(self, text: str) -> None:
        pass

    def finish(self, text: str) -> None:
        if self._writer is not None:
            self._writer.close()


def _scalars(record: Record, prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}{key}", float(value)))
    return found
