"""Images and labels from a `.npz` file of numpy arrays; object arrays (pickles) are refused."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch

from bnas.data.disk import check_memory, no_download
from bnas.data.images import Dataset, ImageSet
from bnas.errors import BnasError, check_choice, nearest

SPLIT_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
LAYOUTS = ("nchw", "nhwc")


def read_npz(path: Path, *, layout: str | None = None) -> Dataset:
    """The data set in the file `path`, written by `numpy.savez` or `savez_compressed`.

    Keys: train_images, test_images: uint8 [N, C, H, W], [N, H, W, C] or [N, H, W]; train_labels, test_labels: whole
    numbers [N] or [N, 1]; classes (may be missing: then labels are named by their numbers): text [classes].
    layout: "nchw" or "nhwc", needed only where the shape leaves it open, which it does unless exactly one of the two
    axes that can be the channels has size 1 or 3. `BnasError` for anything else; sizes are compared with the file
    before memory is taken.
    """
    if layout is not None:
        check_choice("layout of images", layout, LAYOUTS)
    if not path.is_file():
        raise BnasError(
            f"there is no file '{path}'; looked for a .npz file with {', '.join(SPLIT_KEYS)}. "
            + no_download("write it with numpy.savez")
        )
    try:
        arrays = _read_arrays(path)
        train_images, axes = _channels_first("train_images", arrays["train_images"], layout)
        test_images, _ = _channels_first("test_images", arrays["test_images"], axes)
        train = _image_set("train", train_images, arrays["train_labels"])
        test = _image_set("test", test_images, arrays["test_labels"])
        classes = _class_names(arrays["classes"]) if "classes" in arrays else _numbered(train)
        return Dataset(path.stem, train, test, classes)
    except BnasError as error:
        raise error.within(f"'{path}'") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for key in SPLIT_KEYS:
                if key not in names:
                    found = ", ".join(names[:10]) or "nothing"
                    raise BnasError(f"there is no '{key}' in it (keys: {found}).{nearest(key, names)}")
            keys = [*SPLIT_KEYS, *(["classes"] if "classes" in names else [])]
            return {key: _read_array(archive, key) for key in keys}
    except BnasError:
        raise
    except Exception as error:
        # zipfile, zlib and numpy raise a dozen kinds for damaged bytes, and nothing else is done here.
        raise BnasError(f"it is not a whole .npz file ({error})") from None


def _read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as file:
        shape, fortran, dtype = _read_header(file)
        _check_type(key, dtype)
        announced, stored = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if min(shape, default=0) < 0 or announced != stored:
            raise BnasError(f"'{key}' announces {announced:,} bytes (shape {list(shape)}) but {stored:,} follow")
        check_memory(f"'{key}'", announced)
        values = np.frombuffer(file.read(), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise BnasError(f"it has arrays of format {version}; 1.0 and 2.0 are read")


def _check_type(key: str, dtype: np.dtype) -> None:
    if key == "classes":
        allowed, wanted = dtype.kind in "US" and dtype.itemsize > 0, "text"
    elif key.endswith("images"):
        allowed, wanted = dtype == np.uint8, "uint8"
    else:
        allowed, wanted = dtype.kind in "iu", "whole numbers"
    if not allowed:
        raise BnasError(f"'{key}' must be {wanted}; found {dtype}")


def _channels_first(key: str, images: np.ndarray, layout: str | None) -> tuple[np.ndarray, str | None]:
    """[N, C, H, W], and the layout that was given or seen."""
    if images.ndim == 3:
        return images[:, None], layout
    if images.ndim != 4:
        raise BnasError(f"'{key}' must have 4 axes, or 3 where there is no channel; found shape {list(images.shape)}")
    if layout is None:
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if first == last:
            raise BnasError(
                f"'{key}' of shape {list(images.shape)} may have its channels first or last: "
                "give the option layout: nchw or nhwc"
            )
        layout = "nchw" if first else "nhwc"
    return (images if layout == "nchw" else images.transpose(0, 3, 1, 2)), layout


def _image_set(split: str, images: np.ndarray, labels: np.ndarray) -> ImageSet:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise BnasError(f"'{split}_labels' must have shape [N] or [N, 1]; found {list(labels.shape)}")
    outside = np.flatnonzero((labels < 0) | (labels > 2**31))
    if len(outside):
        raise BnasError(f"label {labels[outside[0]]} in '{split}_labels' at image {outside[0]:,}; labels count from 0")
    try:
        # A copy: the bytes of a file are read-only, which tensors cannot be.
        return ImageSet(torch.from_numpy(np.array(images, order="C")), torch.from_numpy(labels.astype(np.int64)))
    except BnasError as error:
        raise error.within(f"the {split} split") from None


def _class_names(names: np.ndarray) -> tuple[str, ...]:
    if names.ndim != 1:
        raise BnasError(f"'classes' must have shape [classes]; found {list(names.shape)}")
    try:
        return tuple(name.decode("utf-8") if isinstance(name, bytes) else name for name in names.tolist())
    except ValueError:
        raise BnasError("'classes' holds what is not text") from None


def _numbered(train: ImageSet) -> tuple[str, ...]:
    largest = int(train.labels.max())
    if largest >= len(train):
        raise BnasError(f"label {largest} among only {len(train)} training images; if it is right, give 'classes'")
    return tuple(str(number) for number in range(largest + 1))
