"""The wish to stop, from a signal or the clock: the engine finishes the round, saves, and leaves."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from bnas.errors import BnasError

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class StopRequest:
    """Within the block, SIGTERM, Ctrl-C and the deadline only set `reason`. A second Ctrl-C stops at once.

    The handlers before are put back at the end. Signals reach the main thread only: on another thread the deadline and
    `request` work. `max_minutes` counts from the making of this object.
    """

    def __init__(self, max_minutes: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        if max_minutes is not None and not max_minutes > 0:
            raise BnasError(f"max_minutes is {max_minutes}; it must be above 0")
        self._max_minutes = max_minutes
        self._clock = clock
        self._started = clock()
        self._requested: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop ("SIGTERM", "Ctrl-C", "the 30 minutes are over"), or None."""
        if self._requested is not None:
            return self._requested
        if self._max_minutes is not None and self._clock() - self._started >= self._max_minutes * 60:
            return f"the {self._max_minutes:g} minutes are over"
        return None

    def request(self, reason: str) -> None:
        """Ask for the stop from within the program; the first reason stands."""
        self._requested = self._requested or reason

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _NAMES:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: the handler before was not set from Python and cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = _NAMES[signal.Signals(number)]
        if name == "Ctrl-C" and self._requested == "Ctrl-C":
            raise KeyboardInterrupt
        self.request(name)
        hint = "; Ctrl-C again stops at once, without this round" if name == "Ctrl-C" else ""
        # os.write, because print would fail where the signal came in the middle of another print. The empty line at the
        # end is what a progress display of two lines paints over.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{name}: finishing the round, then saving{hint}\n\n".encode())
