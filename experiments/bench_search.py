"""`bnas bench search`: images a second of each strategy on each space, and where the time of its rounds goes.

Each pair runs a small search of its own by the engine, checkpoints and history included. Its first round, in which memory
is taken and code is compiled, is left out.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from bnas import engine, memory, seeding
from bnas.data import Dataset, ImageSet
from bnas.errors import BnasError
from bnas.progress import Record, SilentReporter
from bnas.rundir import RunDir
from bnas.stopping import StopRequest
from bnas.stopwatch import BOOKKEEPING, PARTS, Stopwatch
from bnas.strategy import Strategy
from experiments.assembly import make_strategy, read_data
from experiments.bench_timing import on_threads, spread_of, where
from experiments.config import Job
from experiments.console import Counter, say, table, write_json
from experiments.job_files import make_job
from search_spaces import SPACES, make_space
from strategies import STRATEGIES

IMAGE = (3, 32, 32)
CLASSES = 10
KEYS = ("--batch", "--cells", "--channels")
# The arguments of spaces whose own networks are for a GPU.
ARGS: dict[str, Mapping[str, Any]] = {
    "group_mobilenet": {"layers": [2, 2], "groups": [1, 2, 4], "group_channels": 2},
    "fixed": {"networks": ["resnet20", "binary_densenet28"]},
}
AUGMENTATION = {"crop_padding": 4, "flip": True, "cutout": 16}
# They train networks of one genotype, which have all their channels.
OF_WHOLE_NETWORKS = ("random", "successive_halving")
# Every kind of round comes within a few rounds; these are no options to search with.
OPTIONS: dict[str, Mapping[str, Any]] = {
    "darts": {"alpha_warmup": 0.0},
    "evolution": {"population": 4, "generations": 2, "selection_size": 2, "round_candidates": 4},
    "child_parent": {"repeats": 1},
    "abandon": {"repeats": 1, "warmup_epochs": 1},
    "random": {"samples": 4, "epochs": 1},
    "successive_halving": {"samples": 4, "eta": 2, "epochs": 1},
}


@dataclass(frozen=True)
class Setup:
    """Sizes of what is searched. `steps`: training steps of a round; `rounds`: of a search, the first included."""

    batch: int
    cells: int
    channels: int
    steps: int
    rounds: int
    device: str

    def values(self) -> dict[str, object]:
        return dict(zip(KEYS, (self.batch, self.cells, self.channels), strict=True))

    def job(self, strategy: str, space: str, data: str | None, path: str | None) -> Job:
        """The search of this pair."""
        args = ARGS.get(space, {})
        size = {"cells": self.cells, "channels": self.channels}
        # Twelve channels a group do not divide all numbers of channels.
        size |= {"groups": self.channels // 2} if self.channels % 12 else {}
        size |= {"partial_channels": 1} if strategy in OF_WHOLE_NETWORKS else {}
        # Of evolution, half of the rounds train; scoring follows.
        epochs = self.rounds if strategy == "darts" else max(2, self.rounds // 2)
        options = {"epochs": epochs, "round_steps": self.steps, "draw_steps": self.steps}
        options |= {"score_images": 4 * self.batch, "recalibration_batches": 4, **OPTIONS[strategy]}
        return make_job(
            {
                "device": self.device,
                "data": {"name": "digits" if data is None else data, "path": path},
                "space": {"name": space, "args": args},
                "search": {
                    "strategy": strategy,
                    "options": _known(options, STRATEGIES[strategy].options),
                    "size": _known(size, make_space(space, args).size_class),
                    "batch_size": self.batch,
                    "augmentation": AUGMENTATION,
                },
            }
        )

    def images(self) -> Dataset:
        """Noise; an epoch of half of them is a round."""
        count = 2 * self.steps * self.batch
        generator = seeding.torch_generator(0, "bench search")
        pixels = torch.randint(0, 256, (count, *IMAGE), generator=generator, dtype=torch.uint8)
        images = ImageSet(pixels, torch.arange(count) % CLASSES)
        return Dataset("noise", images, images, tuple(f"class {index}" for index in range(CLASSES)))


def _known(values: Mapping[str, Any], options: type[Any]) -> dict[str, Any]:
    names = {field.name for field in fields(options)}
    return {name: value for name, value in values.items() if name in names}


@dataclass(frozen=True)
class Row:
    """One strategy on one space: rounds timed, images a second over all of them, its spread over rounds, shares."""

    strategy: str
    space: str
    rounds: int
    left: int
    samples_per_second: float
    spread: float
    shares: Mapping[str, float]
    bookkeeping_ms: float


class Lap(SilentReporter):
    """Restarts the stopwatch after the first round and asks for a stop after `rounds` of them."""

    def __init__(self, watch: Stopwatch, rounds: int, stop: StopRequest) -> None:
        self._watch, self._rounds, self._stop = watch, rounds, stop
        self.records: list[Record] = []

    def round(self, record: Record) -> None:
        self.records.append(record)
        if len(self.records) == 1:
            self._watch.restart()
        if len(self.records) == self._rounds:
            self._stop.request("enough rounds")


def run(
    strategies: Sequence[str] | None,
    spaces: Sequence[str] | None,
    setup: Setup,
    data: str | None,
    path: str | None,
    threads: int | None,
    json_file: Path | None,
) -> int:
    """The command."""
    pairs = [(s, p) for s in strategies or STRATEGIES for p in spaces or SPACES]
    if path is not None and data is None:
        raise BnasError("--path is where a data set lies; name it with --data")
    for strategy, space in pairs:
        STRATEGIES[strategy], SPACES[space]
    with on_threads(threads), memory.explaining("bench search", KEYS, setup.values()):
        here = where() | {"clock": "wall time"}
        say(f"{here['device']}, {here['threads']} threads, {here['clock']}; {setup}")
        jobs = [setup.job(strategy, space, data, path) for strategy, space in pairs]
        images = setup.images() if data is None else read_data(jobs[0])
        rows = []
        with Counter("searches") as counter:
            for index, job in enumerate(jobs):
                rows.append(measure(job, images, setup))
                counter(index + 1, len(jobs))
    _show(rows, setup)
    if json_file is not None:
        write_json(json_file, {**here, **asdict(setup), "data": images.name, "rows": [asdict(row) for row in rows]})
    return 0


def measure(job: Job, data: Dataset, setup: Setup, clock: Callable[[], float] = time.perf_counter) -> Row:
    """Run the job's search for as many rounds as there shall be, and say where their time went."""
    device = torch.device(job.device)
    watch = Stopwatch(clock, torch.cuda.synchronize if device.type == "cuda" else None)
    strategy = make_strategy(job, data, device)
    # Not entered: signals stay whose they are.
    stop = StopRequest()
    lap = Lap(watch, setup.rounds, stop)
    with tempfile.TemporaryDirectory() as folder, watch:
        engine.run(
            strategy,
            RunDir(Path(folder)).files_for_search(),
            kind="search",
            reporter=lap,
            stop=stop,
            fingerprint=setup.values(),
            memory_keys=KEYS,
        )
    return _row(job, strategy, lap.records[1:], watch)


def _row(job: Job, strategy: Strategy, records: Sequence[Record], watch: Stopwatch) -> Row:
    if not records:
        raise BnasError("a search of one round has none to time; give more --rounds")
    seconds = sum(watch.seconds.values())
    return Row(
        job.search.strategy,
        job.space.name,
        len(records),
        strategy.rounds_total - strategy.rounds_done,
        sum(record["samples"] for record in records) / seconds,
        spread_of([record["time"]["samples_per_second"] for record in records]),
        watch.shares(),
        1e3 * watch.seconds[BOOKKEEPING] / len(records),
    )


def _rate(row: Row) -> str:
    digits = 0 if row.samples_per_second >= 100 else 1
    spread = f" ± {row.spread:.{digits}f}" if row.rounds > 1 else ""
    return f"{row.samples_per_second:.{digits}f}{spread}"


def _show(rows: Sequence[Row], setup: Setup) -> None:
    table(
        f"\nrounds of {setup.steps} training steps of {setup.batch} images, and of what follows them; share of time in",
        ("strategy", "space", "rounds", "images a second", *PARTS, f"{BOOKKEEPING}, ms a round"),
        [
            (
                row.strategy,
                row.space,
                str(row.rounds),
                _rate(row),
                *(f"{100 * row.shares[name]:.1f} %" for name in PARTS),
                f"{row.bookkeeping_ms:.0f}",
            )
            for row in rows
        ],
    )
    cut = [f"{row.strategy} on {row.space} ({row.left})" for row in rows if row.left]
    say("left out: the first round of each search, and the images of a test split, which no search sees")
    if cut:
        say(f"left out, rounds after the {setup.rounds} of --rounds: {', '.join(cut)}")
    say(
        "an image counts once for each pass through a network that learns from it or is judged by it; real rounds have "
        "up to 200 steps, so that bookkeeping, which is done once a round, is a smaller share there"
    )
