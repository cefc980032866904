"""Real steps of one phase of a job at its true sizes: seconds, memory and bytes on the disk. Used by `experiments.plan`."""

import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnas import checkpoint, memory
from bnas.data import Batches, Dataset
from bnas.deploy import file
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.strategy import Strategy, describe_genotype
from bnas.training.metrics import accuracy
from experiments.assembly import make_retraining, make_strategy, prepare_torch, read_data
from experiments.config import MEMORY_KEYS, Job, fingerprint
from experiments.network import DescribedRetraining, NetworkCard

# A step is timed this often, or until so many seconds are over; its first call is left out.
STEPS_TIMED = 5
SECONDS_TIMED = 30.0
# Bytes of a line of the history beside the genotype that it tells.
LINE_BYTES = 400
# The newest checkpoint and the one before it.
CHECKPOINTS_KEPT = 2
IMAGES_BY_TORCH, IMAGES_BY_BITS = 256, 16


@dataclass(frozen=True)
class Steps:
    """One kind of step: how often it is done, and the seconds that one takes."""

    name: str
    count: int
    seconds_each: float

    @property
    def seconds(self) -> float:
        return self.count * self.seconds_each


@dataclass(frozen=True)
class Phase:
    """What one part of the chain takes.

    `round_seconds`: what a round takes beside its steps (saving). `memory_bytes`: the peak of its process, of it
    `start_bytes` for the program and the images. `cuda_bytes`: the peak of what torch holds on the GPU; None without
    one. `kept_bytes`: files beside checkpoints. `time_keys`, `memory_keys`: keys of the job with about half the value
    of which it takes half. `note`: what could not be measured, and why.
    """

    name: str
    steps: tuple[Steps, ...]
    rounds: int
    round_seconds: float
    memory_bytes: int
    start_bytes: int
    cuda_bytes: int | None
    checkpoint_bytes: int
    kept_bytes: int
    time_keys: tuple[str, ...] = ()
    memory_keys: tuple[str, ...] = ()
    note: str | None = None

    @property
    def seconds(self) -> float:
        return sum(steps.seconds for steps in self.steps) + self.rounds * self.round_seconds

    @property
    def seconds_per_round(self) -> float | None:
        return self.seconds / self.rounds if self.rounds else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds, "seconds_per_round": self.seconds_per_round}


def measure_search(job: Job) -> Phase:
    """Steps of each kind that the strategy names."""
    with _measuring(job, "search") as gauge:
        strategy = make_strategy(job, gauge.data, gauge.device)
        rounds = strategy.rounds_total
        record, deriving_seconds = _derived(job, strategy)
        kinds = strategy.step_kinds()
        steps = []
        for kind in kinds:
            times = [seconds_of(kind.start(sample), gauge.device) for sample in range(kind.samples)]
            steps.append(Steps(kind.name, kind.count, statistics.fmean(times)))
        # After the steps, when the optimizers hold their averages.
        saving_seconds, saved_bytes = _saved(strategy.state_dict())
        keys = dict.fromkeys(f"search.options.{key}" for kind in kinds for key in kind.keys)
        return gauge.phase(
            "search",
            steps,
            rounds=rounds,
            round_seconds=deriving_seconds + saving_seconds,
            checkpoint_bytes=saved_bytes,
            kept_bytes=rounds * _line_bytes(record),
            time_keys=tuple(keys),
        )


def _derived(job: Job, strategy: Strategy) -> tuple[Mapping[str, Any], float]:
    """What a round's record tells of the architecture, and the seconds that this takes."""
    started = time.perf_counter()
    record = describe_genotype(job.make_space(), strategy.derive())
    return record, time.perf_counter() - started


def measure_stage(job: Job, genotype: Genotype, index: int) -> Phase:
    """Steps of stage `index` of the retraining of `genotype`."""
    with _measuring(job, "retrain") as gauge:
        described = make_retraining(job, genotype, gauge.data, gauge.device)
        work = described.work
        round_steps, work.round_steps = work.round_steps, 1
        for _ in range(index):
            # Counted as done, so that the next round begins the stage after it.
            work.trainer.step = work.trainer.total_steps
            work.run_round()
        trainer = work.trainer

        def step() -> object:
            if trainer.finished:
                trainer.step = 0
            return trainer.run_steps(1)

        step_seconds = seconds_of(step, gauge.device)
        record, around_seconds = _round_around_step(described, step_seconds)
        saving_seconds, saved_bytes = _saved(described.state_dict())
        rounds = math.ceil(trainer.total_steps / round_steps)
        return gauge.phase(
            f"retrain, {work.stages[index].name}",
            [Steps("training", trainer.total_steps, step_seconds)],
            rounds=rounds,
            round_seconds=around_seconds + saving_seconds,
            checkpoint_bytes=saved_bytes,
            kept_bytes=rounds * _line_bytes(record),
            time_keys=("retrain.recipe.epochs",),
        )


def _round_around_step(described: DescribedRetraining, step_seconds: float) -> tuple[Mapping[str, Any], float]:
    """The record of a round of one step, and what the round took beside the step (signs that flipped)."""
    if described.work.trainer.finished:
        described.work.trainer.step = 0
    started = time.perf_counter()
    record = described.run_round()
    return record, max(0.0, time.perf_counter() - started - step_seconds)


def measure_deployment(job: Job, genotype: Genotype) -> Phase:
    """The test images by torch, packing, and the test images from the file of bits."""
    with _measuring(job, "retrain") as gauge:
        card = make_retraining(job, genotype, gauge.data, torch.device("cpu")).card
        model = card.build().eval()
        steps = [_tested_by_torch(card, model, gauge.data)]
        note, stored = None, 0
        try:
            packing, stored, network = _packed(card, model)
        except BnasError as error:
            # A scheme with real weights: the chain ends with the checkpoint.
            note = f"cannot be exported: {error}"
        else:
            steps += [packing, _tested_by_bits(network, gauge.data)]
        return gauge.phase("export and test", steps, kept_bytes=stored, note=note)


def _tested_by_torch(card: NetworkCard, model: nn.Module, data: Dataset) -> Steps:
    batches = Batches(data.test, IMAGES_BY_TORCH, seed=0, normalization=card.normalization)
    seconds = seconds_of(lambda: accuracy(model, batches, IMAGES_BY_TORCH))
    return Steps("test by torch", math.ceil(len(data.test) / IMAGES_BY_TORCH), seconds)


def _packed(card: NetworkCard, model: nn.Module) -> tuple[Steps, int, PackedNetwork]:
    """Packing as a step, the bytes of the file, and the network in it."""
    started = time.perf_counter()
    packed = export(
        model,
        input_shape=card.spec.input_shape,
        classes=card.classes,
        mean=card.normalization.mean,
        std=card.normalization.std,
        about={"genotype": card.genotype.to_dict(), "spec": card.spec.to_dict(), "data": card.data},
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.bnas"
        file.save(packed, target)
        return Steps("export", 1, time.perf_counter() - started), target.stat().st_size, PackedNetwork(packed)


def _tested_by_bits(network: PackedNetwork, data: Dataset) -> Steps:
    images = data.test.images[:IMAGES_BY_BITS]
    seconds = seconds_of(lambda: network.predict(images))
    return Steps(f"test of the packed file, {network.backend}", math.ceil(len(data.test) / len(images)), seconds)


def seconds_of(step: Callable[[], object], device: torch.device | None = None) -> float:
    """The median of a few calls. The first is left out: it takes memory, chooses algorithms, compiles."""
    times: list[float] = []
    while len(times) <= STEPS_TIMED and (len(times) < 2 or sum(times) < SECONDS_TIMED):
        started = time.perf_counter()
        step()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _saved(state: Mapping[str, Any]) -> tuple[float, int]:
    """(seconds, bytes) of a checkpoint of `state`, written and removed."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        checkpoint.save(Path(folder) / "c", {"state": dict(state)}, kind="plan")
        return time.perf_counter() - started, (Path(folder) / "c").stat().st_size


def _line_bytes(record: Mapping[str, Any]) -> int:
    return len(json.dumps(record)) + LINE_BYTES


@dataclass(frozen=True)
class _Gauge:
    """The device and the images of a phase, and the memory that it began with."""

    device: torch.device
    data: Dataset
    part: str
    start_bytes: int

    def phase(
        self, name: str, steps: Sequence[Steps], rounds: int = 0, round_seconds: float = 0.0, **more: Any
    ) -> Phase:
        cuda = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return Phase(
            name=name,
            steps=tuple(steps),
            rounds=rounds,
            round_seconds=round_seconds,
            memory_bytes=process_bytes("VmHWM"),
            start_bytes=self.start_bytes,
            cuda_bytes=cuda,
            memory_keys=MEMORY_KEYS[self.part],
            **{"checkpoint_bytes": 0, "kept_bytes": 0, **more},
        )


@contextlib.contextmanager
def _measuring(job: Job, part: str) -> Iterator[_Gauge]:
    device = prepare_torch(job)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    data = read_data(job)
    with memory.explaining(part, MEMORY_KEYS[part], fingerprint(job, part)):
        yield _Gauge(device, data, part, process_bytes("VmRSS"))


def process_bytes(field: str) -> int:
    """Memory of this process: "VmRSS" for now, "VmHWM" for its peak (also for now where the system tells only that)."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        # Windows has neither; the report then shows 0.
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
