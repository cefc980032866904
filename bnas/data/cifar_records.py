"""The bytes of one CIFAR file as arrays: records of the binary layout, pickles of the python layout."""

from collections.abc import Callable, Mapping

import numpy as np

from bnas.data.pickled import PickledArray, read_pickle
from bnas.errors import BnasError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32

Records = tuple[
    np.ndarray, np.ndarray
]  # pixels uint8 [N, 3072] (red, green, blue planes, row by row), labels int64 [N]


def binary_records(label_bytes: int, label_at: int) -> Callable[[bytes], Records]:
    """Reader of records of `label_bytes` label bytes, of which that at `label_at` counts, and 3,072 pixels."""

    def read(content: bytes) -> Records:
        size = label_bytes + PIXELS
        if len(content) % size:
            raise BnasError(
                f"its {len(content):,} bytes are not a whole number of records of {size:,} bytes: "
                "the file is cut short or of another layout"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        return records[:, label_bytes:], records[:, label_at].astype(np.int64)

    return read


def text_classes(content: bytes) -> tuple[str, ...]:
    """The class names in a text file, one a line."""
    return tuple(_decoded(line) for line in content.splitlines() if line.strip())


def pickled_records(label_key: str) -> Callable[[bytes], Records]:
    """Reader of a pickled dictionary with `data` and the labels under `label_key`."""

    def read(content: bytes) -> Records:
        batch = _dictionary(content)
        pixels = _array(batch, "data")
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
            raise BnasError(f"'data' must be uint8 [N, {PIXELS}]; found {pixels.dtype} {list(pixels.shape)}")
        labels = _array(batch, label_key)
        if labels.shape != (len(pixels),):
            raise BnasError(f"'data' has {len(pixels):,} images but '{label_key}' has shape {list(labels.shape)}")
        return pixels, labels.astype(np.int64)

    return read


def pickled_classes(key: str) -> Callable[[bytes], tuple[str, ...]]:
    """Reader of a pickled dictionary with the class names under `key`."""

    def read(content: bytes) -> tuple[str, ...]:
        names = _entry(_dictionary(content), key)
        if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
            raise BnasError(f"'{key}' must be a list of class names")
        return tuple(_decoded(name) if isinstance(name, bytes) else name for name in names)

    return read


def _dictionary(content: bytes) -> dict[str, object]:
    value = read_pickle(content)
    if not isinstance(value, dict):
        raise BnasError(f"it holds a {type(value).__name__}; a dictionary is expected")
    # Copies written by Python 3 have text where the official files have Python 2's strings.
    return {key.decode("latin-1") if isinstance(key, bytes) else key: entry for key, entry in value.items()}


def _entry(batch: Mapping[str, object], key: str) -> object:
    if key not in batch:
        found = ", ".join(sorted(batch)[:10]) or "none"
        raise BnasError(f"there is no '{key}' in it (keys: {found}): the file is of another layout")
    return batch[key]


def _array(batch: Mapping[str, object], key: str) -> np.ndarray:
    value = _entry(batch, key)
    if isinstance(value, PickledArray):
        return value.numpy()
    if not isinstance(value, list) or not all(type(item) is int and abs(item) < 2**31 for item in value):
        raise BnasError(f"'{key}' must be an array or a list of whole numbers")
    return np.array(value, dtype=np.int64)


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BnasError("the class names are not text") from None
