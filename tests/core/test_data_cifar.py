"""CIFAR in its official layouts: small files of each, whole and spoilt."""

import dataclasses
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bnas.data import Dataset, read
from bnas.data.cifar import _CIFAR10, read_cifar10
from bnas.errors import BnasError

BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
NAMES = ["airplane", "automobile", "bird"]
FINE, COARSE = ["apple", "aquarium_fish", "baby", "bear"], ["fish", "fruit"]


def records(count: int, seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, classes, count)


def write_cifar10(parent: Path, layout: str, count: int = 4) -> Path:
    folder = parent / {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}[layout]
    folder.mkdir(parents=True)
    for seed, name in enumerate([*BATCHES, "test_batch"]):
        pixels, labels = records(count, seed, len(NAMES))
        if layout == "binary":
            whole = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(whole.tobytes())
        else:
            batch = {
                b"batch_label": b"x",
                b"labels": labels.tolist(),
                b"data": pixels,
                b"filenames": [b"a.png"] * count,
            }
            (folder / name).write_bytes(pickle.dumps(batch, 2))
    if layout == "binary":
        (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    else:
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES, "num_vis": 3072}, 2))
    return folder


def write_cifar100(parent: Path, layout: str, count: int = 6) -> Path:
    folder = parent / {"python": "cifar-100-python", "binary": "cifar-100-binary"}[layout]
    folder.mkdir(parents=True)
    for seed, name in enumerate(["train", "test"]):
        pixels, fine = records(count, seed, len(FINE))
        coarse = fine // 2
        if layout == "binary":
            labels = np.stack([coarse, fine], axis=1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(np.concatenate([labels, pixels], axis=1).tobytes())
        else:
            batch = {"fine_labels": fine.tolist(), "coarse_labels": coarse.tolist(), "data": pixels}
            (folder / name).write_bytes(pickle.dumps(batch, 4))
    if layout == "binary":
        (folder / "fine_label_names.txt").write_text("\n".join(FINE))
        (folder / "coarse_label_names.txt").write_text("\n".join(COARSE))
    else:
        meta = {"fine_label_names": FINE, "coarse_label_names": COARSE}
        (folder / "meta").write_bytes(pickle.dumps(meta, 4))
    return folder


def check_cifar10(data: Dataset, count: int = 4) -> None:
    assert data.classes == tuple(NAMES)
    assert data.input_shape == (3, 32, 32)
    pixels, labels = zip(*(records(count, seed, len(NAMES)) for seed in range(5)), strict=True)
    assert np.array_equal(data.train.images.flatten(1).numpy(), np.concatenate(pixels))
    assert data.train.labels.tolist() == np.concatenate(labels).tolist()
    pixels, labels = records(count, 5, len(NAMES))
    assert np.array_equal(data.test.images.flatten(1).numpy(), pixels)
    assert data.test.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_cifar10_at_its_folder_and_at_the_parent(tmp_path, layout):
    folder = write_cifar10(tmp_path, layout)
    check_cifar10(read("cifar10", folder))
    check_cifar10(read("cifar10", str(tmp_path)))


@pytest.mark.parametrize("layout", ["python", "binary"])
@pytest.mark.parametrize(("labels", "names"), [("fine", FINE), ("coarse", COARSE)])
def test_cifar100_with_fine_and_coarse_labels(tmp_path, layout, labels, names):
    folder = write_cifar100(tmp_path, layout)
    for path in (folder, tmp_path):
        data = read("cifar100", path, labels=labels)
        assert data.classes == tuple(names)
        for split, images in enumerate((data.train, data.test)):
            pixels, fine = records(6, split, len(FINE))
            assert np.array_equal(images.images.flatten(1).numpy(), pixels)
            assert images.labels.tolist() == (fine if labels == "fine" else fine // 2).tolist()


def test_pixels_are_planes_row_by_row(tmp_path):
    folder = write_cifar10(tmp_path, "binary", count=1)
    record = np.zeros(3073, np.uint8)
    record[1 + 2 * 1024 + 3 * 32 + 5] = 77
    (folder / "test_batch.bin").write_bytes(record.tobytes())
    assert torch.nonzero(read("cifar10", folder).test.images).tolist() == [[0, 2, 3, 5]]


def test_notes_tell_of_other_counts_and_checksums(tmp_path):
    notes = read("cifar10", write_cifar10(tmp_path, "python")).notes
    assert notes[0].startswith("md5 differs from the official one (a re-encoded or changed copy): batches.meta, data_b")
    assert "data_batch_3 holds 4 images, the official file 10,000" in notes
    notes = read("cifar100", write_cifar100(tmp_path, "binary")).notes
    assert notes[0] == "checksums not compared: none are known for the files of cifar-100-binary"
    assert "train.bin holds 6 images, the official file 50,000" in notes


def test_notes_tell_of_the_official_checksums(tmp_path, monkeypatch):
    folder = write_cifar10(tmp_path, "python")
    official = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in _CIFAR10[0].md5}
    known = dataclasses.replace(_CIFAR10[0], md5=official)
    monkeypatch.setattr("bnas.data.cifar._CIFAR10", (known,))
    assert read_cifar10(folder).notes[0] == "md5 of all 7 files is the official one"


def test_a_missing_folder_says_what_was_looked_for_and_how_to_get_it(tmp_path):
    with pytest.raises(BnasError) as error:
        read("cifar10", tmp_path / "nowhere")
    for part in (
        f"there is no folder '{tmp_path / 'nowhere'}'",
        "cifar-10-batches-py/ (data_batch_1, ...) or cifar-10-batches-bin/ (data_batch_1.bin, ...)",
        "bnas never downloads data: get an archive from https://www.cs.toronto.edu/~kriz/cifar.html",
    ):
        assert part in str(error.value)


def test_an_archive_that_is_not_unpacked(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"x")
    with pytest.raises(
        BnasError, match=r"is a file; looked for a folder with .* \(an archive must be unpacked first\)"
    ):
        read("cifar10", tmp_path / "cifar-10-python.tar.gz")


def test_a_folder_of_another_layout(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(
        BnasError, match=r"no cifar10 in '.*': looked for .*, found readme.txt, train/\. bnas never down"
    ):
        read("cifar10", tmp_path)
    with pytest.raises(BnasError, match="no cifar100 in"):
        read("cifar100", tmp_path)


def test_the_other_cifar_is_named(tmp_path):
    write_cifar100(tmp_path / "a", "python")
    write_cifar10(tmp_path / "b", "binary")
    with pytest.raises(BnasError, match="holds cifar100, not cifar10: name that data set"):
        read("cifar10", tmp_path / "a")
    with pytest.raises(BnasError, match="holds cifar10, not cifar100: name that data set"):
        read("cifar100", tmp_path / "b")


@pytest.mark.parametrize(("layout", "name"), [("python", "data_batch_3"), ("binary", "batches.meta.txt")])
def test_an_incomplete_folder_names_the_missing_file(tmp_path, layout, name):
    folder = write_cifar10(tmp_path, layout)
    (folder / name).unlink()
    with pytest.raises(BnasError, match=f"is not complete: {name} missing"):
        read("cifar10", folder)


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_a_file_cut_short_is_named(tmp_path, layout):
    folder = write_cifar10(tmp_path, layout)
    file = folder / ("data_batch_2" + (".bin" if layout == "binary" else ""))
    file.write_bytes(file.read_bytes()[:-1000])
    message = (
        "11,292 bytes are not a whole number of records of 3,073 bytes" if layout == "binary" else "not a whole pick"
    )
    with pytest.raises(BnasError, match=f"{file.name}': it.*{message}"):
        read("cifar10", folder)


def test_an_empty_file_is_named(tmp_path):
    folder = write_cifar10(tmp_path, "binary")
    (folder / "test_batch.bin").write_bytes(b"")
    with pytest.raises(BnasError, match=r"test_batch\.bin' is empty"):
        read("cifar10", folder)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("bnas.data.cifar.MOST_BYTES", 5000)
    with pytest.raises(BnasError, match=r"data_batch_1\.bin' has 12,292 bytes; at most 5,000 are expected"):
        read("cifar10", write_cifar10(tmp_path, "binary"))


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_a_label_out_of_range_is_named(tmp_path, layout):
    folder = write_cifar10(tmp_path, layout)
    if layout == "binary":
        file = folder / "data_batch_4.bin"
        content = bytearray(file.read_bytes())
        content[3073 * 2] = 3
        file.write_bytes(content)
    else:
        file = folder / "data_batch_4"
        batch = pickle.loads(file.read_bytes())
        batch[b"labels"][2] = 3
        file.write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(BnasError, match=rf"{file.name}': label 3 at record 2 \(1 of 4 are out of range\); there are 3"):
        read("cifar10", folder)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "it holds a list; a dictionary is expected"),
        ({"labels": [0]}, r"there is no 'data' in it \(keys: labels\): the file is of another layout"),
        ({"labels": [0], "data": [1, 2]}, r"'data' must be uint8 \[N, 3072\]; found int64 \[2\]"),
        ({"labels": [0], "data": np.zeros((1, 3072), np.int32)}, r"must be uint8 \[N, 3072\]; found int32 \[1, 3072\]"),
        ({"labels": [0], "data": np.zeros((1, 3072))}, "a numpy array of type 'f8'; only whole numbers"),
        ({"labels": [0, 1], "data": np.zeros((1, 3072), np.uint8)}, r"has 1 images but 'labels' has shape \[2\]"),
        (
            {"labels": ["a"], "data": np.zeros((1, 3072), np.uint8)},
            "'labels' must be an array or a list of whole numbers",
        ),
        ({"labels": [2**70], "data": np.zeros((1, 3072), np.uint8)}, "'labels' must be an array or a list of whole"),
    ],
)
def test_a_batch_of_another_form_is_refused(tmp_path, batch, message):
    folder = write_cifar10(tmp_path, "python")
    (folder / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(BnasError, match=f"test_batch': .*{message}"):
        read("cifar10", folder)


def test_class_names_must_be_text(tmp_path):
    folder = write_cifar10(tmp_path, "python")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": "airplane"}, 2))
    with pytest.raises(BnasError, match=r"batches\.meta': 'label_names' must be a list of class names"):
        read("cifar10", folder)
    folder = write_cifar10(tmp_path / "other", "binary")
    (folder / "batches.meta.txt").write_bytes(b"\xff\xfe\n\xff")
    with pytest.raises(BnasError, match=r"batches\.meta\.txt': the class names are not text"):
        read("cifar10", folder)


def test_options_are_checked(tmp_path):
    with pytest.raises(
        BnasError, match=r"'cifar100' has no option 'label'; it takes: labels\. Did you mean 'labels'\?"
    ):
        read("cifar100", tmp_path, label="fine")
    with pytest.raises(BnasError, match="no kind of CIFAR-100 labels named 'medium'; there are: fine, coarse"):
        read("cifar100", tmp_path, labels="medium")
    with pytest.raises(BnasError, match="'cifar10' is read from disk: give the path of its folder or file"):
        read("cifar10")
