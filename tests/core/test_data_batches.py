"""Batches as functions of the step."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bnas.data import Augmentation, Batches, ImageSet, Normalization
from bnas.errors import BnasError

PLAIN = Normalization((0.0,), (1 / 255,))
VARIED = Augmentation(crop_padding=2, flip=True, cutout=3)


def numbered(count: int, side: int = 1) -> ImageSet:
    """Image i has the value i + 1 in every pixel and the label i % 3."""
    values = torch.arange(1, count + 1, dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(values.expand(-1, 1, side, side).contiguous(), torch.arange(count) % 3)


def batches(count: int, size: int, *, seed: int = 0, side: int = 1, **options) -> Batches:
    return Batches(numbered(count, side), size, seed=seed, normalization=PLAIN, **options)


def seen(source: Batches, steps: range) -> list[int]:
    return [round(value) for step in steps for value in source.batch(step)[0][:, 0, 0, 0].tolist()]


def test_an_epoch_shows_each_image_once_and_drops_the_short_batch():
    source = batches(23, 5)
    assert (len(source), source.steps_per_epoch) == (23, 4)
    first, second = seen(source, range(4)), seen(source, range(4, 8))
    assert len(set(first)) == len(set(second)) == 20
    assert first != second
    assert set(first) != set(second), "the dropped images should change from epoch to epoch"


def test_labels_go_with_their_images():
    images, labels = batches(23, 5).batch(3)
    assert images.dtype == torch.float32
    assert images.shape == (5, 1, 1, 1)
    assert torch.equal((images.flatten().round().long() - 1) % 3, labels)


def test_a_set_smaller_than_a_batch_is_one_batch():
    source = batches(3, 64)
    assert (source.steps_per_epoch, source.batch_size) == (1, 3)
    assert sorted(seen(source, range(1))) == [1, 2, 3]


def test_a_batch_depends_on_nothing_but_its_step():
    forward = batches(40, 8, side=6, augmentation=VARIED)
    every = {step: forward.batch(step) for step in range(12)}
    fresh = batches(40, 8, side=6, augmentation=VARIED)
    torch.manual_seed(99)
    for step in (11, 0, 7, 3):
        assert torch.equal(fresh.batch(step)[0], every[step][0])
        assert torch.equal(fresh.batch(step)[1], every[step][1])


@pytest.mark.parametrize(("size", "makes"), [(3, 1), (4, 2), (8, 5), (20, 5)])
def test_small_batches_are_made_several_at_a_time_and_are_the_same(size, makes, monkeypatch):
    def of(at_once):
        monkeypatch.setattr("bnas.data.batches.AT_ONCE", at_once)
        return batches(40, size, side=6, augmentation=VARIED)

    alone, several = of(1), of(15 if size < 8 else 8)
    expected = [alone.batch(step) for step in range(5)]
    count = []
    draw = Augmentation.draw
    monkeypatch.setattr(Augmentation, "draw", lambda *given, **more: count.append(1) or draw(*given, **more))
    for step, (images, labels) in enumerate(expected):
        found = several.batch(step)
        assert torch.equal(found[0], images)
        assert found[0].stride() == images.stride()
        assert torch.equal(found[1], labels)
    assert len(count) == makes
    fixed = [list(source.fixed(40)) for source in (several, alone)]
    assert all(torch.equal(a, b) for pair in zip(*fixed, strict=True) for a, b in zip(*pair, strict=True))


def test_a_batch_that_its_reader_changed_is_made_again():
    source = batches(40, 8, side=6, augmentation=VARIED)
    first, second = (source.batch(step)[0].clone() for step in range(2))
    source.batch(0)[0].fill_(7)
    assert torch.equal(source.batch(1)[0], second)
    source.batch(0)[0].fill_(7)
    assert torch.equal(source.batch(0)[0], first)


def test_seed_and_purpose_change_order_and_augmentation():
    base = batches(40, 8, side=6, augmentation=VARIED)
    for other in (
        batches(40, 8, seed=1, side=6, augmentation=VARIED),
        batches(40, 8, side=6, augmentation=VARIED, purpose="other"),
    ):
        assert not torch.equal(other.batch(0)[0], base.batch(0)[0])
        assert seen(batches(40, 8), range(5)) != seen(batches(40, 8, seed=1), range(5))
        assert seen(batches(40, 8), range(5)) != seen(batches(40, 8, purpose="other"), range(5))


def test_each_step_of_an_epoch_is_varied_on_its_own():
    one = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6)
    images = ImageSet(one.repeat(24, 1, 1, 1), torch.zeros(24).long())
    source = Batches(images, 8, seed=0, normalization=PLAIN, augmentation=VARIED)
    first, second, third = (source.batch(step)[0] for step in range(3))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_the_same_batch_in_another_process():
    code = (
        "import torch; from bnas.data import *;"
        "images = ImageSet(torch.arange(2000).remainder(251).byte().view(20, 1, 10, 10), torch.arange(20));"
        "source = Batches(images, 4, seed=3, normalization=Normalization((0.5,), (0.25,)),"
        " augmentation=Augmentation(2, True, 4));"
        "print(source.batch(7)[0].double().sum().item(), source.batch(7)[1].tolist())"
    )
    lines = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert lines[0] == lines[1] != ""


def test_evaluation_sees_every_image_once_in_order_and_not_varied():
    source = batches(23, 5, side=6, augmentation=VARIED)
    parts = list(source.in_order())
    assert [len(labels) for _, labels in parts] == [5, 5, 5, 5, 3]
    images = torch.cat([part for part, _ in parts])
    assert torch.equal(images.round().byte(), numbered(23, 6).images)
    assert torch.equal(torch.cat([labels for _, labels in parts]), numbered(23).labels)
    assert [len(labels) for _, labels in source.in_order(20)] == [20, 3]


def test_the_hole_is_the_mean_of_the_training_split():
    images = ImageSet(torch.full((64, 1, 8, 8), 200, dtype=torch.uint8), torch.zeros(64).long())
    source = Batches(
        images, 64, seed=0, normalization=Normalization((0.5,), (0.5,)), augmentation=Augmentation(cutout=4)
    )
    values = set(source.batch(0)[0].unique().tolist())
    assert len(values) == 2
    assert 0.0 in values


@pytest.mark.parametrize("size", [0, -4])
def test_a_batch_size_below_1_is_refused(size):
    with pytest.raises(BnasError, match=f"batch_size must be at least 1; found {size}"):
        batches(10, size)
    with pytest.raises(BnasError, match=f"batch_size must be at least 1; found {size}"):
        list(batches(10, 2).in_order(size))


def test_a_negative_step_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="steps count from 0; found -1"):
        batches(10, 2).batch(-1)


def test_normalization_and_augmentation_must_fit_the_images():
    with pytest.raises(BnasError, match="mean and std are for 3 channels; the images have 1"):
        Batches(numbered(4), 2, seed=0, normalization=Normalization((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(BnasError, match="cutout of 6 pixels on images of 6 x 6; at most 5"):
        batches(4, 2, side=6, augmentation=Augmentation(cutout=6))


@pytest.mark.parametrize("augmentation", [None, VARIED], ids=["plain", "varied"])
def test_batches_lie_in_channels_last_memory(augmentation):
    images = ImageSet(torch.arange(2 * 3 * 36, dtype=torch.uint8).view(2, 3, 6, 6), torch.tensor([0, 1]))
    source = Batches(images, 2, seed=0, normalization=Normalization((0.0,) * 3, (1.0,) * 3), augmentation=augmentation)
    for batch in (source.batch(0), next(source.in_order()), next(source.fixed(2))):
        assert batch[0].is_contiguous(memory_format=torch.channels_last)


class _Operations(TorchDispatchMode):
    """Names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_batch_is_made_at_once_and_nothing_waits_for_the_device(monkeypatch):
    """As many operations for any number of images, and none that hands a value of the device to the host."""
    monkeypatch.setattr("bnas.data.batches.AT_ONCE", 1)
    found = []
    for size in (2, 16):
        source = batches(64, size, side=6, augmentation=VARIED)
        source.batch(0)
        with _Operations() as seen_operations:
            source.batch(1)
        found.append(seen_operations.names)
    assert found[0] == found[1] != []
    assert not [name for name in found[0] if name.startswith(("_local_scalar_dense", "nonzero", "is_nonzero"))]


def test_fixed_batches_are_whole_mixed_and_the_same_at_every_call():
    # Sorted by class, as folders are read.
    images = ImageSet(numbered(23, 6).images, torch.arange(23) // 8)
    source = Batches(images, 5, seed=0, normalization=PLAIN, augmentation=VARIED)
    first, again = list(source.fixed(11)), list(source.fixed(11))
    assert [len(labels) for _, labels in first] == [5, 5, 5]
    for (x, y), (other_x, other_y) in zip(first, again, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
        assert torch.equal((x[:, 0, 0, 0].round().long() - 1) // 8, y)
        assert len(set(y.tolist())) > 1
    assert [len(labels) for _, labels in source.fixed(10**6)] == [5] * 4
    other = Batches(images, 5, seed=1, normalization=PLAIN, augmentation=VARIED)
    assert not torch.equal(next(other.fixed(1))[0], first[0][0])
    with pytest.raises(BnasError, match="count is a number of images, at least 1; found 0"):
        next(source.fixed(0))
