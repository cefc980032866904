"""`bnas compare`: several strategies (or schemes) over several seeds, each winner retrained, packed, verified and tested.

Every entry and seed is a run of its own below one folder, made of the same resumable steps as `bnas search` and `bnas
retrain`: what is finished is not done again, what was cut off goes on.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnas import atomic, plain_json
from bnas.cost import measure
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.history import TIME
from bnas.progress import Reporter
from bnas.statistics import Difference, Spread, paired_difference, spread
from bnas.stopping import StopRequest
from experiments import api, deployment
from experiments.api import Run
from experiments.assembly import given_weights
from experiments.compare_entries import Entry, entries
from experiments.config import MAY_CHANGE, Job, fingerprint
from experiments.network import load_trained
from search_spaces import space_of

RESULT = "result.json"
TABLE = "comparison.json"
BASELINE = "random"
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One entry over the seeds that are done. Costs and counts are means over them; accuracies are of the test split."""

    name: str
    accuracy: Spread
    accuracies: Mapping[int, float]
    means: Mapping[str, float]
    verified: str
    difference: Difference | None

    def to_dict(self) -> dict[str, Any]:
        found = None if self.difference is None else {**asdict(self.difference), "verdict": self.difference.verdict}
        return {
            "name": self.name,
            "accuracy": asdict(self.accuracy),
            "accuracies": {str(seed): value for seed, value in self.accuracies.items()},
            "means": dict(self.means),
            "verified": self.verified,
            "against_baseline": found,
        }


@dataclass(frozen=True)
class Comparison:
    """The table so far. `baseline` is the entry that the others' paired differences are taken from."""

    rows: tuple[Row, ...]
    baseline: str
    done: int
    total: int

    @property
    def finished(self) -> bool:
        return self.done == self.total

    def to_dict(self) -> dict[str, Any]:
        rows = [row.to_dict() for row in self.rows]
        return {"baseline": self.baseline, "done": self.done, "total": self.total, "rows": rows}


def compare(
    job: Job,
    folder: Path,
    *,
    baseline: str | None = None,
    reporter: Callable[[str], Reporter],
    say: Callable[[str], None],
    stop: StopRequest,
) -> Comparison:
    """Run what is missing of the comparison in `folder` and return its table, complete unless `stop` asked to stop.

    `baseline`: by default the entry `random`, else the first. `reporter(metric)` makes one for each step. `BnasError`
    before any work where an entry of the job is wrong.
    """
    todo = entries(job)
    names = job.compare
    against = baseline or (BASELINE if BASELINE in names else names[0])
    if against not in names:
        raise BnasError(f"--against {against}: there is no such entry; compare has {', '.join(names)}")
    results: dict[str, dict[int, Result]] = {name: {} for name in names}
    done = 0
    for entry in todo:
        if stop.reason is not None:
            break
        say(f"{entry.name}, seed {entry.seed} ({done + 1} of {len(todo)})")
        result = _result(entry, folder / entry.folder, reporter, stop)
        if result is None:
            break
        results[entry.name][entry.seed] = result
        done += 1
        found = Comparison(_rows(results, against), against, done, len(todo))
        atomic.write_text(folder / TABLE, plain_json.dumps(found.to_dict(), indent=2) + "\n")
    return Comparison(_rows(results, against), against, done, len(todo))


def _result(entry: Entry, folder: Path, reporter: Callable[[str], Reporter], stop: StopRequest) -> Result | None:
    """What one entry and seed gave; None where it was stopped."""
    file, digest = folder / RESULT, _digest(entry.job)
    known = _known(file, digest)
    if known is not None:
        return known
    searched: Run | None = None
    if entry.job.genotype is None:
        searched = api.search(entry.job, folder, reporter=reporter("val_accuracy"), stop=stop)
        genotype = searched.genotype
    else:
        genotype = api.load_genotype(entry.job.genotype)
    if genotype is None or stop.reason is not None:
        return None
    trained = api.retrain(entry.job, genotype, folder, reporter=reporter("accuracy"), stop=stop)
    if not trained.finished:
        return None
    measured = {"job": digest, **_measured(genotype, searched, trained)}
    atomic.write_text(file, plain_json.dumps(measured, indent=2) + "\n")
    return measured


def _digest(job: Job) -> str:
    """Of all that the entry's result depends on, but the images, which its runs check."""
    flat = {**fingerprint(job, "search"), **fingerprint(job, "retrain"), "genotype": job.genotype}
    kept = {key: value for key, value in sorted(flat.items()) if key not in MAY_CHANGE}
    kept |= {key: weights.digest for key, weights in given_weights(job).items()}
    return hashlib.sha256(plain_json.dumps(kept).encode()).hexdigest()


def _known(file: Path, digest: str) -> Result | None:
    """The result that was written for this very job; one that does not read is made again."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("job") == digest else None


def _measured(genotype: Genotype, searched: Run | None, trained: Run) -> dict[str, Any]:
    """Export, verify and evaluate one trained network; what its training and its search took."""
    network = load_trained(trained.files)
    cost = measure(network.model, network.card.spec.input_shape)
    packed, path = _packed(trained)
    evaluated = deployment.evaluate(path)
    search_cost = _spent(searched) if searched is not None else {"samples": 0, "seconds": 0.0}
    retrain_cost = _spent(trained)
    return {
        "genotype": dict(genotype.choices),
        "digest": space_of(genotype).digest(genotype),
        "accuracy": evaluated.accuracy,
        "images": evaluated.images,
        "search_samples": search_cost["samples"],
        "search_seconds": search_cost["seconds"],
        "retrain_samples": retrain_cost["samples"],
        "retrain_seconds": retrain_cost["seconds"],
        "macs_real": cost.macs_real,
        "macs_binary": cost.macs_binary,
        "macs_effective": cost.macs_effective,
        **packed,
    }


def _packed(trained: Run) -> tuple[dict[str, Any], Path]:
    """The packed network's size and verdict, and what to evaluate; a network that does not pack says why."""
    try:
        path, _ = deployment.export_packed(trained.files.folder)
    except BnasError as error:
        return {"packed_bytes": None, "verified": None, "why_not_packed": str(error)}, trained.files.folder
    report, _ = deployment.verify_packed(path)
    difference = None if report.ok else report.first_difference
    return {"packed_bytes": path.stat().st_size, "verified": report.ok, "first_difference": difference}, path


def _spent(run: Run) -> dict[str, float]:
    """Images seen and seconds of all rounds."""
    records = run.history()
    samples = sum(record.get("samples", 0) for record in records)
    return {"samples": samples, "seconds": sum(record.get(TIME, {}).get("seconds", 0.0) for record in records)}


_MEANS = (
    *("search_samples", "search_seconds", "retrain_samples", "retrain_seconds"),
    *("macs_real", "macs_binary", "macs_effective", "packed_bytes"),
)


def _rows(results: Mapping[str, Mapping[int, Result]], baseline: str) -> tuple[Row, ...]:
    return tuple(
        _row(name, by_seed, results[baseline], name == baseline) for name, by_seed in results.items() if by_seed
    )


def _row(name: str, by_seed: Mapping[int, Result], baseline: Mapping[int, Result], is_baseline: bool) -> Row:
    accuracies = {seed: float(result["accuracy"]) for seed, result in by_seed.items()}
    both = [] if is_baseline else [seed for seed in by_seed if seed in baseline]
    pairs = [(accuracies[seed], float(baseline[seed]["accuracy"])) for seed in both]
    return Row(
        name,
        spread(list(accuracies.values())),
        accuracies,
        {key: mean for key in _MEANS if (mean := _mean([result[key] for result in by_seed.values()])) is not None},
        _verdict([result["verified"] for result in by_seed.values()]),
        paired_difference(*zip(*pairs, strict=True)) if pairs else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return spread(known).mean if known else None


def _verdict(verified: Sequence[bool | None]) -> str:
    if all(verdict is None for verdict in verified):
        return "not packed"
    right = sum(verdict is True for verdict in verified)
    return "yes" if right == len(verified) else f"{right} of {len(verified)}"
