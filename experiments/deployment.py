"""The steps after training: export, verify, evaluate, predict."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

import bnas
from bnas import atomic
from bnas.data import Batches, Dataset, ImageSet
from bnas.deploy import file
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import VerifyReport, verify
from bnas.errors import BnasError
from bnas.rundir import RunFiles
from bnas.training.metrics import accuracy
from experiments.api import job_of, read_data
from experiments.network import TrainedNetwork, find_trained, load_trained

# Enough to compare every layer on; the parity of a layer does not depend on what the images show.
VERIFY_IMAGES = 64


def is_packed_file(path: Path) -> bool:
    """Whether the user means a packed file rather than a run folder or a checkpoint."""
    return path.suffix == ".bnas"


def export_packed(path: Path, to: Path | None = None) -> tuple[Path, file.Packed]:
    """Pack the retrained network that `path` names into `to`, by default model.bnas beside its checkpoint."""
    files = find_trained(path)
    trained = load_trained(files)
    card = trained.card
    about = {"genotype": card.genotype.to_dict(), "spec": card.spec.to_dict(), "data": card.data}
    packed = export(
        trained.model,
        input_shape=card.spec.input_shape,
        classes=card.classes,
        mean=card.normalization.mean,
        std=card.normalization.std,
        about=about,
    )
    target = to or files.packed
    file.save(packed, target)
    return target, packed


def verify_packed(path: Path, checkpoint: Path | None = None) -> tuple[VerifyReport, str]:
    """Compare a packed file with the network that was trained, and say on which images."""
    packed = bnas.load(path)
    files = find_trained(checkpoint or path.parent)
    trained = load_trained(files)
    images, what = _images_to_verify(files, trained)
    return verify(trained.model, packed, images), what


def _images_to_verify(files: RunFiles, trained: TrainedNetwork) -> tuple[Tensor, str]:
    """Training images where the run's data is there, else noise from a fixed seed."""
    card = trained.card
    try:
        images = read_data(job_of(files)).train.images[:VERIFY_IMAGES]
        what = f"{len(images)} training images"
    except BnasError as error:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (VERIFY_IMAGES, *card.spec.input_shape), generator=generator, dtype=torch.uint8)
        what = f"{VERIFY_IMAGES} images of noise, because the data is not there ({error})"
    return card.normalization.apply(images), what


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on the test split; `note` when the network was not fully trained."""

    accuracy: float
    images: int
    classes: int
    what: str
    note: str | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "images": self.images,
            "classes": self.classes,
            "network": self.what,
            "note": self.note,
        }


def test_images(path: Path, data: Dataset | None) -> ImageSet:
    """The test split: of `data` where given, else of the job that lies beside `path`."""
    if data is None:
        data = read_data(job_of(find_trained(path.parent if is_packed_file(path) else path)))
    return data.test


def evaluate(path: Path, data: Dataset | None = None, limit: int | None = None) -> Evaluation:
    """Test accuracy of a packed file, by the packed runtime, or of a trained checkpoint, by torch."""
    test = test_images(path, data)
    if is_packed_file(path):
        network = bnas.load(path)
        return _evaluate_packed(network, test, limit)
    trained = load_trained(find_trained(path))
    batches = Batches(test, 256, seed=0, normalization=trained.card.normalization)
    return Evaluation(
        accuracy(trained.model, batches, limit),
        min(limit or len(test), len(test)),
        len(trained.card.classes),
        "trained, torch",
        trained.note,
    )


def _evaluate_packed(network: PackedNetwork, test: ImageSet, limit: int | None) -> Evaluation:
    count = min(limit or len(test), len(test))
    right = 0
    for images, labels in zip(test.images[:count].split(64), test.labels[:count].split(64), strict=True):
        right += int((network.predict(images).argmax(1) == labels).sum())
    return Evaluation(right / count, count, len(network.classes), f"packed, {network.backend}", None)


def read_image(path: Path, shape: tuple[int, int, int], resize: bool) -> Tensor:
    """An image file as uint8 [1, C, H, W] of the network's shape; grey or colour as the network wants."""
    channels, height, width = shape
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise BnasError(f"a network for {channels} channels does not read image files")
    try:
        with atomic.explaining("read", path), Image.open(path) as opened:
            image = opened.convert(modes[channels])
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BnasError(f"{path} is not an image that can be read: {error}") from None
    if image.size != (width, height):
        if not resize:
            raise BnasError(
                f"{path} has {image.size[1]} x {image.size[0]} pixels and the network takes {height} x {width}; "
                f"--resize fits it"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).reshape(height, width, channels)
    return pixels.permute(2, 0, 1).unsqueeze(0).contiguous()


def predict(path: Path, image: Path, *, resize: bool = False) -> Mapping[str, float]:
    """Class -> probability of one image file by a packed network, the most probable first."""
    network = bnas.load(path)
    logits = network.predict(read_image(image, network.program.input_shape, resize))
    probabilities = torch.softmax(torch.as_tensor(logits)[0].double(), 0).tolist()
    ranked = sorted(zip(network.classes, probabilities, strict=True), key=lambda pair: -pair[1])
    return dict(ranked)
