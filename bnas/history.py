"""history.jsonl: one JSON object a line for each finished round, on the disk before the round counts as done."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnas import atomic, plain_json
from bnas.errors import BnasError

TIME = "time"
"""The key whose fields (seconds, samples per second) differ from run to run and are not compared."""


def comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without what differs between two equal runs."""
    return {key: value for key, value in record.items() if key != TIME}


class History:
    """The lines of one run. NaN and the infinities are written as the strings "nan", "inf" and "-inf", which `float` reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any], *, kept: str = "The lines before are kept.") -> None:
        """Add one line and wait until it is on the disk; `BnasError` with `kept` where the file system refuses."""
        line = plain_json.dumps(record) + "\n"
        with atomic.explaining("write", self.path, kept):
            is_new = not self.path.exists()
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                atomic.sync_folder(self.path.parent)

    def cut(self, lines: int) -> int:
        """Keep the first `lines` whole lines, drop the rest and any half-written line; returns how many there are now."""
        if not self.path.exists():
            return 0
        with atomic.explaining("write", self.path), self.path.open("r+b") as file:
            kept = end = 0
            for line in file:
                if kept == lines or not line.endswith(b"\n"):
                    break
                kept += 1
                end += len(line)
            file.truncate(end)
            os.fsync(file.fileno())
        return kept

    def read(self) -> list[dict[str, Any]]:
        """All records; a last line without its end is of a round that did not finish, and is left out.

        `BnasError`, with the number of the line, where a line is not a JSON object.
        """
        if not self.path.exists():
            return []
        with atomic.explaining("read", self.path):
            content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        return [self._parsed(number, line) for number, line in enumerate(whole.split(b"\n")[:-1], 1)]

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BnasError(f"{self.path}, line {number}: not a line of JSON ({error})") from error
        if not isinstance(record, dict):
            raise BnasError(f"{self.path}, line {number}: a {type(record).__name__}, where a JSON object is needed")
        return record
