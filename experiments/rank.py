"""`bnas rank`: do shared weights order architectures as training each by itself does? Kendall's tau of the two.

The found genotype and some drawn at random are scored with the super-network's weights, and each is trained for a short
while from its start. Weights see the part of the training split that they saw in the search, and both scores are on
the other part; the test split is not touched.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bnas import engine, saved
from bnas.data import Batches, Dataset, split_for_search
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.options import check_number
from bnas.progress import Reporter
from bnas.rundir import RunDir, RunFiles
from bnas.statistics import RankCorrelation, rank_correlation
from bnas.stopping import StopRequest
from bnas.strategy import Strategy, distinct_genotypes
from bnas.training.metrics import accuracy, recalibrate
from experiments import api
from experiments.assembly import make_retraining, make_strategy, prepare_torch, read_data
from experiments.config import MEMORY_KEYS, Job, fingerprint
from experiments.deploy_target import searched_space
from experiments.job_text import job_text

FOLDER = "rank"
RECALIBRATION_BATCHES = 20
FEWEST = 3


@dataclass(frozen=True)
class Ranked:
    """One architecture: its accuracy with shared weights and after a short training of its own, both on validation images."""

    genotype: Genotype
    digest: str
    is_found: bool
    shared: float
    trained: float


@dataclass(frozen=True)
class Ranking:
    """What is known so far; `correlation` is None before all architectures are trained."""

    rows: tuple[Ranked, ...]
    total: int
    epochs: int
    images: int
    correlation: RankCorrelation | None

    @property
    def finished(self) -> bool:
        return len(self.rows) == self.total

    def to_dict(self) -> dict[str, Any]:
        rows = [{**dataclasses.asdict(row), "genotype": dict(row.genotype.choices)} for row in self.rows]
        found = None if self.correlation is None else dataclasses.asdict(self.correlation)
        return {"total": self.total, "epochs": self.epochs, "images": self.images, "correlation": found, "rows": rows}


def rank(
    run: Path,
    job: Job,
    *,
    architectures: int,
    epochs: int,
    reporter: Callable[[str], Reporter],
    say: Callable[[str], None],
    stop: StopRequest,
) -> Ranking:
    """Score and train the found genotype of the search in `run` and others, up to `architectures` in all.

    `job`: the search's, whose retraining may differ from it; `epochs` replaces its epochs, in one stage. Trainings lie
    in `run`/rank and go on where they were stopped. `BnasError` for a strategy without shared weights.
    """
    check_number("architectures", architectures, at_least=FEWEST, whole=True)
    check_number("epochs", epochs, at_least=1, whole=True)
    device = prepare_torch(job)
    data = read_data(job)
    halves = _halves(job, data)
    strategy, found = _searched(run, job, data, device)
    space, _ = searched_space(job, data)
    drawn = distinct_genotypes(space, architectures, job.seed, "rank")
    genotypes = {space.digest(genotype): genotype for genotype in (found, *drawn)}
    chosen = list(genotypes.items())[:architectures]
    shared = [_shared_score(strategy, genotype, job, halves, device) for _, genotype in chosen]
    short = _short(job, epochs)
    rows: list[Ranked] = []
    for (digest, genotype), score in zip(chosen, shared, strict=True):
        say(f"{digest} ({len(rows) + 1} of {len(chosen)})")
        trained = _trained_score(run, short, genotype, halves, device, reporter("accuracy"), stop)
        if trained is None:
            break
        rows.append(Ranked(genotype, digest, digest == space.digest(found), score, trained))
    whole = len(rows) == len(chosen) >= FEWEST
    correlation = rank_correlation([r.shared for r in rows], [r.trained for r in rows]) if whole else None
    return Ranking(tuple(rows), len(chosen), epochs, len(halves.test), correlation)


def _halves(job: Job, data: Dataset) -> Dataset:
    """The training split as the search had it: its first part to train, its second in the place of the test split."""
    train, val = split_for_search(data.train, job.search.train_fraction, job.seed)
    return dataclasses.replace(data, train=train, test=val)


def _searched(run: Path, job: Job, data: Dataset, device: torch.device) -> tuple[Strategy, Genotype]:
    files = RunDir(run).files_for_search()
    found = saved.read(files, kind="search")
    if found is None:
        raise BnasError(f"{run} holds no search: {files.checkpoint} is not there")
    strategy = make_strategy(api.job_of(files), data, device)
    strategy.load_state_dict(found.state)
    genotype = strategy.derive()
    if strategy.weights_for(genotype) is None:
        raise BnasError(
            f"strategy {job.search.strategy} keeps no shared weights, so there is nothing to rank by; take a run of a "
            f"strategy with a super-network"
        )
    return strategy, genotype


def _batches(job: Job, data: Dataset, purpose: str, device: torch.device) -> Batches:
    images = data.train if purpose == "train" else data.test
    normalization = job.data.normalization(data.train)
    return Batches(
        images,
        min(job.search.batch_size, len(images)),
        seed=job.seed,
        normalization=normalization,
        device=device,
        purpose=f"rank-{purpose}",
    )


def _shared_score(strategy: Strategy, genotype: Genotype, job: Job, data: Dataset, device: torch.device) -> float:
    """Validation accuracy with the super-network's weights, norms recalibrated on 20 training batches."""
    network = job.make_space().build(genotype, job.spec(job.search, data.input_shape, data.num_classes)).to(device)
    weights = strategy.weights_for(genotype)
    assert weights is not None
    network.load_state_dict(weights)
    recalibrate(network, network, _batches(job, data, "train", device), RECALIBRATION_BATCHES)
    return accuracy(network.eval(), _batches(job, data, "val", device))


def _short(job: Job, epochs: int) -> Job:
    recipe = dataclasses.replace(job.retrain.recipe, epochs=epochs)
    retrain = dataclasses.replace(job.retrain, recipe=recipe, stages="one", init_from_search=False)
    return dataclasses.replace(job, retrain=retrain)


def _trained_score(
    run: Path,
    job: Job,
    genotype: Genotype,
    data: Dataset,
    device: torch.device,
    reporter: Reporter,
    stop: StopRequest,
) -> float | None:
    """Validation accuracy after the short training; None where it was stopped."""
    files: RunFiles = RunDir(run / FOLDER).files_for_retrain(genotype.content_digest)
    work = make_retraining(job, genotype, data, device)
    outcome = engine.run(
        work,
        files,
        kind="retrain",
        reporter=reporter,
        stop=stop,
        fingerprint={**fingerprint(job, "retrain"), "genotype": genotype.content_digest},
        memory_keys=MEMORY_KEYS["retrain"],
        job_text=job_text(job),
    )
    if outcome.status != "finished":
        return None
    network = work.work.evaluation_model()
    with torch.no_grad():
        return accuracy(network, _batches(job, data, "val", device))
