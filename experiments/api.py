"""Search and retrain from Python: the two steps that train. The command line is a thin layer over these.

    from experiments import api

    job = api.load_job("digits_bats", ["search.options.epochs=3", "retrain.recipe.epochs=5"])
    found = api.search(job, "runs/first", reporter=api.PlainReporter())
    print(found.genotype)
    trained = api.retrain(job, found.genotype, "runs/first", reporter=api.PlainReporter())

`job` may also be made by `api.make_job({"search": {"strategy": "random"}})` from nested dicts. Both calls continue a run
that was stopped (Ctrl-C or an interrupted notebook cell finishes the round, saves and returns), and do nothing but
return the result where the run is finished. `experiments.deployment` has the steps that follow: `export_packed`,
`verify_packed`, `evaluate`, `predict`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bnas import atomic, engine, saved, seeding, tensorboard
from bnas.data import Dataset
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.history import History
from bnas.progress import PlainReporter, Reporter, ReporterGroup, SilentReporter
from bnas.rundir import RunDir, RunFiles
from bnas.stopping import StopRequest
from bnas.strategy import Strategy
from experiments.assembly import (
    explaining_memory,
    given_weights,
    make_retraining,
    make_strategy,
    prepare_torch,
    read_data,
)
from experiments.config import MAY_CHANGE, MEMORY_KEYS, Job, JobError, about, fingerprint, plan_retraining
from experiments.deploy_target import messages, searched_space
from experiments.genotype_formats import read_genotype
from experiments.job_files import load_job, load_plugins_of, make_job
from experiments.job_text import job_text
from experiments.network import find_trained, load_trained
from experiments.yaml_file import read as read_yaml
from search_spaces import space_of
from search_spaces.published import names as published_names
from search_spaces.published import published

__all__ = [
    "Job",
    "PlainReporter",
    "Run",
    "genotype_of_round",
    "job_of",
    "load_genotype",
    "load_job",
    "make_job",
    "random_genotype",
    "read_data",
    "retrain",
    "search",
]

_SPANS_ALL = "its schedules span all epochs, so that a longer run differs from the first step on"
# Why a run does not go on with another value, where that is not plain.
WHY_FIXED = {
    "search.options.epochs": _SPANS_ALL,
    "retrain.recipe.epochs": _SPANS_ALL,
    "data.images": "a digest of the training images: those in data.path are not the ones that the run began with",
}


@dataclass(frozen=True)
class Run:
    """How a search or a retraining ended.

    `outcome.status` is "finished" or "stopped"; `files` has the paths of what was written; `genotype` is the one that
    was found or trained, None after a search that was stopped.
    """

    outcome: engine.Outcome
    files: RunFiles
    genotype: Genotype | None

    @property
    def finished(self) -> bool:
        return self.outcome.status == "finished"

    def history(self) -> list[dict[str, Any]]:
        """One record a finished round, as history.jsonl holds them: `round`, the metrics, `time`."""
        return History(self.files.history).read()


def search(
    job: Job,
    run: Path | str,
    *,
    fresh: bool = False,
    reporter: Reporter | None = None,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
) -> Run:
    """Search in the folder `run`, from where it was left; at the end genotype.json lies there.

    `fresh`: rename what is there (it is kept) and start anew. `reporter`: told of each round; silent by default.
    `max_minutes`: finish the round and stop after that long. `stop`: a request of the caller's, which then watches
    signals and the clock itself. `BnasError` for what the caller can mend, before anything is trained or moved where
    that can be known: also a retraining that could not begin is refused here and not after the search.
    """
    if job.genotype is not None:
        raise JobError(f"genotype: {job.genotype} is given, so there is nothing to search: train it by bnas retrain")
    files = RunDir(Path(run)).files_for_search()
    reporter = reporter or SilentReporter()
    device = prepare_torch(job)
    data = read_data(job)
    space, refused = searched_space(job, data)
    with explaining_memory(job, "search"):
        strategy = make_strategy(job, data, device, space)
    if fresh or not files.is_started():
        with explaining_memory(job, "retrain"):
            _check_retraining(job, data, device, strategy)
    _begin(files, fresh, reporter, data)
    for message in messages(job, space, refused):
        reporter.message(message)
    outcome = engine.run(
        strategy,
        files,
        kind="search",
        reporter=_with_tensorboard(reporter, files),
        max_minutes=max_minutes,
        stop=stop,
        fingerprint={**fingerprint(job, "search"), "data.images": data.train.digest()},
        may_change=MAY_CHANGE,
        why_fixed=WHY_FIXED,
        memory_keys=MEMORY_KEYS["search"],
        job_text=job_text(job),
        title=f"search {job.space.name} by {job.search.strategy}",
    )
    if outcome.status != "finished":
        return Run(outcome, files, None)
    genotype = strategy.derive()
    about_it = {"strategy": job.search.strategy, "seed": job.seed, "data": job.data.name, "rounds": outcome.rounds_done}
    atomic.write_text(files.genotype, genotype.to_json(about_it))
    return Run(outcome, files, genotype)


def _check_retraining(job: Job, data: Dataset, device: torch.device, strategy: Strategy) -> None:
    """Make a retraining and drop it: a search takes hours, and what follows shall not fail for a word in the job."""
    genotype = random_genotype(job)
    if job.retrain.init_from_search:
        _check_equal_sizes(job, job)
        _weights_of(strategy, genotype, job)
    make_retraining(job, genotype, data, device)


def _begin(files: RunFiles, fresh: bool, reporter: Reporter, data: Dataset) -> None:
    """Make room where that was asked for, and say once a run what its reader found odd about the images."""
    moved = files.fresh() if fresh else None
    if moved is not None:
        reporter.message(f"what was in {files.folder} is kept in {moved}")
    if not files.is_started():
        for note in data.notes:
            reporter.message(f"data set {data.name}: {note}")


def _with_tensorboard(reporter: Reporter, files: RunFiles) -> Reporter:
    if not tensorboard.is_installed():
        return reporter
    return ReporterGroup(reporter, tensorboard.TensorBoardReporter(files.tensorboard))


def job_of(files: RunFiles) -> Job:
    """The job that a run was started with."""
    if not files.job.exists():
        raise BnasError(f"{files.folder} is not a run: it has no {files.job.name}")
    return make_job(read_yaml(files.job) or {}, str(files.job))


def retrain(
    job: Job,
    genotype: Genotype,
    run: Path | str,
    *,
    id: str | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
) -> Run:
    """Train the network of `genotype` from its start in `run`/retrain-<id>; at the end checkpoint.pt is complete.

    `id`: by default the scheme and the seed, so that several of them do not overwrite each other. The rest is as in
    `search`; `genotype` may be of any space, and `run` need not hold a search unless `retrain.init_from_search` is set.
    """
    run = Path(run)
    if job.genotype is not None and load_genotype(job.genotype) != genotype:
        raise JobError(f"genotype: the job is for {job.genotype}, and another genotype is to be trained")
    space = space_of(genotype)
    files = RunDir(run).files_for_retrain(id if id is not None else f"{job.retrain.scheme}-seed{job.seed}")
    reporter = reporter or SilentReporter()
    device = prepare_torch(job)
    data = read_data(job)
    given = given_weights(job)
    initial = _initial_weights(job, genotype, run)
    with explaining_memory(job, "retrain"):
        work = make_retraining(job, genotype, data, device, initial)
    _begin(files, fresh, reporter, data)
    if job.retrain.init_from is not None:
        left = ", ".join(work.work.left_at_start) or "nothing"
        reporter.message(f"starts from {job.retrain.init_from}; left at its own start: {left}")
    outcome = engine.run(
        work,
        files,
        kind="retrain",
        reporter=_with_tensorboard(reporter, files),
        max_minutes=max_minutes,
        stop=stop,
        fingerprint={
            **fingerprint(job, "retrain"),
            "data.images": data.train.digest(),
            "genotype": genotype.content_digest,
            **{key: weights.digest for key, weights in given.items()},
        },
        may_change=(*MAY_CHANGE, *(["retrain.recipe.epochs"] if _can_be_extended(job) else [])),
        why_fixed={**WHY_FIXED, **{key: weights.why for key, weights in given.items()}},
        memory_keys=MEMORY_KEYS["retrain"],
        job_text=job_text(job),
        title=f"retrain {space.name} {space.digest(genotype)} under {job.retrain.scheme}",
    )
    atomic.write_text(files.genotype, genotype.to_json())
    return Run(outcome, files, genotype)


def _can_be_extended(job: Job) -> bool:
    """Whether the steps that were done are also the first ones of a longer training."""
    recipe = job.retrain.recipe
    spans_all = recipe.schedule != "constant" or recipe.warmup_fraction or recipe.drop_path
    return not spans_all and len(plan_retraining(job)) == 1


def _initial_weights(job: Job, genotype: Genotype, run: Path) -> dict[str, torch.Tensor] | None:
    """What the network starts from; None: from its own random start."""
    if job.retrain.init_from_search:
        return _searched_weights(job, genotype, run)
    if job.retrain.init_from is None:
        return None
    with about("retrain.init_from"):
        return dict(load_trained(find_trained(Path(job.retrain.init_from))).model.state_dict())


def _searched_weights(job: Job, genotype: Genotype, run: Path) -> dict[str, torch.Tensor]:
    """The super-network's weights for that genotype, from the search in `run`."""
    files = RunDir(run).files_for_search()
    found = saved.read(files, kind="search")
    if found is None:
        raise JobError(f"retrain.init_from_search: {files.checkpoint} is not there; search in {run} first")
    searched = job_of(files)
    _check_equal_sizes(searched, job)
    strategy = make_strategy(searched, read_data(searched), torch.device("cpu"))
    strategy.load_state_dict(found.state)
    return _weights_of(strategy, genotype, searched)


def _weights_of(strategy: Strategy, genotype: Genotype, job: Job) -> dict[str, torch.Tensor]:
    weights = strategy.weights_for(genotype)
    if weights is None:
        raise JobError(f"retrain.init_from_search: strategy {job.search.strategy} keeps no shared weights")
    return weights


def _check_equal_sizes(searched: Job, retrained: Job) -> None:
    """`JobError` unless the weights of the search's networks fit those of the retraining; the auxiliary head is extra."""
    before, after = searched.search.size, retrained.retrain.size
    differing = [key for key in before if before[key] != after.get(key) and key != "auxiliary"]
    if differing:
        listed = "; ".join(f"{key}: searched with {before[key]}, retrained with {after.get(key)}" for key in differing)
        raise JobError(f"retrain.init_from_search needs equal sizes. {listed}")


def is_published(path: Path | str) -> bool:
    """Whether `path` is the name of a published genotype and no file."""
    return str(path) in published_names() and not Path(path).exists()


def load_genotype(path: Path | str) -> Genotype:
    """The genotype in a JSON or YAML file, or a published one by its name, checked against the space that it names."""
    if is_published(path):
        return published(str(path))
    genotype = read_genotype(path)
    try:
        space_of(genotype)
    except BnasError as error:
        raise error.within(str(path)) from None
    return genotype


def genotype_of_round(files: RunFiles, number: int | None = None) -> Genotype:
    """The genotype of a finished search, or the one that stood after round `number` of its history."""
    if not files.is_started() and not files.genotype.exists():
        raise BnasError(f"{files.folder} is not a run: it has no {files.job.name} and no {files.genotype.name}")
    load_plugins_of(files)
    if number is None:
        if not files.genotype.exists():
            raise BnasError(_unfinished(files))
        return load_genotype(files.genotype)
    records = [record for record in History(files.history).read() if "genotype" in record]
    for record in records:
        if record.get("round") == number:
            return job_of(files).make_space().genotype(record["genotype"])
    there = f"rounds 1 to {len(records)}" if records else "no genotypes of rounds"
    raise BnasError(f"there is no round {number}: {files.history} has {there}")


def _unfinished(files: RunFiles) -> str:
    rounds = len(History(files.history).read())
    now = f", or take what stands now: bnas export {files.folder} --what genotype --round {rounds} --to genotype.json"
    return (
        f"the search in {files.folder} is not finished (rounds done: {rounds}): {files.genotype.name} is not there yet. "
        f"Go on with it by the command that began it{now if rounds else ''}"
    )


def random_genotype(job: Job, *address: object) -> Genotype:
    """A genotype of the job's space, drawn uniformly and fixed by the job's seed."""
    return job.make_space().random(seeding.numpy_generator(job.seed, "random-genotype", *address))
