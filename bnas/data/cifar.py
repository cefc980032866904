"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from disk, in the official python and binary layouts."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bnas.data.cifar_records import SHAPE, Records, binary_records, pickled_classes, pickled_records, text_classes
from bnas.data.disk import contents, no_download, read_bytes, require_folder
from bnas.data.images import Dataset, ImageSet
from bnas.errors import BnasError, check_choice

# The largest official file, CIFAR-100's training split, has 155 MB.
MOST_BYTES = 2**30

_SOURCE = (
    "get an archive from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and give its folder or the parent"
)


@dataclass(frozen=True)
class Layout:
    """One official archive: its folder, its files with the records that each holds, how to read them, their md5."""

    folder: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    meta: str
    read_records: Callable[[bytes], Records]
    read_classes: Callable[[bytes], tuple[str, ...]]
    md5: Mapping[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, self.meta)

    def found_in(self, path: Path) -> Path | None:
        """The folder with this layout's data: `path` or the official folder in it; None where it holds no file of it."""
        for folder in (path, path / self.folder):
            if any((folder / name).is_file() for name in (*self.train, *self.test)):
                return folder
        return None


def read_cifar10(path: Path) -> Dataset:
    """CIFAR-10 from `path`: the unpacked folder (cifar-10-batches-py or cifar-10-batches-bin) or its parent.

    Where both layouts are there, python's is read. Each file is checked: its size, its labels, its records. Checksums
    and record counts other than the official ones are no errors, as subsets and re-encoded copies exist: they are
    notes of the data set. `BnasError` names the file that is missing, cut short, mislabelled or of another layout.
    """
    return _read("cifar10", path, _CIFAR10, {"cifar100": _cifar100("fine")})


def read_cifar100(path: Path, *, labels: str = "fine") -> Dataset:
    """CIFAR-100 from `path` (cifar-100-python, cifar-100-binary, or their parent), as `read_cifar10` does.

    labels: "fine" (100 classes) or "coarse" (the 20 superclasses).
    """
    check_choice("kind of CIFAR-100 labels", labels, ("fine", "coarse"))
    return _read("cifar100", path, _cifar100(labels), {"cifar10": _CIFAR10})


def _read(name: str, path: Path, layouts: tuple[Layout, ...], others: Mapping[str, tuple[Layout, ...]]) -> Dataset:
    wanted = " or ".join(f"{layout.folder}/ ({next(iter(layout.train))}, ...)" for layout in layouts)
    folder = require_folder(path, wanted, _SOURCE)
    for layout in layouts:
        place = layout.found_in(folder)
        if place is not None:
            return _read_layout(name, place, layout)
    for other, its_layouts in others.items():
        if any(layout.found_in(folder) for layout in its_layouts):
            raise BnasError(f"'{path}' holds {other}, not {name}: name that data set")
    raise BnasError(f"no {name} in '{path}': looked for {wanted}, found {contents(path)}. {no_download(_SOURCE)}")


def _read_layout(name: str, folder: Path, layout: Layout) -> Dataset:
    missing = [file for file in layout.files if not (folder / file).is_file()]
    if missing:
        raise BnasError(f"'{folder}' is not complete: {', '.join(missing)} missing. {no_download(_SOURCE)}")
    notes = _Notes(layout)
    content = _content(folder / layout.meta)
    notes.add(layout.meta, content)
    try:
        classes = layout.read_classes(content)
    except BnasError as error:
        raise error.within(f"'{folder / layout.meta}'") from None
    train = _read_split(folder, layout.train, layout, len(classes), notes)
    test = _read_split(folder, layout.test, layout, len(classes), notes)
    return Dataset(name, train, test, classes, notes.texts())


def _read_split(folder: Path, files: Mapping[str, int], layout: Layout, classes: int, notes: "_Notes") -> ImageSet:
    pixels, labels = [], []
    for file, official in files.items():
        content = _content(folder / file)
        notes.add(file, content)
        try:
            images, numbers = layout.read_records(content)
            _check_labels(numbers, classes)
        except BnasError as error:
            raise error.within(f"'{folder / file}'") from None
        if len(images) != official:
            notes.counts.append(f"{file} holds {len(images):,} images, the official file {official:,}")
        pixels.append(images)
        labels.append(numbers)
    images = np.concatenate(pixels).reshape(-1, *SHAPE)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(np.concatenate(labels)))


def _content(path: Path) -> bytes:
    content = read_bytes(path, MOST_BYTES)
    if not content:
        raise BnasError(f"'{path}' is empty")
    return content


def _check_labels(labels: np.ndarray, classes: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise BnasError(
            f"label {labels[wrong[0]]} at record {wrong[0]:,} ({len(wrong):,} of {len(labels):,} are out of range); "
            f"there are {classes} classes, labels 0 to {classes - 1}: the file is damaged or of another layout"
        )


class _Notes:
    """What the user should know about a copy: its checksums and record counts beside the official ones."""

    def __init__(self, layout: Layout) -> None:
        self.counts: list[str] = []
        self._layout = layout
        self._others: list[str] = []

    def add(self, file: str, content: bytes) -> None:
        if (
            file in self._layout.md5
            and hashlib.md5(content, usedforsecurity=False).hexdigest() != self._layout.md5[file]
        ):
            self._others.append(file)

    def texts(self) -> tuple[str, ...]:
        known = len(self._layout.md5)
        if not known:
            checksums = f"checksums not compared: none are known for the files of {self._layout.folder}"
        elif self._others:
            checksums = f"md5 differs from the official one (a re-encoded or changed copy): {', '.join(self._others)}"
        else:
            checksums = f"md5 of all {known} files is the official one"
        return (checksums, *self.counts)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

_CIFAR10 = (
    Layout(
        folder="cifar-10-batches-py",
        train=dict.fromkeys(_BATCHES, 10_000),
        test={"test_batch": 10_000},
        meta="batches.meta",
        read_records=pickled_records("labels"),
        read_classes=pickled_classes("label_names"),
        md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    Layout(
        folder="cifar-10-batches-bin",
        train=dict.fromkeys((f"{name}.bin" for name in _BATCHES), 10_000),
        test={"test_batch.bin": 10_000},
        meta="batches.meta.txt",
        read_records=binary_records(label_bytes=1, label_at=0),
        read_classes=text_classes,
        md5={},
    ),
)


def _cifar100(labels: str) -> tuple[Layout, ...]:
    return (
        Layout(
            folder="cifar-100-python",
            train={"train": 50_000},
            test={"test": 10_000},
            meta="meta",
            read_records=pickled_records(f"{labels}_labels"),
            read_classes=pickled_classes(f"{labels}_label_names"),
            md5={
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "meta": "7973b15100ade9c7d40fb424638fde48",
            },
        ),
        Layout(
            folder="cifar-100-binary",
            train={"train.bin": 50_000},
            test={"test.bin": 10_000},
            meta=f"{labels}_label_names.txt",
            # A coarse label byte, then a fine one.
            read_records=binary_records(label_bytes=2, label_at=("coarse", "fine").index(labels)),
            read_classes=text_classes,
            md5={},
        ),
    )
