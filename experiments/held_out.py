"""Images of a trained network's own job that measurements are made on, without the test split."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnas.data import Batches, ImageSet, split_for_search
from bnas.errors import BnasError
from bnas.options import check_number
from bnas.rundir import RunFiles
from experiments.api import job_of, read_data
from experiments.assembly import prepare_torch
from experiments.network import NetworkCard


@dataclass(frozen=True)
class HeldOut:
    """`validation` judges, `calibration` is for the statistics of norms; `what` says which images they are."""

    validation: Batches
    calibration: Batches
    what: str


def held_out(files: RunFiles, card: NetworkCard, count: int, batch_size: int = 128) -> HeldOut:
    """`count` of the images that the job's search would judge architectures on, and those that it trains weights on.

    They are of the training split, all of which a retraining learns from: what is read off them is how a network changes,
    not how well it does.
    """
    check_number("--images", count, at_least=2, whole=True)
    job = job_of(files)
    prepare_torch(job)
    data = read_data(job)
    if data.input_shape != card.spec.input_shape or data.num_classes != len(card.classes):
        raise BnasError(f"{files.job}: its images are not those that the network in {files.folder} was trained on")
    train, validation = split_for_search(data.train, job.search.train_fraction, job.seed)

    def batches(images: ImageSet, purpose: str) -> Batches:
        return Batches(images, batch_size, seed=job.seed, normalization=card.normalization, purpose=purpose)

    chosen = validation.take(_spread(len(validation), count))
    what = (
        f"{len(chosen)} images of the validation half of the training split of {data.name} (never the test split; the "
        f"network has seen them in its training, so that accuracies are high and only their changes tell)"
    )
    return HeldOut(batches(chosen, "held-out"), batches(train, "held-out-calibration"), what)


def _spread(length: int, count: int) -> Tensor:
    """Indices of at most `count` of `length` images, evenly spread: images may lie sorted by class."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()
