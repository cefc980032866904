"""What the commands that run something do: init, search, retrain, demo. Each returns the exit code."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas import atomic
from bnas.data import READERS
from bnas.errors import BnasError, check_choice
from bnas.genotype import Genotype
from experiments import api, latency_report, sources
from experiments.console import facts, hint, make_reporter, say, write_json
from experiments.job_files import load_job, make_job
from experiments.job_text import job_text
from search_spaces import SPACES, space_of
from strategies import STRATEGIES

DONE, STOPPED = 0, 3


def _settings(settings: Sequence[str], device: str | None) -> list[str]:
    return [*settings, *([f"device={device}"] if device else [])]


def init(out: Path, space: str, strategy: str, data: str, path: str | None) -> int:
    if out.exists():
        raise BnasError(f"{out} exists; name another file, or remove it first")
    check_choice("search space", space, SPACES)
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("data set", data, READERS)
    content: dict[str, Any] = {
        "data": {"name": data, "path": path},
        "space": {"name": space},
        "search": {"strategy": strategy},
    }
    fields = {field.name for field in dataclasses.fields(SPACES[space]().size_class)}
    if data == "digits" and "auxiliary" in fields:
        # The auxiliary head does not fit on what is left of 8x8 pixels.
        content["retrain"] = {"size": {"auxiliary": False}}
    job = make_job(content, "bnas init")
    atomic.write_text(out, f"# A job of bnas. Run it with: bnas search {out}\n{job_text(job, explained=True)}")
    say(f"wrote {out}")
    hint("next", f"bnas search {out} --run runs/{out.stem}")
    return DONE


def search(
    job: str,
    settings: Sequence[str],
    run: Path | None,
    fresh: bool,
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    folder = run or Path("runs") / Path(job).stem
    loaded = load_job(job, _settings(settings, device))
    with sources.naming(job):
        done = api.search(loaded, folder, fresh=fresh, reporter=make_reporter("val_accuracy"), max_minutes=max_minutes)
    found: dict[str, Any] = {}
    if done.genotype is not None:
        found = _described(done.genotype)
        rows, latency = latency_report.of_winner(loaded, done.genotype)
        facts([("found", done.files.genotype), *found.items(), *rows])
        found |= latency
        hint("next", f"bnas retrain {folder}")
    content = {**_outcome(done), **found, "genotype": done.genotype and done.genotype.to_dict()}
    return _end(done, content, json_file, again)


def _described(genotype: Genotype) -> dict[str, Any]:
    space = space_of(genotype)
    facts_of_it = {key: round(value, 4) for key, value in space.facts(genotype).items()}
    return {"space": genotype.space, "digest": space.digest(genotype), **facts_of_it}


def _outcome(done: api.Run) -> dict[str, Any]:
    outcome = done.outcome
    return {"status": outcome.status, "rounds_done": outcome.rounds_done, "rounds_total": outcome.rounds_total}


def _end(done: api.Run, content: Mapping[str, Any], json_file: Path | None, again: str) -> int:
    """The last words of a search or a retraining, and its exit code."""
    if json_file is not None:
        write_json(json_file, content)
    if done.finished:
        return DONE
    hint("to go on", again)
    return STOPPED


def retrain(
    source: Path,
    job: str | None,
    settings: Sequence[str],
    run: Path | None,
    id: str | None,
    fresh: bool,
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    genotype, loaded, job_file, folder = sources.genotype_job_folder(source, job, _settings(settings, device))
    with sources.naming(job_file):
        done = api.retrain(
            loaded,
            genotype,
            run or folder,
            id=id,
            fresh=fresh,
            reporter=make_reporter("accuracy"),
            max_minutes=max_minutes,
        )
    return end_of_training(done, json_file, again)


def end_of_training(done: api.Run, json_file: Path | None, again: str) -> int:
    """The last words of a retraining, and the exit code."""
    history = done.history()
    content = {
        **_outcome(done),
        "last_round": history[-1] if history else None,
        "checkpoint": str(done.files.checkpoint),
    }
    if done.finished:
        say(f"wrote {done.files.checkpoint}")
        hint("next", f"bnas export {done.files.folder}")
    return _end(done, content, json_file, again)


def demo(run: Path, json_file: Path | None, again: str) -> int:
    from experiments.demo import run_demo

    content = run_demo(run)
    if json_file is not None:
        write_json(json_file, content)
    if content:
        return DONE
    hint("to go on", again)
    return STOPPED
