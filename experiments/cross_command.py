"""`bnas cross` as a command: tables of strategies by spaces."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bnas.stopping import StopRequest
from experiments.compare import Row
from experiments.config import JobError
from experiments.console import count, hint, make_reporter, say, table, write_json
from experiments.cross import TABLE, Cross, cross
from experiments.job_files import load_job

DONE, STOPPED = 0, 3


def run(
    job: str,
    settings: Sequence[str],
    folder: Path | None,
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    """The command; its exit code."""
    loaded = load_job(job, [*settings, *([f"device={device}"] if device else [])])
    folder = folder or Path("runs") / f"cross-{Path(job).stem}"
    try:
        with StopRequest(max_minutes) as stop:
            found = cross(loaded, folder, reporter=make_reporter, say=say, stop=stop)
    except JobError as error:
        raise error.within(job) from None
    if found.spaces:
        show(found)
        say(f"wrote {folder / TABLE}")
    if json_file is not None:
        write_json(json_file, found.to_dict())
    if found.finished:
        return DONE
    say(f"stopped in space {len(found.spaces)} of {found.total}: {stop.reason}")
    hint("to go on", again)
    return STOPPED


def show(found: Cross) -> None:
    """Print accuracies, costs of the winners, and what the searches took."""
    _show(found, "\ntest accuracy after the same retraining (mean ± deviation over seeds)", _accuracy)
    _show(found, "\nreal + binary / 64 MACs of the winners (mean)", lambda row: count(row.means["macs_effective"]))
    _show(found, "\nimages that the search saw (mean)", lambda row: count(row.means["search_samples"]))
    _show(found, "\nseconds of the search (mean)", lambda row: f"{row.means['search_seconds']:.0f}")
    verified = [row.verified for comparison in found.spaces.values() for row in comparison.rows]
    say(f"packed and verified: {'all' if set(verified) == {'yes'} else ', '.join(sorted(set(verified)))}")


def _accuracy(row: Row) -> str:
    found = row.accuracy
    text = f"{found.mean:.3f}" if found.count == 1 else f"{found.mean:.3f} ± {found.deviation:.3f}"
    verdict = row.difference.verdict if row.difference is not None else ""
    return f"{text} {verdict}" if verdict in ("better", "worse") else text


def _show(found: Cross, title: str, cell: Callable[[Row], str]) -> None:
    names = list(dict.fromkeys(row.name for comparison in found.spaces.values() for row in comparison.rows))
    rows = {space: {row.name: row for row in comparison.rows} for space, comparison in found.spaces.items()}
    cells = [(name, *(cell(of[name]) if name in of else "-" for of in rows.values())) for name in names]
    table(title, ("", *rows), cells)
