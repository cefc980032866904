"""Image sets, data sets, normalization and the split of a search."""

import sys

import numpy as np
import pytest
import torch

from bnas.data import Dataset, ImageSet, Normalization, read, split_for_search
from bnas.data.splits import stratified
from bnas.errors import BnasError


def made_up(count: int = 20, shape: tuple[int, int, int] = (3, 4, 5), classes: int = 4) -> ImageSet:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % classes)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 1, 3, 3),
            torch.zeros(2).long(),
            r"images must be uint8 \[N, C, H, W\]; found float32 \[2, 1, 3, 3\]",
        ),
        (torch.zeros(2, 3, 3).byte(), torch.zeros(2).long(), r"found uint8 \[2, 3, 3\]"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2), r"labels must be int64 \[N\]; found float32 \[2\]"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(3).long(), "2 images but 3 labels"),
        (torch.zeros(0, 1, 3, 3).byte(), torch.zeros(0).long(), r"no images: the shape is \(0, 1, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.tensor([0, -1]), "label -1 at image 1; labels count from 0"),
    ],
)
def test_an_image_set_refuses_what_is_not_one(images, labels, message):
    with pytest.raises(BnasError, match=message):
        ImageSet(images, labels)


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (made_up(classes=1), made_up(classes=1), ("a",), r"at least two classes; found \['a'\]"),
        (made_up(classes=2), made_up(classes=2), ("a", "a"), "class names must differ; found more than once: a"),
        (
            made_up(),
            made_up(shape=(3, 5, 4)),
            ("a", "b", "c", "d"),
            r"\(3, 4, 5\) \(C, H, W\) but test images \(3, 5, 4\)",
        ),
        (made_up(classes=2), made_up(), ("a", "b", "c"), "label 3 at test image 3; there are 3 classes, labels 0 to 2"),
    ],
)
def test_a_data_set_refuses_what_does_not_fit_together(train, test, classes, message):
    with pytest.raises(BnasError, match=message):
        Dataset("made_up", train, test, classes)


def test_shape_and_classes_come_from_the_data():
    data = Dataset("made_up", made_up(), made_up(8), ("a", "b", "c", "d"))
    assert data.input_shape == (3, 4, 5)
    assert data.num_classes == 4


def test_normalization_is_that_of_numpy():
    images = made_up(50, (3, 6, 7))
    scaled = images.images.numpy().astype(np.float64) / 255
    found = Normalization.of(images)
    assert found.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), rel=1e-12)
    assert found.std == pytest.approx(scaled.std(axis=(0, 2, 3)), rel=1e-12)
    normalized = found.apply(images.images)
    assert normalized.dtype == torch.float32
    expected = (scaled - np.array(found.mean)[:, None, None]) / np.array(found.std)[:, None, None]
    assert np.allclose(normalized.numpy(), expected, atol=1e-5)


def test_normalization_refuses_a_constant_channel():
    images = made_up().images.clone()
    images[:, 1] = 7
    with pytest.raises(BnasError, match="channel 1 has the value 7 in every pixel"):
        Normalization.of(ImageSet(images, made_up().labels))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.5, 0.5), "one number a channel; found 1 and 2"),
        ((), (), "one number a channel; found 0 and 0"),
        ((0.5,), (0.0,), r"std must be above 0 in every channel; found \[0.0\]"),
        ((float("nan"),), (1.0,), "must be finite"),
    ],
)
def test_a_given_normalization_is_checked(mean, std, message):
    with pytest.raises(BnasError, match=message):
        Normalization(mean, std)


def test_normalization_of_other_channels_is_refused():
    with pytest.raises(BnasError, match="mean and std are for 1 channels; the images have 3"):
        Normalization((0.5,), (0.5,)).apply(made_up().images)


@pytest.mark.parametrize(("fraction", "size"), [(0.5, 50), (0.25, 25), (0.9, 90), (0.37, 37)])
def test_a_split_is_stratified_and_complete(fraction, size):
    labels = torch.tensor([0] * 51 + [1] * 33 + [3] * 16)
    first, second = stratified(labels, size, seed=5)
    assert len(first) == size
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(100))
    for label in (0, 1, 3):
        count = int((labels == label).sum())
        assert abs(int((labels[first] == label).sum()) - fraction * count) < 1
    images, rest = split_for_search(ImageSet(torch.arange(100).byte().view(-1, 1, 1, 1), labels), fraction, seed=5)
    assert torch.equal(images.images.flatten().long(), first)
    assert torch.equal(rest.images.flatten().long(), second)
    assert torch.equal(images.labels, labels[first])


def test_a_split_is_fixed_by_its_seed():
    labels = made_up(200).labels
    assert torch.equal(stratified(labels, 100, 1)[0], stratified(labels, 100, 1)[0])
    assert not torch.equal(stratified(labels, 100, 1)[0], stratified(labels, 100, 2)[0])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(BnasError, match="the fraction of images to train on must be between 0 and 1; found"):
        split_for_search(made_up(), fraction, seed=0)


def test_a_fraction_that_leaves_a_part_empty_is_refused():
    with pytest.raises(BnasError, match=r"a fraction of 0\.01 of 20 images leaves one of the two parts empty"):
        split_for_search(made_up(20), 0.01, seed=0)


def test_digits_are_split_once_and_for_all():
    digits = read("digits")
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.input_shape == (1, 8, 8)
    assert digits.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert int(digits.train.images.max()) == 240
    assert digits.test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    # Another split would make all published figures on it incomparable.
    assert digits.test.labels[:12].tolist() == [3, 4, 6, 1, 4, 6, 0, 1, 3, 3, 4, 6]
    assert digits.test.images.long().sum().item() == 1681635


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(BnasError, match=r"pip install 'bnas\[digits\]'"):
        read("digits")


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(BnasError, match=r"no data set named 'digit'; there are: .*Did you mean 'digits'\?"):
        read("digit")


def test_an_option_of_a_reader_without_options_is_refused():
    with pytest.raises(BnasError, match="data set 'digits' has no option 'size'; it takes none"):
        read("digits", size=8)


def test_a_path_for_a_data_set_in_memory_is_refused():
    with pytest.raises(BnasError, match="'digits' is not read from disk: leave out the path"):
        read("digits", "somewhere")
