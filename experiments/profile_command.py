"""`bnas profile`: a table of measured steps for latency budgets, and what it predicts beside what is measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas.errors import BnasError
from bnas.latency import LatencyTable, Timing
from bnas.options import check_number
from bnas.profiling import conditions, covering, differing, time_steps
from experiments.assembly import prepare_torch
from experiments.config import Job
from experiments.console import facts, say, write_json
from experiments.job_files import load_job
from experiments.latency_report import Builder, compare
from experiments.sources import read_genotype


def run(
    job: str,
    settings: Sequence[str],
    table: Path,
    backend: str,
    runs: int,
    patience: int,
    check: Path | None,
    json_file: Path | None,
) -> int:
    """The command; its exit code."""
    check_number("--runs", runs, at_least=1, whole=True)
    check_number("--patience", patience, at_least=1, whole=True)
    loaded = load_job(job, settings)
    prepare_torch(loaded)
    started = _begun(table, backend)
    content = (
        _measure(loaded, backend, runs, patience, table, started)
        if check is None
        else _check(loaded, runs, check, table, started)
    )
    if json_file is not None:
        write_json(json_file, content)
    return 0


def _begun(path: Path, backend: str) -> LatencyTable:
    """The table that is there, or an empty one for here; `BnasError` where timings made here do not belong to it."""
    now = conditions(backend)
    if not path.exists():
        return LatencyTable({}, now)
    found = LatencyTable.load(path)
    if difference := differing(found.about, now):
        raise BnasError(f"{path} was measured otherwise ({difference}); name another file, or remove this one")
    return LatencyTable(found.rows, now)


def _measure(job: Job, backend: str, runs: int, patience: int, path: Path, started: LatencyTable) -> dict[str, Any]:
    build = Builder(job)
    rows: dict[str, Timing] = dict(started.rows)
    genotypes = 0
    for genotype, tell in covering(build.space, patience):
        added = time_steps(build(genotype), backend, rows, runs)
        tell(added)
        genotypes += 1
        if added:
            # What is measured stays, also when the command is interrupted.
            LatencyTable(rows, started.about).save(path)
    content = {
        "table": str(path), "steps": len(rows), "new": len(rows) - len(started.rows), "architectures": genotypes,
    }  # fmt: skip
    say(f"packed runtime, {_how(started.about)}, one image, {started.about['threads']} threads, "
        f"{started.about['processor']}")  # fmt: skip
    facts([*content.items()])
    return content


def _how(about: Mapping[str, Any]) -> str:
    steps = "fused steps" if about["fused"] else "operations one by one"
    return f"back end {about['backend']}, {steps}"


def _check(job: Job, runs: int, source: Path, path: Path, table: LatencyTable) -> dict[str, Any]:
    """Print the latency that the table predicts for a genotype, and what its network takes here."""
    found = compare(Builder(job)(read_genotype(source, None)), table, str(path), runs)
    say(f"packed runtime, {_how(table.about)}")
    facts(found.facts())
    return found.to_dict()
