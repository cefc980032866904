"""One engine runs every sequence of rounds: history, checkpoint after each round, resume, stop signals, NaN, full disk.

A round counts as done when its history line and then its checkpoint are on the disk. Whatever happens in between, the
next start cuts the history back to the checkpoint and does that round again.
"""

import contextlib
import json
import textwrap
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bnas import atomic, memory, saved
from bnas.errors import BnasError
from bnas.history import TIME, History
from bnas.nonfinite import NonFiniteLoss
from bnas.progress import Reporter
from bnas.rundir import RunFiles
from bnas.stopping import StopRequest

_MISFITS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)
_ANOTHER = "Choose another --run folder, or start anew in this one with --fresh (the old content is kept beside it)"


class Resumable(Protocol):
    """A sequence of rounds whose state is plain containers and tensors.

    After `load_state_dict(state)` every round does exactly what it would have done in the process that saved `state`.
    `state_dict` may share tensors with the work: they are written before the next round runs.
    """

    @property
    def rounds_total(self) -> int: ...

    @property
    def rounds_done(self) -> int: ...

    def run_round(self) -> Mapping[str, Any]:
        """Do one round and return its metrics, JSON-ready.

        `samples` (how many were processed) becomes `time.samples_per_second`; a mapping `time` is for what may differ
        between two equal runs; a text `warning` is told to the user. `rounds_total` may have become smaller, for work
        that finds that it should end. Raises `NonFiniteLoss` where a number became NaN or infinite.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a start of a run ended. `notes`: what the user should know (a damaged checkpoint, a step back)."""

    status: Literal["finished", "stopped"]
    rounds_done: int
    rounds_total: int
    reason: str
    notes: tuple[str, ...] = ()


def run(
    work: Resumable,
    files: RunFiles,
    *,
    kind: str,
    reporter: Reporter,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    may_change: Collection[str] = (),
    why_fixed: Mapping[str, str] | None = None,
    memory_keys: Sequence[str] = (),
    job_text: str | None = None,
    title: str | None = None,
) -> Outcome:
    """Run `work` to its end or to a stop, from where the last start in `files` left it.

    A run that is finished does nothing. `stop`: a request that the caller has entered; without it signals and
    `max_minutes` are watched here. Results (a genotype, a packed file) are the caller's to write after "finished",
    also when this start had nothing left to do, as the last one may have died in between.

    `fingerprint`: the job as a flat mapping key -> plain value. A start with another one is refused, naming each key,
    unless the key is in `may_change`; `why_fixed` adds a sentence to a key's message. `memory_keys`: keys whose smaller
    values need less memory, named when it runs out. `job_text`: what job.yaml shall hold, written once the job is
    accepted.

    `BnasError` for what the user can mend; every finished round is on the disk then.
    """
    if stop is not None and max_minutes is not None:
        raise ValueError("give max_minutes to the StopRequest, or leave the StopRequest to run()")
    files.prepare()
    watch = contextlib.nullcontext(stop) if stop is not None else StopRequest(max_minutes)
    with files.locked() as warning, watch as request:
        job = _Job(fingerprint, may_change, why_fixed or {}, memory_keys, job_text)
        return _Run(work, files, kind, reporter, job).go(request, title or f"{kind} {files.folder}", warning)


@dataclass(frozen=True)
class _Job:
    """The arguments of `run` that describe the job."""

    fingerprint: Mapping[str, Any] | None
    may_change: Collection[str]
    why_fixed: Mapping[str, str]
    memory_keys: Sequence[str]
    text: str | None


class _Run:
    """One start of a run."""

    def __init__(self, work: Resumable, files: RunFiles, kind: str, reporter: Reporter, job: _Job) -> None:
        self._work = work
        self._files = files
        self._kind = kind
        self._reporter = reporter
        self._job = job
        self._history = History(files.history)
        self._lines = 0
        self._saved_rounds = 0
        self._notes: list[str] = []
        self._unsaid: list[str] = []
        self._went_back_in: set[int] = set()

    def go(self, request: StopRequest, title: str, warning: str | None) -> Outcome:
        self._note(warning)
        with self._explaining_memory():
            self._restore_or_begin()
        self._note(self._files.record_environment())
        if self._job.text is not None:
            atomic.write_text(self._files.job, self._job.text)
        done, total = self._work.rounds_done, self._work.rounds_total
        self._reporter.start(title, total, done, self._earlier())
        try:
            self._say_notes()
            outcome = self._rounds(request)
        except BaseException as error:
            how = "stopped at once" if isinstance(error, KeyboardInterrupt) else "ended by an error"
            self._reporter.finish(f"{how}. {self._safe()}")
            raise
        of = outcome.rounds_total
        self._reporter.finish(f"{outcome.status} after {outcome.rounds_done} of {of} rounds: {outcome.reason}")
        return outcome

    def _rounds(self, request: StopRequest) -> Outcome:
        if self._is_done():
            return self._outcome("finished", "nothing was left to do")
        planned = self._work.rounds_total
        while not self._is_done():
            if request.reason is not None:
                return self._outcome("stopped", f"{request.reason}; the same command goes on from here")
            with self._explaining_memory():
                record = self._round()
                self._save(record)
            self._reporter.round(record)
            self._note(record.get("warning"))
            self._say_notes()
        if self._work.rounds_total < planned:
            return self._outcome("finished", f"it ended itself; {planned} rounds were planned")
        return self._outcome("finished", "all rounds are done")

    def _earlier(self) -> list[dict[str, Any]]:
        try:
            return self._history.read()
        except BnasError as error:
            # The rounds do not need the history; a line that rotted must not keep them from going on.
            self._note(f"{error}; the run goes on without showing the rounds before")
            return []

    def _is_done(self) -> bool:
        return self._work.rounds_done >= self._work.rounds_total

    def _outcome(self, status: Literal["finished", "stopped"], reason: str) -> Outcome:
        return Outcome(status, self._work.rounds_done, self._work.rounds_total, reason, tuple(self._notes))

    def _round(self) -> dict[str, Any]:
        while True:
            before = self._work.rounds_done
            started = time.perf_counter()
            try:
                metrics = dict(self._work.run_round())
            except NonFiniteLoss as error:
                self._go_back(error, before + 1)
                continue
            seconds = time.perf_counter() - started
            if self._work.rounds_done != before + 1 or "round" in metrics:
                raise RuntimeError("run_round must raise rounds_done by one and leave the key 'round' to the engine")
            times = {"seconds": seconds, **metrics.pop(TIME, {})}
            if "samples" in metrics:
                times["samples_per_second"] = metrics["samples"] / max(seconds, 1e-9)
            return {"round": before + 1, **metrics, TIME: times}

    def _save(self, record: Mapping[str, Any]) -> None:
        kept = f"{self._safe()}; round {record['round']} will be done again."
        self._history.append(record, kept=kept)
        self._lines += 1
        self._write_checkpoint(kept)

    def _write_checkpoint(self, kept: str) -> None:
        fingerprint = None if self._job.fingerprint is None else dict(self._job.fingerprint)
        done, total = self._work.rounds_done, self._work.rounds_total
        now = saved.Saved(done, total, self._lines, fingerprint, self._work.state_dict())
        saved.write(self._files, now, kind=self._kind, kept=kept)
        self._saved_rounds = done

    def _restore_or_begin(self) -> None:
        found = saved.read(self._files, kind=self._kind, put_aside=True)
        if found is not None and found.rounds_done == 0 and self._changes(found):
            # Nothing is finished yet, so nothing would be lost: the changed job begins.
            found = None
        elif found is not None:
            self._check_job(found)
            self._restore(found)
            return
        elif self._history.read():
            raise BnasError(f"{self._files.history} has rounds, but {self._files.checkpoint.name} is gone. {_ANOTHER}")
        self._history.cut(0)
        # The state before the first round is saved too: a NaN goes back to it, and a full disk shows before any work.
        self._write_checkpoint("Nothing was done yet.")

    def _restore(self, found: saved.Saved) -> None:
        try:
            self._work.load_state_dict(found.state)
        except _MISFITS as error:
            if memory.is_shortage(error):
                raise
            # torch lists every tensor that differs, over many lines.
            said = textwrap.shorten(str(error), 200, placeholder=" ...")
            raise BnasError(
                f"{self._files.checkpoint} does not fit this job ({type(error).__name__}: {said}). It is of another job "
                f"or of another version of bnas. {_ANOTHER}"
            ) from error
        if self._work.rounds_done != found.rounds_done:
            raise RuntimeError(f"load_state_dict went to round {self._work.rounds_done}, not {found.rounds_done}")
        self._note(found.note)
        self._saved_rounds = found.rounds_done
        self._lines = self._history.cut(found.history_lines)
        if self._lines < found.history_lines:
            self._note(f"{self._files.history} has {self._lines} of {found.history_lines} lines; the rest is lost")

    def _go_back(self, error: NonFiniteLoss, number: int) -> None:
        if number in self._went_back_in:
            raise BnasError(
                f"round {number}, {error}, again after going back once. {self._safe()}. "
                "Try a smaller learning rate, a smaller grad_clip, a longer warm-up or float32, in another --run folder"
            ) from error
        self._went_back_in.add(number)
        found = saved.read(self._files, kind=self._kind, put_aside=True)
        if found is None:
            raise BnasError(f"{self._files.checkpoint} was removed while the run was going. {_ANOTHER}") from error
        self._restore(found)
        where = f"the end of round {found.rounds_done}" if found.rounds_done else "the start"
        self._note(f"round {number}, {error}: went back to {where}, once, and goes on from there")
        self._say_notes()

    def _check_job(self, found: saved.Saved) -> None:
        changes = self._changes(found)
        if changes:
            reasons = self._job.why_fixed
            listed = "; ".join(
                f"{key}: was {old}, now {new}" + (f" ({reasons[key]})" if key in reasons else "")
                for key, (old, new) in changes.items()
            )
            raise BnasError(
                f"{self._files.folder} was started with another job, and has {found.rounds_done} rounds. {listed}. "
                f"To go on, give the old values. For the new ones: {_ANOTHER[0].lower()}{_ANOTHER[1:]}"
            )

    def _changes(self, found: saved.Saved) -> dict[str, tuple[str, str]]:
        """The keys whose values differ and may not: key -> (old, new) as JSON."""
        if self._job.fingerprint is None or found.fingerprint is None:
            return {}
        old, new = found.fingerprint, self._job.fingerprint
        pairs = {key: (_shown(old, key), _shown(new, key)) for key in (*old, *(key for key in new if key not in old))}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key not in self._job.may_change}

    def _safe(self) -> str:
        done = self._saved_rounds
        if done == 0:
            return "No round was finished yet"
        return f"{'Round 1 is' if done == 1 else f'Rounds 1 to {done} are'} safe in {self._files.folder}"

    @contextlib.contextmanager
    def _explaining_memory(self) -> Iterator[None]:
        where = f"{self._kind} {self._files.folder}, round {self._work.rounds_done + 1}"
        with memory.explaining(where, self._job.memory_keys, self._job.fingerprint, kept=self._safe()):
            yield

    def _note(self, text: str | None) -> None:
        if text is not None:
            self._notes.append(text)
            self._unsaid.append(text)

    def _say_notes(self) -> None:
        for text in self._unsaid:
            self._reporter.message(text)
        self._unsaid.clear()


def _shown(mapping: Mapping[str, Any], key: str) -> str:
    return json.dumps(mapping[key], sort_keys=True) if key in mapping else "not there"
