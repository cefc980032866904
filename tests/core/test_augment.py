"""Batched crop, flip and cutout against plain loops over one image at a time."""

import numpy as np
import pytest
import torch

from bnas.data.augment import Augmentation, crop_and_flip, cutout
from bnas.errors import BnasError

SHAPES = [(1, 8, 8), (3, 7, 9), (2, 32, 32)]


def images(count: int, shape: tuple[int, int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crop_and_flip_equal_a_loop(shape, padding, flip, layout):
    batch = images(40, shape).contiguous(memory_format=layout)
    augmentation = Augmentation(crop_padding=padding, flip=flip)
    draws = augmentation.draw(40, *shape[1:], generator())
    found = augmentation.move(batch, draws)
    assert found.dtype == torch.uint8
    for n in range(40):
        padded = np.pad(batch[n].numpy(), ((0, 0), (padding, padding), (padding, padding)))
        down, right = (draws.shift[n] + padding).tolist()
        expected = padded[:, down : down + shape[1], right : right + shape[2]]
        if flip and draws.flipped[n]:
            expected = expected[:, :, ::-1]
        assert np.array_equal(found[n].numpy(), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_equals_a_loop(shape, side):
    batch = images(40, shape).float()
    draws = Augmentation(cutout=side).draw(40, *shape[1:], generator())
    before = batch.clone()
    found = cutout(batch, draws.centre, side)
    assert torch.equal(batch, before)
    for n in range(40):
        expected = batch[n].clone()
        top, left = (draws.centre[n] - side // 2).tolist()
        expected[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0
        assert torch.equal(found[n], expected)


def test_every_place_is_drawn_and_none_outside():
    draws = Augmentation(crop_padding=2, flip=True, cutout=3).draw(4000, 5, 7, generator())
    for axis in (0, 1):
        counts = (draws.shift[:, axis] + 2).bincount(minlength=5)
        assert len(counts) == 5
        assert counts.min() > 650
        assert counts.max() < 950
    assert len(draws.centre[:, 0].bincount()) == 5
    assert len(draws.centre[:, 1].bincount()) == 7
    assert draws.centre.min() == 0
    assert 1850 < int(draws.flipped.sum()) < 2150


def test_all_images_of_a_batch_are_varied_on_their_own():
    draws = Augmentation(crop_padding=4, flip=True, cutout=8).draw(64, 32, 32, generator())
    assert len({tuple(row) for row in draws.shift.tolist()}) > 30
    assert len({tuple(row) for row in draws.centre.tolist()}) > 50


def test_switching_one_kind_on_leaves_the_others_as_they_were():
    less = Augmentation(crop_padding=3).draw(16, 9, 9, generator())
    more = Augmentation(crop_padding=3, flip=True, cutout=4).draw(16, 9, 9, generator())
    assert torch.equal(less.shift, more.shift)


def test_nothing_is_varied_by_default():
    batch = images(8, (3, 6, 6))
    augmentation = Augmentation()
    draws = augmentation.draw(8, 6, 6, generator())
    assert torch.equal(augmentation.move(batch, draws), batch)
    assert torch.equal(augmentation.cut(batch.float(), draws), batch.float())


def test_a_shift_moves_in_the_stated_direction():
    batch = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    batch[0, 0, 1, 1] = 9
    moved = crop_and_flip(batch, torch.tensor([[1, 0]]), torch.tensor([False]), 1)
    assert moved[0, 0, 0, 1] == 9


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_pixels_are_checked(name):
    with pytest.raises(BnasError, match=f"{name} is a number of pixels, 0 .off. or more; found -1"):
        Augmentation(**{name: -1})
    with pytest.raises(BnasError, match=f"{name} of 8 pixels on images of 8 x 12; at most 7"):
        Augmentation(**{name: 8}).check(8, 12)
