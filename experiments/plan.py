"""`bnas plan`: what a job will take, from real steps of each of its phases at their true sizes.

Each phase runs in a process of its own, as the commands of the chain do: its peak of memory is its own, and a phase that
the system ends for lack of memory is reported, not suffered. Nothing stays on the disk.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.progress import readable_time
from experiments import api
from experiments.config import MEMORY_KEYS, Job, fingerprint, plan_retraining
from experiments.plan_phases import CHECKPOINTS_KEPT, Phase, measure_deployment, measure_search, measure_stage
from search_spaces import space_of


@dataclass(frozen=True)
class Plan:
    """All phases in their order. `genotype` stands for the one to be found; `facts` are its own."""

    architectures: int
    genotype: Genotype
    facts: Mapping[str, float]
    phases: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def disk_bytes(self) -> int:
        """Checkpoints of the search and of the retraining, whose stages share theirs, and all other files."""
        largest: dict[str, int] = {}
        for phase in self.phases:
            part = phase.name.split(",")[0]
            largest[part] = max(largest.get(part, 0), phase.checkpoint_bytes)
        return CHECKPOINTS_KEPT * sum(largest.values()) + sum(phase.kept_bytes for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        return {
            "architectures": self.architectures,
            "genotype": self.genotype.to_dict(),
            "facts": dict(self.facts),
            "seconds": self.seconds,
            "disk_bytes": self.disk_bytes,
            "phases": [phase.to_dict() for phase in self.phases],
        }


def plan(
    job: Job,
    genotype: Genotype | None = None,
    *,
    isolated: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Measure the phases of `job`; `genotype` is retrained, by default one drawn at random.

    Not `isolated`, all phases run in this process, and a peak of memory is that of all phases before it too.
    `BnasError` for what `bnas search` and `bnas retrain` would refuse, and for a phase that runs out of memory.
    """
    genotype = genotype or api.random_genotype(job)
    measures: dict[str, Callable[[], Phase]] = {"search": partial(measure_search, job)}
    for index, stage in enumerate(plan_retraining(job)):
        measures[f"retrain, {stage.name}"] = partial(measure_stage, job, genotype, index)
    measures["export and test"] = partial(measure_deployment, job, genotype)
    phases = []
    for name, measure in measures.items():
        started = time.monotonic()
        phases.append(_in_own_process(name, measure, job) if isolated else measure())
        say(f"{name}: measured in {readable_time(time.monotonic() - started)}")
    return Plan(job.make_space().count(), genotype, space_of(genotype).facts(genotype), tuple(phases))


def _in_own_process(name: str, measure: Callable[[], Phase], job: Job) -> Phase:
    # Spawned: a fork would share the threads and the GPU of this process.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure).result()
        except BrokenProcessPool:
            part = "search" if name == "search" else "retrain"
            raise BnasError(
                f"{name}: the system ended its process, as it does where memory runs out. Smaller values of these keys "
                f"need less, half the value about half the memory: {with_values(MEMORY_KEYS[part], job)}"
            ) from None


def with_values(keys: Iterable[str], job: Job) -> str:
    """ "search.batch_size (now 64), ...", each key once, those that the job has."""
    values = {**fingerprint(job, "search"), **fingerprint(job, "retrain")}
    return ", ".join(f"{key} (now {values[key]})" for key in dict.fromkeys(keys) if key in values)
