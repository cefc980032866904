"""Damaged files of every kind end in a data set or in a `BnasError`, never in another exception."""

import contextlib
import pickle
import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from bnas.data import Dataset, read
from bnas.data.pickled import read_pickle
from bnas.errors import BnasError

# A change at a place counted from the start or the end, where the structure of a file is: its middle is pixels.
PLACES = st.integers(-300, 300) | st.integers(-100_000, 100_000)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "cut", "insert", "delete"]), PLACES, st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def mutated(content: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    data = bytearray(content)
    for kind, place, value in changes:
        if not data:
            break
        at = place % len(data)
        match kind:
            case "flip":
                data[at] ^= 1 << value % 8
            case "set":
                data[at] = value
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = bytes([value]) * (1 + value % 5)
            case "delete":
                del data[at : at + 1 + value % 9]
    return bytes(data)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def cifar10_python(folder: Path, protocol: int) -> None:
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        batch = {b"labels": [0, 1], b"data": pixels(2, 3072), b"filenames": ["a.png", "b.png"]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c"]}, protocol))


def cifar100_binary(folder: Path) -> None:
    for name in ("train.bin", "test.bin"):
        records = pixels(2, 3074)
        records[:, :2] = [[0, 1], [1, 2]]
        (folder / name).write_bytes(records.tobytes())
    (folder / "fine_label_names.txt").write_text("a\nb\nc\n")
    (folder / "coarse_label_names.txt").write_text("a\nb\n")


def npz(folder: Path, save: Callable[..., None]) -> None:
    labels = np.array([0, 1])
    save(
        folder / "data.npz",
        train_images=pixels(2, 3, 4, 4),
        train_labels=labels,
        test_images=pixels(2, 3, 4, 4),
        test_labels=labels,
        classes=np.array(["a", "b", "c"]),
    )


def image_folder(folder: Path, ending: str) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            Image.fromarray(pixels(9, 7, 3)).save(folder / split / name / f"1.{ending}")


# name of the case -> data set, what writes it, the file that is damaged
CASES = {
    "cifar10, pickle 0": ("cifar10", lambda folder: cifar10_python(folder, 0), "data_batch_2"),
    "cifar10, pickle 2": ("cifar10", lambda folder: cifar10_python(folder, 2), "data_batch_2"),
    "cifar10, pickle 5": ("cifar10", lambda folder: cifar10_python(folder, 5), "data_batch_2"),
    "cifar10, class names": ("cifar10", lambda folder: cifar10_python(folder, 2), "batches.meta"),
    "cifar100, records": ("cifar100", cifar100_binary, "train.bin"),
    "cifar100, class names": ("cifar100", cifar100_binary, "fine_label_names.txt"),
    "npz, stored": ("npz", lambda folder: npz(folder, np.savez), "data.npz"),
    "npz, deflated": ("npz", lambda folder: npz(folder, np.savez_compressed), "data.npz"),
    **{
        f"folder, {ending}": ("folder", lambda folder, e=ending: image_folder(folder, e), f"train/b/1.{ending}")
        for ending in ("png", "jpg", "bmp", "webp", "ppm", "tif")
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_is_read_or_refused(tmp_path, case):
    name, make, damaged = CASES[case]
    make(tmp_path)
    path = tmp_path / damaged if name == "npz" else tmp_path
    whole = (tmp_path / damaged).read_bytes()
    assert isinstance(read(name, path), Dataset), "the case itself must be right"
    refused = []

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(CHANGES)
    def check(changes):
        (tmp_path / damaged).write_bytes(mutated(whole, changes))
        with warnings.catch_warnings():
            # Pillow and numpy warn of some damage; here it matters only what they raise.
            warnings.simplefilter("ignore")
            try:
                assert isinstance(read(name, path), Dataset)
            except BnasError as error:
                refused.append(str(error))

    check()
    assert refused, "no change was noticed: the damage did not reach the reader"
    assert all(str(tmp_path) in message or "label" in message or "class" in message for message in refused)


INSTRUCTIONS = [ord(instruction.code) for instruction in pickletools.opcodes]
PIECES = st.one_of(
    st.sampled_from([bytes([code]) for code in INSTRUCTIONS]),
    st.sampled_from([b"K\x01", b"X\x01\x00\x00\x00a", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"h\x00", b"q\x00"]),
    st.sampled_from([b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"\x85R", b"b", b"(", b"0"]),
    st.binary(max_size=6),
)


@settings(max_examples=1500, deadline=None, derandomize=True, database=None)
@given(st.lists(PIECES, max_size=25))
@example([b"N", b"r\xff\xff\xff\xff"])
def test_any_instructions_are_read_or_refused(pieces):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(BnasError):
            read_pickle(b"".join(pieces) + b".")
