"""A folder of images with one folder for each class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bnas.data.decode import ENDINGS, Form, common_form, decode_all
from bnas.data.disk import contents, entries, no_download, require_folder
from bnas.data.images import Dataset, ImageSet
from bnas.errors import BnasError, nearest

_WANTED = "train/<class>/*.png and test/<class>/*.png (or val/; also .jpg and others)"
_SOURCE = "make one folder for each class, below train and test"


def read_folder(path: Path, *, size: object = None, workers: object = None) -> Dataset:
    """The images in `path`: train/<class>/* and test/<class>/*, or val/ where there is no test/.

    Classes are the folders of train/ by name. Images become 3 channels, or 1 where all are gray.
    size: pixels, one number (a square) or [height, width]; each image is stretched to it. Without it, all images must
    be of one size. workers: processes to decode with; 0 for none, as many as pay where not given.
    """
    pixels, processes = _checked_size(size), _checked_workers(workers)
    folder = require_folder(path, _WANTED, _SOURCE)
    held_out = next((name for name in ("test", "val") if (folder / name).is_dir()), None)
    if not (folder / "train").is_dir() or held_out is None:
        raise BnasError(f"no {_WANTED} in '{path}': found {contents(folder)}. {no_download(_SOURCE)}")
    train = _Split.of(folder / "train")
    empty = [name for name, files in train.files.items() if not files]
    if empty or not train.files:
        what = f"the class folder '{folder / 'train' / empty[0]}'" if empty else f"'{folder / 'train'}'"
        raise BnasError(f"no image in {what}; looked for {', '.join(ENDINGS)}")
    test = _Split.of(folder / held_out)
    for name in test.files:
        if name not in train.files:
            raise BnasError(f"'{folder / held_out / name}' is a class that train/ has not.{nearest(name, train.files)}")
    classes = tuple(train.files)
    form = common_form([*train.all_files(), *test.all_files()], pixels)
    return Dataset(
        folder.resolve().name,
        train.images(classes, form, processes),
        test.images(classes, form, processes),
        classes,
        _notes(folder, held_out, train, test),
    )


@dataclass
class _Split:
    """One of train/, test/, val/: its image files by class, and what is left out."""

    folder: Path
    files: dict[str, list[Path]] = field(default_factory=dict)
    left_out: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> "_Split":
        split = cls(folder)
        for entry in entries(folder):
            if entry.is_dir():
                inside = entries(entry)
                split.files[entry.name] = [file for file in inside if _is_image(file)]
                split.left_out += [file for file in inside if not _is_image(file)]
            else:
                split.left_out.append(entry)
        return split

    def all_files(self) -> list[Path]:
        return [file for files in self.files.values() for file in files]

    def images(self, classes: Sequence[str], form: Form, workers: int | None) -> ImageSet:
        files = self.all_files()
        if not files:
            raise BnasError(f"no image in '{self.folder}'; looked for {', '.join(ENDINGS)}")
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [numbers[name] for name, files in self.files.items() for _ in files]
        return ImageSet(torch.from_numpy(decode_all(files, form, workers)), torch.tensor(labels))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and file.is_file()


def _notes(folder: Path, held_out: str, train: _Split, test: _Split) -> tuple[str, ...]:
    notes = []
    if held_out == "test" and (folder / "val").is_dir():
        notes.append("val/ is not read: test/ is the test split, and a search splits train/ itself")
    unseen = [name for name in train.files if not test.files.get(name)]
    if unseen:
        notes.append(f"no test image of {', '.join(unseen)}")
    left_out = [*train.left_out, *test.left_out]
    if left_out:
        notes.append(f"{len(left_out)} entries are no images and were left out, the first is '{left_out[0]}'")
    return tuple(notes)


def _checked_size(size: object) -> tuple[int, int] | None:
    pair = [size, size] if type(size) is int else size
    if pair is None:
        return None
    if isinstance(pair, list | tuple) and len(pair) == 2 and all(type(side) is int and side > 0 for side in pair):
        return pair[0], pair[1]
    raise BnasError(f"size must be a number of pixels or [height, width]; found {size!r}")


def _checked_workers(workers: object) -> int | None:
    if workers is None or (type(workers) is int and 0 <= workers <= 256):
        return workers
    raise BnasError(f"workers must be a number of processes from 0 to 256; found {workers!r}")
