"""Where the time of a run goes: a stopwatch that stands on one part of the work at any time.

    watch = Stopwatch()
    with watch:
        engine.run(...)
    watch.shares()

Code says which part it is by `part(NETWORK)`, around a block or a function. Without a stopwatch that runs this does
nothing. Of parts within parts the innermost counts, and what no part claims is bookkeeping, so that shares add up to 1.
"""

import time
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from typing import Self

# Forward and backward; waiting for a batch; changing weights; sampling, archives, figures and files.
NETWORK, DATA, OPTIMIZER, BOOKKEEPING = PARTS = ("network", "data", "optimizer", "bookkeeping")


class Stopwatch:
    """Seconds of each part while it is entered, in the thread that entered it.

    `wait` is called where one part ends and another begins: a device that works on its own has to be waited for, or
    its work counts where the host waits next.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, wait: Callable[[], None] | None = None) -> None:
        self._clock, self._wait = clock, wait
        self._now = [BOOKKEEPING]
        self._token: Token[Stopwatch | None]
        self.restart()

    def restart(self) -> None:
        """Count from zero, on the part that it stands on."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._since = self._clock()

    def shares(self) -> dict[str, float]:
        """Of the time since the start, by part."""
        total = sum(self.seconds.values())
        return {name: seconds / total for name, seconds in self.seconds.items()}

    def begin(self, name: str) -> None:
        self._count()
        self._now.append(name)

    def end(self) -> None:
        self._count()
        self._now.pop()

    def _count(self) -> None:
        if self._wait is not None:
            self._wait()
        now = self._clock()
        self.seconds[self._now[-1]] += now - self._since
        self._since = now

    def __enter__(self) -> Self:
        self._token = _running.set(self)
        self.restart()
        return self

    def __exit__(self, *error: object) -> None:
        self._count()
        _running.reset(self._token)


# Another thread has none: what is done beside the work is not waited for.
_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


class part(ContextDecorator):  # noqa: N801 - reads as what it is where it is used
    """A block, or a function, that is this part of the work."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        if (watch := _running.get()) is not None:
            watch.begin(self._name)

    def __exit__(self, *error: object) -> None:
        if (watch := _running.get()) is not None:
            watch.end()
