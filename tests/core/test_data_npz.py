"""Data sets in .npz files, and what must be refused in them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from bnas.data import Dataset, read
from bnas.errors import BnasError


def arrays(shape: tuple[int, ...] = (5, 7, 3), classes: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (9, *shape), dtype=np.uint8),
        "train_labels": np.arange(9) % classes,
        "test_images": rng.integers(0, 256, (4, *shape), dtype=np.uint8),
        "test_labels": np.arange(4) % classes,
    }


def write(path: Path, **changes: object) -> Path:
    """A data set of [N, 5, 7, 3] with some arrays changed, or left out where the change is None."""
    content = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez(path / "made_up.npz", **content)
    return path / "made_up.npz"


def refused(path: Path, **options: object) -> str:
    with pytest.raises(BnasError) as error:
        read("npz", path, **options)
    assert str(error.value).startswith(f"'{path}': ")
    return str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((5, 7, 3), (0, 3, 1, 2)), ((1, 5, 7), (0, 1, 2, 3)), ((5, 7, 1), (0, 3, 1, 2))]
)
def test_channels_are_found_first_and_last(tmp_path, save, order, shape, axes):
    content = arrays(shape)
    save(tmp_path / "made_up.npz", **{key: np.asarray(value, order=order) for key, value in content.items()})
    data = read("npz", tmp_path / "made_up.npz")
    assert data.name == "made_up"
    assert data.classes == ("0", "1", "2", "3")
    for split, images in (("train", data.train), ("test", data.test)):
        assert np.array_equal(images.images.numpy(), content[f"{split}_images"].transpose(axes))
        assert images.labels.tolist() == content[f"{split}_labels"].tolist()


def test_images_without_channels_are_gray(tmp_path):
    content = arrays((5, 7))
    np.savez(tmp_path / "gray.npz", **content)
    data = read("npz", tmp_path / "gray.npz")
    assert data.input_shape == (1, 5, 7)
    assert np.array_equal(data.train.images[:, 0].numpy(), content["train_images"])


@pytest.mark.parametrize(("layout", "shape"), [("nchw", (3, 5, 1)), ("nhwc", (1, 3, 5))])
def test_an_open_layout_needs_the_option(tmp_path, layout, shape):
    np.savez(tmp_path / "open.npz", **arrays((3, 5, 1)))
    message = refused(tmp_path / "open.npz")
    assert "'train_images' of shape [9, 3, 5, 1] may have its channels first or last: give the option layout" in message
    assert read("npz", tmp_path / "open.npz", layout=layout).input_shape == shape


def test_any_number_of_channels_with_the_option(tmp_path):
    np.savez(tmp_path / "many.npz", **arrays((5, 7, 6)))
    assert "may have its channels first or last" in refused(tmp_path / "many.npz")
    assert read("npz", tmp_path / "many.npz", layout="nhwc").input_shape == (6, 5, 7)


@pytest.mark.parametrize("kind", [np.array(["a", "ä", "c", "d"]), np.array(["a", "ä", "c", "d"]).astype(object)])
def test_class_names(tmp_path, kind):
    names = kind if kind.dtype != object else np.array([name.encode() for name in kind])
    assert read("npz", write(tmp_path, classes=names)).classes == ("a", "ä", "c", "d")


def test_labels_in_a_column(tmp_path):
    labels = (np.arange(9) % 4).reshape(9, 1).astype(np.uint8)
    assert read("npz", write(tmp_path, train_labels=labels)).train.labels.tolist() == labels[:, 0].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_labels": None, "test_label": np.zeros(4, int)},
            "there is no 'test_labels' in it (keys: train_images, ",
        ),
        ({"test_labels": None, "test_label": np.zeros(4, int)}, "Did you mean 'test_label'?"),
        ({"train_images": np.zeros((9, 5, 7, 3))}, "'train_images' must be uint8; found float64"),
        (
            {"train_images": np.zeros((9, 5), np.uint8)},
            "must have 4 axes, or 3 where there is no channel; found shape [9, 5]",
        ),
        ({"train_labels": np.zeros(9)}, "'train_labels' must be whole numbers; found float64"),
        ({"train_labels": np.zeros((9, 2), int)}, "'train_labels' must have shape [N] or [N, 1]; found [9, 2]"),
        ({"train_labels": np.arange(8) % 4}, "the train split: 9 images but 8 labels"),
        ({"test_labels": np.array([0, 1, -1, 2])}, "label -1 in 'test_labels' at image 2; labels count from 0"),
        (
            {"test_labels": np.array([0, 2**63, 1, 2], np.uint64)},
            "label 9223372036854775808 in 'test_labels' at image 1",
        ),
        ({"test_labels": np.array([0, 1, 7, 2])}, "label 7 at test image 2; there are 4 classes, labels 0 to 3"),
        ({"train_labels": np.arange(9) * 2}, "label 16 among only 9 training images; if it is right, give 'classes'"),
        ({"classes": np.array(["a", "b"])}, "label 3 at training image 3; there are 2 classes"),
        ({"classes": np.arange(4)}, "'classes' must be text; found int64"),
        ({"classes": np.array([["a", "b"], ["c", "d"]])}, "'classes' must have shape [classes]; found [2, 2]"),
        ({"classes": np.array([b"\xff", b"b", b"c", b"d"])}, "'classes' holds what is not text"),
        ({"classes": np.array(["a", "b\n", "c", "d"])}, r"class names must be printable text; found 'b\n'"),
        ({"test_images": np.zeros((4, 5, 8, 3), np.uint8)}, "(3, 5, 7) (C, H, W) but test images (3, 5, 8)"),
        ({"test_images": np.zeros((0, 5, 7, 3), np.uint8), "test_labels": np.zeros(0, int)}, "there are no images"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    assert message in refused(write(tmp_path, **changes))


def test_pickled_objects_are_refused(tmp_path):
    path = write(tmp_path, classes=np.array(["a", {}, "c", "d"], dtype=object))
    assert "'classes' must be text; found object" in refused(path)


def test_a_missing_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        BnasError, match=r"there is no file '.*nowhere\.npz'; looked for a \.npz file with train_images,"
    ):
        read("npz", tmp_path / "nowhere.npz")


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"not an archive")
    assert "it is not a whole .npz file" in refused(tmp_path / "no.npz")


def test_a_file_cut_short(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    assert "it is not a whole .npz file" in refused(path)


def with_header(path: Path, shape: str) -> Path:
    """A file whose 'train_images' announces another shape than it has."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(path.with_name("other.npz"), "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "train_images.npy":
                content = b"\x93NUMPY\x01\x00v\x00" + header.encode() + content[128:]
            target.writestr(name, content)
    return path.with_name("other.npz")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(1048576, 1048576, 1048576, 3)", "'train_images' announces 3,458,764,513,820,540,928 bytes"),
        ("(9, 5, 7, 2)", "'train_images' announces 630 bytes (shape [9, 5, 7, 2]) but 945 follow"),
        ("(-9, -5, 7, 3)", "(shape [-9, -5, 7, 3]) but 945 follow"),
    ],
)
def test_sizes_are_compared_with_the_file_before_memory_is_taken(tmp_path, shape, message):
    assert message in refused(with_header(write(tmp_path), shape))


def test_the_right_header_written_by_hand_is_read(tmp_path):
    assert isinstance(read("npz", with_header(write(tmp_path), "(9, 5, 7, 3)")), Dataset)


def test_a_set_larger_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bnas.data.disk._memory_bytes", lambda: 1000)
    assert "'train_images' would take 0.0 GiB in memory; this machine allows 0.0 GiB for it" in refused(write(tmp_path))


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(
        BnasError, match=r"no layout of images named 'nwhc'; there are: nchw, nhwc\. Did you mean 'nhwc'"
    ):
        read("npz", write(tmp_path), layout="nwhc")
