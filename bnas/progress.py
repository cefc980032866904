"""What the engine tells while it runs, and the plain lines for where there is no terminal."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TextIO

Record = Mapping[str, Any]
"""A line of the history: `round` (from 1), the work's metrics, `time` (`seconds`, `samples_per_second`)."""

_NOT_METRICS = ("round", "samples")
_RECENT = 20


class Reporter(Protocol):
    """Told of a run as it goes. `start` first, `finish` last, also when an error ends the run."""

    def start(self, title: str, rounds_total: int, rounds_done: int, earlier: Sequence[Record] = ()) -> None:
        """`earlier`: the records of the rounds done before this start."""
        ...

    def round(self, record: Record) -> None:
        """A round is done and saved."""
        ...

    def message(self, text: str) -> None: ...

    def finish(self, text: str) -> None: ...


class SilentReporter:
    """Says nothing."""

    def start(self, title: str, rounds_total: int, rounds_done: int, earlier: Sequence[Record] = ()) -> None:
        pass

    def round(self, record: Record) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def finish(self, text: str) -> None:
        pass


class ReporterGroup:
    """Passes everything on to several reporters, in order."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def start(self, title: str, rounds_total: int, rounds_done: int, earlier: Sequence[Record] = ()) -> None:
        for reporter in self.reporters:
            reporter.start(title, rounds_total, rounds_done, earlier)

    def round(self, record: Record) -> None:
        for reporter in self.reporters:
            reporter.round(record)

    def message(self, text: str) -> None:
        for reporter in self.reporters:
            reporter.message(text)

    def finish(self, text: str) -> None:
        for reporter in self.reporters:
            reporter.finish(text)


class PlainReporter:
    """One line a round: number, metrics, samples per second, best so far, time left.

    At most one line in `every_seconds`; the first and the last round are always shown. `metrics`: which to show, by
    default the first four numbers of a record. `best`: the metric whose best value is kept, the largest one unless
    `smaller_is_better`.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        metrics: Sequence[str] | None = None,
        best: str | None = None,
        smaller_is_better: bool = False,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._metrics = metrics
        self._every_seconds = every_seconds
        self._clock = clock
        self._last_line: float | None = None
        self._rounds_total = 0
        self.summary = Summary(best, smaller_is_better=smaller_is_better)

    def start(self, title: str, rounds_total: int, rounds_done: int, earlier: Sequence[Record] = ()) -> None:
        self._rounds_total = rounds_total
        for record in earlier:
            self.summary.add(record)
        gone = f", {rounds_done} of them done" if rounds_done else ""
        self._print(f"{title}: {rounds_total} rounds{gone}")

    def round(self, record: Record) -> None:
        self.summary.add(record)
        now = self._clock()
        is_due = self._last_line is None or now - self._last_line >= self._every_seconds
        if is_due or record["round"] >= self._rounds_total:
            self._last_line = now
            self._print(self._line(record))

    def message(self, text: str) -> None:
        self._print(text)

    def finish(self, text: str) -> None:
        self._print(text)

    def _line(self, record: Record) -> str:
        left = self._rounds_total - record["round"]
        parts = [f"round {record['round']}/{self._rounds_total}"]
        parts += [f"{key} {value:.4g}" for key, value in numbers(record, self._metrics).items()]
        rate = record.get("time", {}).get("samples_per_second")
        parts += [f"{rate:,.0f} samples/s"] if rate is not None else []
        parts += [self.summary.best_text()] if self.summary.best_text() else []
        parts += [f"{readable_time(self.summary.seconds_left(left))} left"] if left > 0 else []
        return "  ".join(parts)

    def _print(self, text: str) -> None:
        print(text, file=self._stream or sys.stdout, flush=True)


class Summary:
    """Best value so far and the time that is left, from the records seen."""

    def __init__(self, best: str | None = None, *, smaller_is_better: bool = False) -> None:
        self._key = best
        self._sign = -1 if smaller_is_better else 1
        self._seconds: list[float] = []
        self.best: float | None = None
        self.best_round: int | None = None

    def add(self, record: Record) -> None:
        self._seconds = [*self._seconds[1 - _RECENT :], record.get("time", {}).get("seconds", 0.0)]
        value = numbers(record, [self._key]).get(self._key) if self._key is not None else None
        if value is not None and math.isfinite(value) and (self.best is None or self._sign * (value - self.best) > 0):
            self.best, self.best_round = value, record["round"]

    def best_text(self) -> str:
        return "" if self.best is None else f"best {self._key} {self.best:.4g} (round {self.best_round})"

    def seconds_left(self, rounds: int) -> float:
        """From the mean of the last 20 rounds."""
        return rounds * sum(self._seconds) / max(len(self._seconds), 1)


def numbers(record: Record, only: Sequence[str] | None = None) -> dict[str, float]:
    """The scalar metrics of a record: those named, or the first four."""
    found = {
        key: value
        for key, value in record.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in _NOT_METRICS
    }
    return dict(list(found.items())[:4]) if only is None else {key: found[key] for key in only if key in found}


def readable_time(seconds: float) -> str:
    """ "12 s", "3 min 20 s", "5 h 07 min", "2 d 3 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
