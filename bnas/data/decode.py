"""Image files as arrays: checked by their headers first, then decoded here or by spawned workers."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from bnas.data.disk import check_memory
from bnas.errors import BnasError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
_GRAY_MODES = ("1", "L", "LA", "La")
# A larger picture than this is a mistake or an attack: it would take 200 MB to decode one.
_MOST_PIXELS = 2**26

# Starting workers costs some seconds each, as they import torch; so they must save more than that.
_TRIAL_SECONDS = 2.0
_WORTH_WORKERS_SECONDS = 15.0
_MOST_WORKERS = 16
_CHUNK = 64

T = TypeVar("T")


@dataclass(frozen=True)
class Form:
    """What all images of a data set become: 1 (gray) or 3 (red, green, blue) channels, height and width."""

    channels: int
    height: int
    width: int


def common_form(files: Sequence[Path], size: tuple[int, int] | None) -> Form:
    """The form of a set of images, from their headers alone: gray where all are; `size` (height, width) or their own.

    `BnasError` names an image that cannot be opened, and two images of different sizes where no `size` is given.
    """
    channels, own = 1, size
    for file in files:
        gray, height, width = _opened(file, _header)
        channels = channels if gray else 3
        if size is None and own is not None and own != (height, width):
            raise BnasError(
                f"images differ in size: '{files[0]}' has {own[0]} x {own[1]} pixels (height x width), "
                f"'{file}' {height} x {width}; give the option size to make them equal"
            )
        own = own or (height, width)
    if own is None:
        raise ValueError("there are no files to read")
    return Form(channels, *own)


def decode_all(files: Sequence[Path], form: Form, workers: int | None = None) -> np.ndarray:
    """All images as uint8 [N, C, H, W]; one of another size is stretched to the form's, by bilinear interpolation.

    workers: processes to decode with; 0 is this one alone. None measures how fast this one is and starts workers
    where that saves time; the result is the same. `BnasError` names an image that does not decode.
    """
    check_memory(f"{len(files):,} images of {form}", len(files), form.channels, form.height, form.width)
    images = np.empty((len(files), form.channels, form.height, form.width), np.uint8)
    done = 0 if workers else _decode_here(files, form, images, patient=workers == 0)
    if done < len(files):
        for part in _decode_in_workers(files[done:], form, workers or _usable_processors()):
            images[done : done + len(part)] = part
            done += len(part)
    return images


def _decode_here(files: Sequence[Path], form: Form, images: np.ndarray, *, patient: bool) -> int:
    """Decode in this process; return how many, fewer than all where workers would end sooner."""
    start = time.monotonic()
    patient = patient or _usable_processors() < 2
    for index, file in enumerate(files):
        images[index] = decode(file, form)
        spent = time.monotonic() - start
        left = spent / (index + 1) * (len(files) - index - 1)
        if not patient and spent > _TRIAL_SECONDS:
            if left > _WORTH_WORKERS_SECONDS:
                return index + 1
            patient = True
    return len(files)


def _decode_in_workers(files: Sequence[Path], form: Form, workers: int) -> Iterator[np.ndarray]:
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    # Spawned, never forked: a fork of a process with OpenMP threads can hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context)
    try:
        yield from executor.map(decode_chunk, chunks, [form] * len(chunks))
    except BrokenProcessPool:
        raise BnasError(
            "the processes that decode images have died. In a script of your own, the call must stand below "
            "`if __name__ == '__main__':`; the option workers: 0 does without them"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def decode_chunk(files: Sequence[Path], form: Form) -> np.ndarray:
    """Some images as uint8 [n, C, H, W]: the unit of work of a worker."""
    return np.stack([decode(file, form) for file in files])


def decode(file: Path, form: Form) -> np.ndarray:
    """One image as uint8 [C, H, W]; `BnasError` with its name where it does not decode."""

    def pixels(image: Image.Image) -> np.ndarray:
        image = image.convert("L" if form.channels == 1 else "RGB")
        if image.size != (form.width, form.height):
            image = image.resize((form.width, form.height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(form.height, form.width, form.channels).transpose(2, 0, 1)

    return _opened(file, pixels)


def _opened(file: Path, use: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise BnasError(f"it has {image.width:,} x {image.height:,} pixels; at most {_MOST_PIXELS:,} are read")
            if image.mode.startswith(("I", "F")):
                raise BnasError(f"its pixels have more than 8 bits (mode {image.mode}); convert it to 8 bits")
            return use(image)
    except BnasError as error:
        raise error.within(f"'{file}'") from None
    except Exception as error:
        # Pillow's decoders raise a dozen kinds for damaged bytes, and nothing else is done here.
        raise BnasError(f"'{file}' is not an image that can be decoded ({error})") from None


def _header(image: Image.Image) -> tuple[bool, int, int]:
    return image.mode in _GRAY_MODES, image.height, image.width


def _usable_processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(processors, _MOST_WORKERS)
