"""`bnas cross`: every strategy on every space, a comparison for each space; one table of both."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnas import atomic, plain_json
from bnas.errors import BnasError, nearest
from bnas.progress import Reporter
from bnas.stopping import StopRequest
from experiments.compare import Comparison, compare
from experiments.compare_entries import changed, entries
from experiments.config import Job, plain
from experiments.job_files import make_job
from search_spaces import SPACES

TABLE = "cross.json"


@dataclass(frozen=True)
class Cross:
    """The comparisons of the spaces, as far as they are done."""

    spaces: Mapping[str, Comparison]
    total: int

    @property
    def finished(self) -> bool:
        return len(self.spaces) == self.total and all(found.finished for found in self.spaces.values())

    def to_dict(self) -> dict[str, Any]:
        return {"total": self.total, "spaces": {name: found.to_dict() for name, found in self.spaces.items()}}


def cross(
    job: Job,
    folder: Path,
    *,
    reporter: Callable[[str], Reporter],
    say: Callable[[str], None],
    stop: StopRequest,
) -> Cross:
    """Run what is missing of `compare` on each space of `spaces` in `folder`/SPACE; stops where `stop` asks for it.

    `BnasError` before any work where the job of one of the spaces, or one of its entries, is wrong.
    """
    jobs = space_jobs(job)
    for each in jobs.values():
        entries(each)
    done: dict[str, Comparison] = {}
    for name, each in jobs.items():
        if stop.reason is not None:
            break
        say(f"space {name} ({len(done) + 1} of {len(jobs)})")
        done[name] = compare(each, folder / name, reporter=reporter, say=say, stop=stop)
        found = Cross(done, len(jobs))
        atomic.write_text(folder / TABLE, plain_json.dumps(found.to_dict(), indent=2) + "\n")
    return Cross(done, len(jobs))


def space_jobs(job: Job) -> dict[str, Job]:
    """The job of each space: the whole one with that space and with what `spaces` says of it."""
    if not job.spaces:
        raise BnasError(
            f"spaces is empty: name at least one search space, such as {{bats: {{}}}}; there are {', '.join(SPACES)}"
        )
    base = plain(dataclasses.asdict(job)) | {"spaces": {}}
    jobs = {}
    for name, changes in job.spaces.items():
        if name not in SPACES:
            raise BnasError(
                f"spaces: there is no search space {name}; there are {', '.join(SPACES)}.{nearest(name, SPACES)}"
            )
        if not isinstance(changes, Mapping | None):
            raise BnasError(f"spaces.{name}: expected a table of keys of the job")
        given = dict(changes or {})
        space = {**(given.get("space") or {}), "name": name}
        try:
            # Twice: sizes start anew for another space before those of this one are put in.
            jobs[name] = make_job(changed(changed(base, {"space": {"name": name}}), {**given, "space": space}))
        except BnasError as error:
            raise error.within(f"spaces: {name}") from None
    return jobs
