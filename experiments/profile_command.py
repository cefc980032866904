"""`bnas profile`: a table of measured operations for latency budgets, and what it predicts beside what is measured."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas import seeding
from bnas.deploy.file import Packed
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.latency import LatencyTable, Timing, operations, packed_for
from bnas.options import check_number
from bnas.profiling import CONDITIONS, conditions, covering, time_network, time_operations
from experiments.assembly import prepare_torch, read_data
from experiments.commands import read_genotype
from experiments.config import Job, load_job
from experiments.console import facts, say, write_json


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
    rows, about = _begun(table, backend)
    content = (
        _measure(loaded, backend, runs, patience, table, rows, about)
        if check is None
        else _check(loaded, backend, runs, read_genotype(check, None), table, rows)
    )
    if json_file is not None:
        write_json(json_file, content)
    return 0


def _begun(table: Path, backend: str) -> tuple[dict[str, Timing], Mapping[str, Any]]:
    """The rows of a table that is there, and where timings are made; `BnasError` where the two do not belong together."""
    now = conditions(backend)
    if not table.exists():
        return {}, now
    found = LatencyTable.load(table)
    differing = [
        f"{key} {found.about.get(key)} -> {now[key]}" for key in CONDITIONS if found.about.get(key) != now[key]
    ]
    if differing:
        raise BnasError(
            f"{table} was measured otherwise ({', '.join(differing)}); name another file, or remove this one"
        )
    return dict(found.rows), now


class _Builder:
    """Packed networks of a job's retraining, with random weights."""

    def __init__(self, job: Job) -> None:
        data = read_data(job)
        self.space = job.make_space()
        self._spec = job.spec(job.retrain, data.input_shape, data.num_classes)

    def __call__(self, genotype: Genotype) -> Packed:
        with seeding.borrowed(0, "profile"):
            return packed_for(self.space.build(genotype, self._spec), self._spec)


def _measure(
    job: Job, backend: str, runs: int, patience: int, path: Path, rows: dict[str, Timing], about: Mapping[str, Any]
) -> dict[str, Any]:
    build = _Builder(job)
    known, genotypes = len(rows), 0
    for genotype, tell in covering(build.space, patience):
        added = time_operations(build(genotype), backend, rows, runs)
        tell(added)
        genotypes += 1
        if added:
            # What is measured stays, also when the command is interrupted.
            LatencyTable(rows, about).save(path)
    content = {"table": str(path), "operations": len(rows), "new": len(rows) - known, "architectures": genotypes}
    say(f"packed runtime, back end {backend}, one image, {about['threads']} threads, {about['processor']}")
    facts([*content.items()])
    return content


def _check(
    job: Job, backend: str, runs: int, genotype: Genotype, path: Path, rows: Mapping[str, Timing]
) -> dict[str, Any]:
    """Print the latency that the table predicts for a genotype, and what its network takes here."""
    packed = _Builder(job)(genotype)
    counted = Counter(key for key, _ in operations(packed))
    predicted = LatencyTable(rows, {}).predict(counted, str(path))
    single = time_network(packed, backend, runs, fuse=False)
    whole = time_network(packed, backend, runs, fuse=True)
    say(f"one image, back end {backend}, median and half of the middle 50 % of {runs} runs")
    facts(
        [
            ("predicted", f"{predicted:.0f} us, the sum of {sum(counted.values())} operations"),
            ("measured", f"{single.median_us:.0f} +- {single.spread_us:.0f} us, operations one by one"),
            ("as deployed", f"{whole.median_us:.0f} +- {whole.spread_us:.0f} us, fused where the back end can"),
            ("ratio", f"{predicted / single.median_us:.2f} predicted / measured"),
        ]
    )
    return {
        "predicted_us": predicted,
        "measured_us": single.median_us,
        "measured_spread_us": single.spread_us,
        "fused_us": whole.median_us,
        "fused_spread_us": whole.spread_us,
        "backend": backend,
        "runs": runs,
    }
