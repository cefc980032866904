"""Search and retrain from Python: the two steps that train. The command line is a thin layer over these."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bnas import atomic, engine, saved, seeding
from bnas.data import Batches, Dataset, ImageSet, Normalization, read, split_for_search
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.progress import Reporter, SilentReporter
from bnas.rundir import RunDir, RunFiles
from bnas.stopping import StopRequest
from bnas.strategy import SearchTask, Strategy
from bnas.training.retraining import Retraining, plan_stages
from experiments.config import (
    MAY_CHANGE,
    MEMORY_KEYS,
    Job,
    fingerprint,
    job_text,
    make_job,
    resolve_device,
    strategy_options,
)
from experiments.network import DescribedRetraining, NetworkCard
from experiments.yaml_file import read as read_yaml
from search_spaces import space_of
from strategies import STRATEGIES


@dataclass(frozen=True)
class Run:
    """How a search or a retraining ended. `genotype`: the one found or trained, None after a search that was stopped."""

    outcome: engine.Outcome
    files: RunFiles
    genotype: Genotype | None


def read_data(job: Job) -> Dataset:
    """The job's images."""
    return read(job.data.name, job.data.path, **job.data.options)


def prepare_torch(job: Job) -> torch.device:
    """The device of the job, after its threads and its determinism are set for the process."""
    if job.threads:
        torch.set_num_threads(job.threads)
    device = resolve_device(job.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not job.deterministic
        torch.use_deterministic_algorithms(job.deterministic)
    return device


def make_strategy(job: Job, data: Dataset, device: torch.device) -> Strategy:
    """The job's strategy at its start, on the training split only."""
    space = job.make_space()
    train, val = split_for_search(data.train, job.search.train_fraction, job.seed)
    normalization = Normalization.of(data.train)

    def batches(images: ImageSet, purpose: str) -> Batches:
        return Batches(
            images,
            job.search.batch_size,
            seed=job.seed,
            normalization=normalization,
            augmentation=job.search.augmentation,
            device=device,
            purpose=purpose,
        )

    spec = job.spec(job.search, data.input_shape, data.num_classes)
    task = SearchTask(space, spec, batches(train, "search-train"), batches(val, "search-val"), job.seed, device)
    return STRATEGIES[job.search.strategy].make(task, strategy_options(job))


def search(
    job: Job,
    run: Path,
    *,
    fresh: bool = False,
    reporter: Reporter | None = None,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
) -> Run:
    """Search in the folder `run`, from where it was left; at the end genotype.json lies there."""
    files = RunDir(run).files_for_search()
    if fresh:
        files.fresh()
    device = prepare_torch(job)
    strategy = make_strategy(job, read_data(job), device)
    outcome = engine.run(
        strategy,
        files,
        kind="search",
        reporter=reporter or SilentReporter(),
        max_minutes=max_minutes,
        stop=stop,
        fingerprint=fingerprint(job, "search"),
        may_change=MAY_CHANGE,
        memory_keys=MEMORY_KEYS["search"],
        job_text=job_text(job),
        title=f"search {job.space.name} by {job.search.strategy}",
    )
    if outcome.status != "finished":
        return Run(outcome, files, None)
    genotype = strategy.derive()
    about = {"strategy": job.search.strategy, "seed": job.seed, "data": job.data.name, "rounds": outcome.rounds_done}
    atomic.write_text(files.genotype, genotype.to_json(about))
    return Run(outcome, files, genotype)


def job_of(files: RunFiles) -> Job:
    """The job that a run was started with."""
    if not files.job.exists():
        raise BnasError(f"{files.folder} is not a run: it has no {files.job.name}")
    return make_job(read_yaml(files.job), str(files.job))


def retrain(
    job: Job,
    genotype: Genotype,
    run: Path,
    *,
    id: str | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
) -> Run:
    """Train the network of `genotype` from its start in `run`/retrain-<id>; at the end checkpoint.pt is complete.

    `id`: by default the scheme and the seed, so that several of them do not overwrite each other.
    """
    space = space_of(genotype)
    files = RunDir(run).files_for_retrain(id or f"{job.retrain.scheme}-seed{job.seed}")
    if fresh:
        files.fresh()
    device = prepare_torch(job)
    data = read_data(job)
    part = job.retrain
    spec = job.spec(part, data.input_shape, data.num_classes)
    card = NetworkCard(genotype, spec, data.classes, Normalization.of(data.train), job.data.name)
    work = Retraining(
        card.build,
        plan_stages(
            part.scheme,
            part.scheme_options,
            part.recipe.epochs,
            mode=part.stages,
            first_weight_decay=part.first_stage_weight_decay,
        ),
        part.recipe,
        train=data.train,
        normalization=card.normalization,
        seed=seeding.derive(job.seed, "retrain"),
        augmentation=part.augmentation,
        device=device,
        round_steps=part.round_steps or None,
        initial=_searched_weights(job, genotype, run) if part.init_from_search else None,
    )
    outcome = engine.run(
        DescribedRetraining(work, card),
        files,
        kind="retrain",
        reporter=reporter or SilentReporter(),
        max_minutes=max_minutes,
        stop=stop,
        fingerprint={**fingerprint(job, "retrain"), "genotype": genotype.content_digest},
        may_change=MAY_CHANGE,
        memory_keys=MEMORY_KEYS["retrain"],
        job_text=job_text(job),
        title=f"retrain {space.name} {space.digest(genotype)} under {part.scheme}",
    )
    atomic.write_text(files.genotype, genotype.to_json())
    return Run(outcome, files, genotype)


def _searched_weights(job: Job, genotype: Genotype, run: Path) -> dict[str, torch.Tensor]:
    """The super-network's weights for that genotype, from the search in `run`."""
    files = RunDir(run).files_for_search()
    found = saved.read(files, kind="search")
    if found is None:
        raise BnasError(f"retrain.init_from_search: {files.checkpoint} is not there; search in {run} first")
    searched = job_of(files)
    differing = {
        key: (searched.search.size.get(key), job.retrain.size.get(key))
        for key in searched.search.size
        if searched.search.size.get(key) != job.retrain.size.get(key) and key != "auxiliary"
    }
    if differing:
        listed = "; ".join(f"{key}: searched with {a}, retrained with {b}" for key, (a, b) in differing.items())
        raise BnasError(f"retrain.init_from_search needs equal sizes. {listed}")
    strategy = make_strategy(searched, read_data(searched), torch.device("cpu"))
    strategy.load_state_dict(found.state)
    weights = strategy.weights_for(genotype)
    if weights is None:
        raise BnasError(f"retrain.init_from_search: strategy {searched.search.strategy} keeps no shared weights")
    return weights


def genotype_of_round(files: RunFiles, number: int | None) -> Genotype:
    """The genotype of a finished search, or the one that stood after round `number` of its history."""
    if number is None:
        if not files.genotype.exists():
            raise BnasError(
                f"{files.genotype} is not there yet: the search has not finished (--round N gives that of a round)"
            )
        with atomic.explaining("read", files.genotype):
            return Genotype.from_json(files.genotype.read_text())
    job = job_of(files)
    records = _records(files)
    for record in records:
        if record.get("round") == number:
            return job.make_space().genotype(record["genotype"])
    raise BnasError(f"{files.history} has rounds 1 to {len(records)}; there is no round {number}")


def _records(files: RunFiles) -> Sequence[dict[str, Any]]:
    from bnas.history import History

    return History(files.history).read()


def random_genotype(job: Job, *address: object) -> Genotype:
    """A genotype of the job's space, drawn uniformly and fixed by the job's seed."""
    return job.make_space().random(seeding.numpy_generator(job.seed, "random-genotype", *address))


def as_json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"
