"""What a job asks for, made: images, device, strategy, retraining."""

import dataclasses
import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from bnas import atomic, memory, seeding
from bnas.data import Batches, Dataset, ImageSet, needs_path, read, split_for_search, stratified
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.space import SearchSpace
from bnas.strategy import SearchTask, Strategy
from bnas.training.retraining import Retraining
from experiments.config import (
    MEMORY_KEYS,
    Job,
    JobError,
    about,
    fingerprint,
    plan_retraining,
    resolve_device,
    strategy_options,
)
from experiments.deploy_target import searched_space
from experiments.network import DescribedRetraining, NetworkCard, find_trained, load_trained
from strategies import STRATEGIES


def read_data(job: Job) -> Dataset:
    """The job's images."""
    if job.data.path is None and needs_path(job.data.name):
        raise JobError(
            f"data.path: data set '{job.data.name}' is read from disk, and the job does not say where it lies: "
            "add --set data.path=PATH, its folder or file"
        )
    with about("data"):
        data = read(job.data.name, job.data.path, **job.data.options)
    count = job.data.train_images
    if count is None:
        return data
    if count > len(data.train):
        raise JobError(f"data.train_images: {count} of the {len(data.train)} training images of {data.name}")
    # Which ones does not depend on the job's seed: several seeds train on the same images.
    chosen, _ = stratified(data.train.labels, count, 0)
    return dataclasses.replace(data, train=data.train.take(chosen))


def prepare_torch(job: Job) -> torch.device:
    """The device of the job, after its threads and its determinism are set for the process."""
    device = resolve_device(job.device)
    if job.threads:
        torch.set_num_threads(job.threads)
    if device.type == "cuda":
        if job.deterministic:
            # cuBLAS reads it when it starts; without it torch refuses its matrix products in this mode.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not job.deterministic
        torch.use_deterministic_algorithms(job.deterministic)
    return device


def make_strategy(job: Job, data: Dataset, device: torch.device, space: SearchSpace | None = None) -> Strategy:
    """The job's strategy at its start, on the training split only; `space`: its `searched_space`, where that is made."""
    with about("search.train_fraction"):
        train, val = split_for_search(data.train, job.search.train_fraction, job.seed)
    with about("search.augmentation"):
        job.search.augmentation.check(*data.input_shape[1:])
    with about("data"):
        normalization = job.data.normalization(data.train)

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
    with about("search"):
        task = SearchTask(
            searched_space(job, data)[0] if space is None else space,
            spec,
            batches(train, "search-train"),
            batches(val, "search-val"),
            job.seed,
            device,
            deployed=job.spec(job.retrain, data.input_shape, data.num_classes),
        )
        return STRATEGIES[job.search.strategy].make(task, strategy_options(job))


def make_retraining(
    job: Job,
    genotype: Genotype,
    data: Dataset,
    device: torch.device,
    initial: dict[str, torch.Tensor] | None = None,
) -> DescribedRetraining:
    """The retraining of `genotype` at its start, from `initial` weights where they are given."""
    part = job.retrain
    with about("data"):
        normalization = job.data.normalization(data.train)
    card = NetworkCard(
        genotype,
        job.spec(part, data.input_shape, data.num_classes),
        data.classes,
        normalization,
        job.data.name,
    )
    with about("retrain.augmentation"):
        part.augmentation.check(*data.input_shape[1:])
    with about("retrain"):
        work = Retraining(
            card.build,
            plan_retraining(job),
            part.recipe,
            train=data.train,
            normalization=card.normalization,
            seed=seeding.derive(job.seed, "retrain"),
            augmentation=part.augmentation,
            device=device,
            round_steps=part.round_steps or None,
            initial=initial,
            losses=part.losses,
            teacher=_teacher(part.teacher, card),
        )
    return DescribedRetraining(work, card)


def _teacher(path: str | None, student: NetworkCard) -> nn.Module | None:
    """The trained network that the job names, if it does; `BnasError` unless it answers the student's question."""
    if path is None:
        return None
    with about("teacher"):
        trained = load_trained(find_trained(Path(path)))
        card = trained.card
        for what, theirs, mine in (
            ("images", card.spec.input_shape, student.spec.input_shape),
            ("classes", card.classes, student.classes),
            ("mean and std", card.normalization, student.normalization),
        ):
            if theirs != mine:
                raise BnasError(f"{path} was trained on other {what}: {theirs}; those of this training are {mine}")
    return trained.model


class GivenWeights(NamedTuple):
    """A digest of the checkpoint that a key of the job names, and why a run does not go on with another one."""

    digest: str
    why: str


def given_weights(job: Job) -> dict[str, GivenWeights]:
    """Of the teacher and of what the network starts from, by key, where the job names them, wherever they lie."""
    named = {"retrain.teacher": job.retrain.teacher, "retrain.init_from": job.retrain.init_from}
    found = {}
    for key, path in named.items():
        if path is not None:
            with about(key):
                file = find_trained(Path(path)).checkpoint
                with atomic.explaining("read", file):
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            why = f"digests of {file}, which holds another network than the one that the run began with"
            found[f"{key}.weights"] = GivenWeights(digest, why)
    return found


def explaining_memory(job: Job, part: str) -> AbstractContextManager[None]:
    """Turn running out of memory in the block into an error that names the keys of that part ("search", "retrain")."""
    return memory.explaining(part, MEMORY_KEYS[part], fingerprint(job, part))
