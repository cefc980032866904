"""`bnas plan` as a command: the plan of a job as tables."""

from collections.abc import Sequence
from pathlib import Path

from bnas.progress import readable_time
from experiments import api
from experiments.config import Job, JobError
from experiments.console import say, size, table, write_json
from experiments.job_files import load_job
from experiments.plan import Plan, plan, with_values
from experiments.plan_phases import Phase


def run(job: str, settings: Sequence[str], genotype: Path | None, device: str | None, json_file: Path | None) -> int:
    """The command; its exit code."""
    loaded = load_job(job, [*settings, *([f"device={device}"] if device else [])])
    architecture = None if genotype is None else api.load_genotype(genotype)
    try:
        found = plan(loaded, architecture, say=say)
    except JobError as error:
        raise error.within(job) from None
    show(found, loaded, is_random=genotype is None)
    if json_file is not None:
        write_json(json_file, found.to_dict())
    return 0


def show(found: Plan, job: Job, *, is_random: bool) -> None:
    """Print times, memory and disk, and what halves them."""
    table(
        f"\n{job.space.name}: {_count(found.architectures)} architectures",
        ("phase", "times", "each", "in all"),
        [row for phase in found.phases for row in _times(phase)],
    )
    on_gpu = any(phase.cuda_bytes is not None for phase in found.phases)
    columns = ("phase", "peak memory", "of it at the start", *(["on the GPU"] * on_gpu), "checkpoint")
    table("", columns, [_bytes(phase, on_gpu) for phase in found.phases])
    say(
        f"\nin all {readable_time(found.seconds)}; {size(found.disk_bytes)} on the disk, with two checkpoints of each run"
    )
    share = found.facts.get("parameter_free")
    if is_random and share is not None:
        say(
            f"retrained was a random architecture, {share:.0%} of it without weights; one with more weights takes longer"
        )
    for phase in found.phases:
        if phase.note:
            say(f"{phase.name}: {phase.note}")
    sizes = [f"{part}.size.{key}" for part in ("search", "retrain") for key in ("channels", "cells")]
    for what, keys in (
        ("time", [key for phase in found.phases for key in phase.time_keys]),
        ("memory beyond the start", [key for phase in found.phases for key in phase.memory_keys]),
        ("disk", sizes),
    ):
        say(f"half the value, about half the {what}: {with_values(keys, job)}")


def _times(phase: Phase) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (f"{phase.name}: {steps.name}", f"{steps.count:,}", _seconds(steps.seconds_each), readable_time(steps.seconds))
        for steps in phase.steps
    ]
    if phase.seconds_per_round is not None:
        saving, rounds = phase.round_seconds, f"{phase.rounds:,}"
        rows += [
            (f"{phase.name}: saving", rounds, _seconds(saving), readable_time(phase.rounds * saving)),
            (f"{phase.name}: rounds", rounds, _seconds(phase.seconds_per_round), readable_time(phase.seconds)),
        ]
    return rows


def _bytes(phase: Phase, on_gpu: bool) -> tuple[str, ...]:
    gpu = ["-" if phase.cuda_bytes is None else size(phase.cuda_bytes)] * on_gpu
    saved = size(phase.checkpoint_bytes) if phase.checkpoint_bytes else "-"
    return (phase.name, size(phase.memory_bytes), size(phase.start_bytes), *gpu, saved)


def _seconds(value: float) -> str:
    if value < 0.1:
        return f"{value * 1000:.2g} ms"
    return f"{value:.2g} s" if value < 60 else readable_time(value)


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**7 else f"{number:.2e}"
