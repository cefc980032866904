"""The steps after training: export, verify, evaluate, predict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

import bnas
from bnas import atomic
from bnas.data import Dataset, ImageSet, Normalization
from bnas.deploy import file
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import VerifyReport, verify
from bnas.errors import BnasError
from bnas.kernels import DEFAULT_BACKEND
from bnas.rundir import RunFiles
from experiments.api import job_of, read_data
from experiments.network import find_trained, load_trained

# Enough to compare every layer on; the parity of a layer does not depend on what the images show.
VERIFY_IMAGES = 64
EVALUATE_AT_ONCE = 64

Progress = Callable[[int, int], None]
"""Told how many images are done, of how many."""


def is_packed_file(path: Path) -> bool:
    """Whether the user means a packed file rather than a run folder or a checkpoint."""
    return path.suffix == ".bnas"


def load_packed(path: Path, backend: str | None = None) -> PackedNetwork:
    """The packed network in that file, run by the kernels of that name, by default `DEFAULT_BACKEND`."""
    if path.is_dir():
        raise BnasError(f"{path} is a folder; name the packed file in it, such as {path / 'model.bnas'}")
    return bnas.load(path, backend or DEFAULT_BACKEND)


def export_packed(path: Path, to: Path | None = None) -> tuple[Path, file.Packed]:
    """Pack the retrained network that `path` names into `to`, by default model.bnas beside its checkpoint."""
    if is_packed_file(path) and path.is_file():
        raise BnasError(
            f"{path} is packed already: --to c and --to onnx write it in other forms; "
            f"to pack anew, name the checkpoint or its folder"
        )
    files = find_trained(path)
    packed = pack(files)
    target = to or files.packed
    file.save(packed, target)
    return target, packed


def pack(files: RunFiles) -> file.Packed:
    """The retrained network, packed."""
    trained = load_trained(files)
    card = trained.card
    about = {"genotype": card.genotype.to_dict(), "spec": card.spec.to_dict(), "data": card.data}
    return export(
        trained.model,
        input_shape=card.spec.input_shape,
        classes=card.classes,
        mean=card.normalization.mean,
        std=card.normalization.std,
        about=about,
    )


def verify_packed(path: Path, checkpoint: Path | None = None, backend: str | None = None) -> tuple[VerifyReport, str]:
    """Compare a packed file with the network that was trained, and say on which images.

    `checkpoint`: of the trained network, or its folder; by default beside the file.
    """
    packed = load_packed(path, backend)
    files = (
        _beside(path, "name the trained network by --checkpoint") if checkpoint is None else find_trained(checkpoint)
    )
    trained = load_trained(files)
    card = trained.card
    images, what = images_to_compare(files, card.spec.input_shape, card.normalization, VERIFY_IMAGES)
    try:
        return verify(trained.model, packed, images), what
    except BnasError as error:
        raise error.within(f"{path} and {files.checkpoint}") from None


def _beside(packed: Path, otherwise: str) -> RunFiles:
    """The retraining in whose folder the packed file lies."""
    try:
        return find_trained(packed.parent)
    except BnasError as error:
        raise BnasError(f"{error} ({otherwise})") from None


def images_to_compare(
    files: RunFiles, shape: tuple[int, ...], normalization: Normalization, count: int
) -> tuple[Tensor, str]:
    """Normalized training images where the run's data is there, else noise from a fixed seed; and which they are."""
    try:
        images = read_data(job_of(files)).train.images[:count]
        what = f"{len(images)} training images"
    except BnasError as error:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        what = f"{count} images of noise, because the data is not there ({error})"
    return normalization.apply(images), what


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on the test split; `note` when the network was not fully trained, or on other classes."""

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


class _Judged(NamedTuple):
    """A network to evaluate: uint8 images [N, C, H, W] -> logits; `data` reads the images of the job beside it."""

    path: Path
    logits: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    what: str
    note: str | None
    data: Callable[[], Dataset]


def _all_judged(paths: Sequence[Path], backend: str | None) -> list[_Judged]:
    if backend is not None and not any(is_packed_file(path) for path in paths):
        raise BnasError(
            f"--backend {backend} chooses the kernels of a packed file, and torch runs {', '.join(map(str, paths))}: "
            f"name a model.bnas"
        )
    return [_judged(path, backend) for path in paths]


def _judged(path: Path, backend: str | None) -> _Judged:
    if is_packed_file(path):
        network = load_packed(path, backend)
        return _Judged(
            path,
            lambda images: torch.as_tensor(network.predict(images)),
            network.program.input_shape,
            network.classes,
            f"packed, back end {network.backend}",
            None,
            lambda: read_data(job_of(_beside(path, "name the images by --data"))),
        )
    files = find_trained(path)
    trained = load_trained(files)
    card = trained.card
    return _Judged(
        path,
        lambda images: trained.model(card.normalization.apply(images)),
        card.spec.input_shape,
        card.classes,
        "trained, torch",
        trained.note,
        lambda: read_data(job_of(files)),
    )


def evaluate(
    path: Path,
    data: Dataset | None = None,
    limit: int | None = None,
    *,
    backend: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Test accuracy of a packed file, by the packed runtime, or of a trained checkpoint, by torch.

    `data`: by default that of the job beside the file. `limit`: only the first so many test images. `backend`: the
    kernels that run a packed file; `BnasError` where there is none.
    """
    return _evaluated(_all_judged([path], backend), data, limit, progress)


def evaluate_ensemble(
    paths: Sequence[Path],
    data: Dataset | None = None,
    limit: int | None = None,
    *,
    backend: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Test accuracy of several networks together: the class of the largest mean of their softmax probabilities.

    All must know the same classes in the same order. The images are by default those of the first one's job.
    `backend`: of the packed files among them; `BnasError` where there is none.
    """
    networks = _all_judged(paths, backend)
    for other in networks[1:]:
        if other.classes != networks[0].classes:
            raise BnasError(f"{other.path} knows other classes than {networks[0].path}, or in another order")
    return _evaluated(networks, data, limit, progress)


def _evaluated(networks: Sequence[_Judged], data: Dataset | None, limit: int | None, progress: Progress) -> Evaluation:
    data = networks[0].data() if data is None else data
    notes = [note for n in networks for note in (_compared(n.path, n.shape, n.classes, data), n.note)]

    def mean(images: Tensor) -> Tensor:
        return torch.stack([n.logits(images).float().softmax(dim=1) for n in networks]).mean(dim=0)

    right = _right(mean if len(networks) > 1 else networks[0].logits, data.test, limit, progress)
    count = min(limit or len(data.test), len(data.test))
    what = (
        networks[0].what if len(networks) == 1 else f"{len(networks)} together ({'; '.join(n.what for n in networks)})"
    )
    return Evaluation(right / count, count, len(networks[0].classes), what, "; ".join(filter(None, notes)) or None)


def _compared(path: Path, shape: tuple[int, int, int], classes: tuple[str, ...], data: Dataset) -> str | None:
    """A note where the classes are called otherwise; `BnasError` where images or classes are not those of the network."""
    mine, given = " x ".join(map(str, shape)), " x ".join(map(str, data.input_shape))
    if mine != given:
        raise BnasError(f"{path} takes images of {mine}; those of data set '{data.name}' are {given}")
    if len(classes) != data.num_classes:
        raise BnasError(f"{path} knows {len(classes)} classes; data set '{data.name}' has {data.num_classes}")
    differing = [(a, b) for a, b in zip(classes, data.classes, strict=True) if a != b]
    if not differing:
        return None
    (a, b), count = differing[0], len(differing)
    return f"{count} of {len(classes)} classes have other names than in the training: '{a}' is '{b}' in the data"


@torch.no_grad()
def _right(network: Callable[[Tensor], Tensor], test: ImageSet, limit: int | None, progress: Progress) -> int:
    """How many of the first `limit` test images the network classifies as labelled."""
    count = min(limit or len(test), len(test))
    right = done = 0
    pairs = (test.images[:count].split(EVALUATE_AT_ONCE), test.labels[:count].split(EVALUATE_AT_ONCE))
    for images, labels in zip(*pairs, strict=True):
        right += int((network(images).argmax(1) == labels).sum())
        done += len(labels)
        progress(done, count)
    return right


def read_image(path: Path, shape: tuple[int, int, int], resize: bool) -> Tensor:
    """An image file as uint8 [1, C, H, W] of the network's shape; grey or colour as the network wants."""
    channels, height, width = shape
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise BnasError(f"a network for {channels} channels does not read image files")
    try:
        with path.open("rb") as file, Image.open(file) as opened:
            image = opened.convert(modes[channels])
    except UnidentifiedImageError:
        raise BnasError(f"{path} is not an image, or of a kind that cannot be read") from None
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise BnasError(f"{path} is not an image that can be read: {error}") from None
    except OSError as error:
        # Also what Pillow raises for an image that is cut off, then without a number.
        if error.errno is None:
            raise BnasError(f"{path} is not an image that can be read: {error}") from None
        raise atomic.explained(error, "read", path) from None
    if image.size != (width, height):
        if not resize:
            raise BnasError(
                f"{path} is {image.size[1]} pixels high and {image.size[0]} wide, the network takes {height} x {width}; "
                f"--resize fits it"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).reshape(height, width, channels)
    return pixels.permute(2, 0, 1).unsqueeze(0).contiguous()


@dataclass(frozen=True)
class Prediction:
    """Class -> probability, the most probable first, and the name of the kernels that ran."""

    probabilities: Mapping[str, float]
    backend: str

    def to_dict(self) -> dict[str, Any]:
        return {"probabilities": dict(self.probabilities), "backend": self.backend}


def predict(path: Path, image: Path, *, resize: bool = False, backend: str | None = None) -> Prediction:
    """What one image file shows, by a packed network."""
    network = load_packed(path, backend)
    logits = network.predict(read_image(image, network.program.input_shape, resize))
    probabilities = torch.softmax(torch.as_tensor(logits)[0].double(), 0).tolist()
    ranked = sorted(zip(network.classes, probabilities, strict=True), key=lambda pair: -pair[1])
    return Prediction(dict(ranked), network.backend)
