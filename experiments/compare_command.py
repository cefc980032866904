"""`bnas compare` as a command: the comparison's table, as far as it is done."""

from collections.abc import Sequence
from pathlib import Path

from bnas.statistics import Difference, Spread
from bnas.stopping import StopRequest
from experiments.compare import TABLE, Comparison, Row, compare
from experiments.config import JobError
from experiments.console import count, hint, make_reporter, say, size, table, write_json
from experiments.job_files import load_job

DONE, STOPPED = 0, 3


def run(
    job: str,
    settings: Sequence[str],
    folder: Path | None,
    against: str | None,
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    """The command; its exit code."""
    loaded = load_job(job, [*settings, *([f"device={device}"] if device else [])])
    folder = folder or Path("runs") / f"compare-{Path(job).stem}"
    try:
        with StopRequest(max_minutes) as stop:
            found = compare(loaded, folder, baseline=against, reporter=make_reporter, say=say, stop=stop)
    except JobError as error:
        raise error.within(job) from None
    if found.rows:
        show(found)
        say(f"wrote {folder / TABLE}")
    if json_file is not None:
        write_json(json_file, found.to_dict())
    if found.finished:
        return DONE
    say(f"stopped with {found.done} of {found.total} done: {stop.reason}")
    hint("to go on", again)
    return STOPPED


def show(found: Comparison) -> None:
    """Print the table of a comparison."""
    state = "" if found.finished else f" ({found.done} of {found.total} done)"
    table(
        f"\ntest accuracy after the same retraining{state}; differences are paired by seed, against {found.baseline}",
        (
            *("", "accuracy", "seeds", "difference [95 %]", "", "search images", "search time"),
            *("real MACs", "binary MACs", "packed", "verified"),
        ),
        [_cells(row) for row in found.rows],
    )


def _cells(row: Row) -> tuple[str, ...]:
    means = row.means
    packed = means.get("packed_bytes")
    return (
        row.name,
        _accuracy(row.accuracy),
        str(row.accuracy.count),
        *_difference(row.difference),
        count(means["search_samples"]),
        _minutes(means["search_seconds"]),
        count(means["macs_real"]),
        count(means["macs_binary"]),
        "-" if packed is None else size(packed),
        row.verified,
    )


def _accuracy(found: Spread) -> str:
    return f"{found.mean:.4f}" if found.count == 1 else f"{found.mean:.4f} ± {found.deviation:.4f}"


def _difference(found: Difference | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    if found.count == 1:
        return f"{found.mean:+.4f}", found.verdict
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]", found.verdict


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
