"""A small piece of work with an optimizer, for the tests of the engine; as a program, a run to be killed.

python -m tests.core.engine_toy RUN ROUNDS [SECONDS_PER_ROUND]
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bnas import engine, seeding
from bnas.nonfinite import NonFiniteLoss
from bnas.progress import PlainReporter, Reporter, SilentReporter
from bnas.rundir import RunDir, RunFiles

STEPS = 3


class Toy:
    """A linear regression by Adam. A round is `STEPS` steps; the loss is NaN at the steps `nan_at`, the first `nan_times`."""

    def __init__(self, rounds_total: int = 4, *, nan_at: int = -1, nan_times: int = 0, pause: float = 0.0) -> None:
        with seeding.borrowed(0, "toy"):
            self.model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.rounds_total = rounds_total
        self.rounds_done = 0
        self.rounds_run = 0
        self._nan_at = nan_at
        self._nan_left = nan_times
        self._pause = pause

    def run_round(self) -> dict[str, Any]:
        self.rounds_run += 1
        for step in range(self.rounds_done * STEPS, (self.rounds_done + 1) * STEPS):
            x = torch.randn(8, 6, generator=seeding.torch_generator(0, "batch", step))
            loss = ((self.model(x) - x.sum(1, keepdim=True)) ** 2).mean()
            if step == self._nan_at and self._nan_left > 0:
                self._nan_left -= 1
                raise NonFiniteLoss(step, "the loss is nan")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            time.sleep(self._pause / STEPS)
        self.rounds_done += 1
        return {"loss": loss.item(), "choices": {"edge": "skip"}, "samples": 8 * STEPS, "time": {"load": 0.0}}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rounds_done": self.rounds_done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rounds_done = state["rounds_done"]


def files(folder: Path) -> RunFiles:
    return RunDir(folder).files_for_search()


def run(work: engine.Resumable, folder: Path, reporter: Reporter | None = None, **more: Any) -> engine.Outcome:
    return engine.run(work, files(folder), kind="search", reporter=reporter or SilentReporter(), **more)


def equal(a: Any, b: Any) -> bool:
    """Same containers, same values, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def forked(act: Callable[[], Any]) -> int:
    """The process id of a fork that does `act` and ends with status 0, or 1 where it raised."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return child


if __name__ == "__main__":
    torch.set_num_threads(1)
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    print(run(Toy(int(sys.argv[2]), pause=pause), Path(sys.argv[1]), PlainReporter(every_seconds=0)))
