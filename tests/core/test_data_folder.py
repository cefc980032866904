"""Image folders by class, decoded here and by workers."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnas.data import decode as decode_module
from bnas.data import read
from bnas.data.decode import Form, common_form, decode_all
from bnas.errors import BnasError


def picture(seed: int, shape: tuple[int, ...] = (6, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def make(root: Path, *, held_out: str = "test", shape: tuple[int, ...] = (6, 8, 3), ending: str = "png") -> Path:
    """Two classes, cat with images 0, 1, 2 and dog with 3, 4 in train; one of each in the other split."""
    for number in range(5):
        save(root / "train" / ("cat" if number < 3 else "dog") / f"{number}.{ending}", picture(number, shape))
    save(root / held_out / "cat" / f"10.{ending}", picture(10, shape))
    save(root / held_out / "dog" / f"11.{ending}", picture(11, shape))
    return root


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_classes_labels_and_pixels(tmp_path, held_out):
    data = read("folder", make(tmp_path / "pets", held_out=held_out))
    assert (data.name, data.classes, data.input_shape) == ("pets", ("cat", "dog"), (3, 6, 8))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    for image, seed in zip([*data.train.images, *data.test.images], [0, 1, 2, 3, 4, 10, 11], strict=True):
        assert np.array_equal(image.numpy(), picture(seed).transpose(2, 0, 1))
    assert data.notes == ()


def test_gray_images_have_one_channel_unless_one_is_coloured(tmp_path):
    make(tmp_path, shape=(6, 8))
    data = read("folder", tmp_path)
    assert data.input_shape == (1, 6, 8)
    assert np.array_equal(data.train.images[3, 0].numpy(), picture(3, (6, 8)))
    save(tmp_path / "test" / "dog" / "12.png", picture(12))
    data = read("folder", tmp_path)
    assert data.input_shape == (3, 6, 8)
    assert np.array_equal(data.train.images[3].numpy(), np.stack([picture(3, (6, 8))] * 3))


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "bmp", "webp", "tif", "ppm"])
def test_other_formats(tmp_path, ending):
    data = read("folder", make(tmp_path, ending=ending))
    assert data.input_shape == (3, 6, 8)
    assert len(data.train) == 5


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_kinds_of_colour_become_three_channels(tmp_path, mode):
    make(tmp_path)
    save(tmp_path / "train" / "cat" / ("9.jpg" if mode == "CMYK" else "9.png"), picture(9), mode)
    assert read("folder", tmp_path).input_shape == (3, 6, 8)


@pytest.mark.parametrize(("size", "shape"), [(5, (3, 5, 5)), ([4, 10], (3, 4, 10))])
def test_images_are_stretched_to_the_size(tmp_path, size, shape):
    make(tmp_path)
    halves = np.zeros((20, 4, 3), np.uint8)
    halves[:, 2:] = 255
    save(tmp_path / "train" / "dog" / "9.png", halves)
    data = read("folder", tmp_path, size=size)
    assert data.input_shape == shape
    assert data.train.images[5, :, :, 0].float().mean() < 10
    assert data.train.images[5, :, :, -1].float().mean() > 245


def test_images_of_different_sizes_need_the_option(tmp_path):
    save(make(tmp_path) / "train" / "dog" / "9.png", picture(9, (7, 8, 3)))
    with pytest.raises(BnasError, match=r"0\.png' has 6 x 8 pixels .*9\.png' 7 x 8; give the option size to make them"):
        read("folder", tmp_path)


def test_notes_tell_what_was_left_out(tmp_path):
    make(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "train" / "cat" / ".hidden").write_text("x")
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "test" / "labels.csv").write_text("x")
    (tmp_path / "val").mkdir()
    (tmp_path / "test" / "dog" / "11.png").unlink()
    assert read("folder", tmp_path).notes == (
        "val/ is not read: test/ is the test split, and a search splits train/ itself",
        "no test image of dog",
        f"2 entries are no images and were left out, the first is '{tmp_path / 'train' / 'cat' / 'notes.txt'}'",
    )


def seven_files(folder: Path) -> list[Path]:
    files = [folder / f"{number}.png" for number in range(7)]
    for number, file in enumerate(files):
        save(file, picture(number))
    return files


def test_a_spawned_worker_gives_the_same_images(tmp_path):
    """The only test that starts a process: it has to import torch."""
    files = seven_files(tmp_path)
    form = common_form(files, (5, 5))
    assert np.array_equal(decode_all(files, form, workers=1), decode_all(files, form, workers=0))


def test_a_slow_process_hands_the_rest_over(tmp_path, monkeypatch):
    files = seven_files(tmp_path)
    form = common_form(files, (5, 5))
    alone = decode_all(files, form, workers=0)
    monkeypatch.setattr(decode_module, "_TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(decode_module, "_WORTH_WORKERS_SECONDS", 0.0)
    monkeypatch.setattr(decode_module, "_usable_processors", lambda: 2)
    monkeypatch.setattr(decode_module, "_CHUNK", 4)
    handed_over = []

    class Threads(ThreadPoolExecutor):
        def __init__(self, workers, mp_context):
            assert mp_context.get_start_method() == "spawn"
            super().__init__(workers)

        def map(self, function, chunks, forms):
            handed_over.extend(len(chunk) for chunk in chunks)
            return super().map(function, chunks, forms)

    monkeypatch.setattr(decode_module, "ProcessPoolExecutor", Threads)
    assert np.array_equal(decode_all(files, form), alone)
    assert handed_over == [4, 2], "the first image is decoded here"
    files[5].write_bytes(b"spoilt")
    with pytest.raises(BnasError, match=r"5\.png' is not an image that can be decoded"):
        decode_all(files, form)


def test_few_images_start_no_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_module, "ProcessPoolExecutor", None)
    assert len(read("folder", make(tmp_path)).train) == 5


def test_workers_that_die_say_what_to_do(tmp_path, monkeypatch):
    class Dies:
        def __init__(self, *_, **__):
            pass

        def map(self, *_):
            raise decode_module.BrokenProcessPool("died")

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(decode_module, "ProcessPoolExecutor", Dies)
    with pytest.raises(BnasError, match=r"processes that decode images have died\. .* workers: 0 does without them"):
        read("folder", make(tmp_path), workers=2)


def test_a_missing_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        BnasError, match=r"there is no folder '.*nowhere'; looked there for train/<class>/\*\.png and test"
    ):
        read("folder", tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_folder_of_another_layout_says_what_was_found(tmp_path, missing):
    make(tmp_path / "pets")
    (tmp_path / "pets" / missing).rename(tmp_path / "pets" / "other")
    found = ", ".join(sorted(["other/", "test/" if missing == "train" else "train/"]))
    with pytest.raises(
        BnasError, match=rf"no train/<class>/.* in '.*pets': found {found}\. bnas never downloads data: mak"
    ):
        read("folder", tmp_path / "pets")


def test_an_empty_class_is_named(tmp_path):
    (make(tmp_path) / "train" / "emu").mkdir()
    with pytest.raises(BnasError, match=r"no image in the class folder '.*emu'; looked for \.png"):
        read("folder", tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_images_is_named(tmp_path, split):
    shutil.rmtree(make(tmp_path) / split)
    (tmp_path / split).mkdir()
    with pytest.raises(BnasError, match=f"no image in '.*{split}'; looked for"):
        read("folder", tmp_path)


def test_a_test_class_that_train_has_not(tmp_path):
    save(make(tmp_path) / "test" / "dogs" / "1.png", picture(1))
    with pytest.raises(BnasError, match=r"test.dogs' is a class that train/ has not\. Did you mean 'dog'\?"):
        read("folder", tmp_path)


def test_one_class_is_not_enough(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png", picture(1))
    save(tmp_path / "test" / "cat" / "1.png", picture(1))
    with pytest.raises(BnasError, match=r"at least two classes; found \['cat'\]"):
        read("folder", tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b"no image", lambda b: b[: len(b) * 2 // 3]])
def test_an_image_that_does_not_decode_is_named(tmp_path, ending, spoil):
    file = make(tmp_path, ending=ending) / "train" / "dog" / f"4.{ending}"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(BnasError, match=rf"dog.4\.{ending}' is not an image that can be decoded"):
        read("folder", tmp_path)


def test_a_format_that_is_not_read_is_refused_whatever_its_ending(tmp_path):
    save(make(tmp_path) / "one.gif", picture(1))
    (tmp_path / "one.gif").rename(tmp_path / "train" / "dog" / "one.png")
    with pytest.raises(BnasError, match=r"one\.png' is not an image that can be decoded"):
        read("folder", tmp_path)


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(make(tmp_path) / "train" / "dog" / "9.png")
    with pytest.raises(
        BnasError, match=r"9\.png': its pixels have more than 8 bits \(mode I;16\); convert it to 8 bits"
    ):
        read("folder", tmp_path)


def test_an_image_with_too_many_pixels_is_refused_by_its_header(tmp_path):
    Image.new("1", (2**13, 2**13 + 1)).save(make(tmp_path) / "train" / "dog" / "9.png")
    with pytest.raises(BnasError, match=r"9\.png': it has 8,192 x 8,193 pixels; at most 67,108,864 are read"):
        read("folder", tmp_path, size=4)


def test_a_set_larger_than_memory_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("bnas.data.disk._memory_bytes", lambda: 2**30)
    with pytest.raises(
        BnasError, match=r"2,000 images of .* would take 0\.9 GiB in memory; this machine allows 0\.5 GiB"
    ):
        decode_all([Path("x")] * 2000, Form(3, 400, 400))


@pytest.mark.parametrize("size", [0, -3, "32", 3.5, [1], [4, 0], True, [4, True]])
def test_a_wrong_size_is_refused(tmp_path, size):
    with pytest.raises(BnasError, match=r"size must be a number of pixels or \[height, width\]; found"):
        read("folder", make(tmp_path), size=size)


@pytest.mark.parametrize("workers", [-1, "2", 1.5, True, 1000])
def test_a_wrong_number_of_workers_is_refused(tmp_path, workers):
    with pytest.raises(BnasError, match="workers must be a number of processes from 0 to 256; found"):
        read("folder", make(tmp_path), workers=workers)


def test_an_unknown_option_names_the_nearest(tmp_path):
    with pytest.raises(
        BnasError, match=r"'folder' has no option 'sizes'; it takes: size, workers\. Did you mean 'size'"
    ):
        read("folder", tmp_path, sizes=3)
