"""`bnas rank` as a command: the two orders side by side, and how far they agree."""

from collections.abc import Sequence
from pathlib import Path

from bnas.rundir import RunDir
from bnas.stopping import StopRequest
from experiments import api
from experiments.config import JobError
from experiments.console import hint, make_reporter, say, table, write_json
from experiments.job_files import load_job
from experiments.rank import Ranking, rank

DONE, STOPPED = 0, 3


def run(
    run: Path,
    architectures: int,
    epochs: int,
    settings: Sequence[str],
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    """The command; its exit code."""
    files = RunDir(run).files_for_search()
    api.job_of(files)
    job = load_job(str(files.job), [*settings, *([f"device={device}"] if device else [])])
    try:
        with StopRequest(max_minutes) as stop:
            found = rank(
                run, job, architectures=architectures, epochs=epochs, reporter=make_reporter, say=say, stop=stop
            )
    except JobError as error:
        raise error.within(str(files.job)) from None
    show(found)
    if json_file is not None:
        write_json(json_file, found.to_dict())
    if found.finished:
        return DONE
    say(f"stopped with {len(found.rows)} of {found.total} trained: {stop.reason}")
    hint("to go on", again)
    return STOPPED


def show(found: Ranking) -> None:
    """Print a ranking, the best trained first."""
    by_shared = sorted(found.rows, key=lambda row: -row.shared)
    rows = sorted(found.rows, key=lambda row: -row.trained)
    table(
        f"\nvalidation accuracy on {found.images} images: with shared weights, and after {found.epochs} epochs alone",
        ("architecture", "shared", "its rank", "trained alone", "its rank"),
        [
            (
                f"{row.digest}{' (found)' if row.is_found else ''}",
                f"{row.shared:.4f}",
                str(by_shared.index(row) + 1),
                f"{row.trained:.4f}",
                str(rank),
            )
            for rank, row in enumerate(rows, 1)
        ],
    )
    if found.correlation is not None:
        c = found.correlation
        say(f"Kendall's tau {c.tau:+.3f}, p = {c.p_value:.3f} (permutations), {c.count} architectures")
