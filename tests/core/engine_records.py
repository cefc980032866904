"""What a run left in its folder, and what it told."""

from pathlib import Path
from typing import Any

from bnas import saved
from bnas.history import History, comparable
from bnas.progress import SilentReporter
from tests.core.engine_toy import equal, files


class Told(SilentReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.end = ""

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self, text: str) -> None:
        self.end = text


def state(folder: Path) -> dict[str, Any]:
    found = saved.read(files(folder), kind="search")
    assert found is not None
    return found.state


def records(folder: Path) -> list[dict[str, Any]]:
    return [comparable(record) for record in History(files(folder).history).read()]


def ends_as(folder: Path, whole: Path) -> bool:
    return equal(state(folder), state(whole)) and records(folder) == records(whole)
