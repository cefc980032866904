"""Compile a network's C with the machine's compiler, run it, and hold every value against the runtime."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnas.deploy import shapes
from bnas.deploy.c.plan import value_bytes
from bnas.deploy.c.source import CSource
from bnas.deploy.layer_check import Check, as_tensor, first_difference, sign_flips
from bnas.deploy.runtime import Bits, PackedNetwork, Value
from bnas.deploy.shapes import Value as Shape
from bnas.errors import BnasError
from bnas.kernels.packing import words_for

COMPILERS = ("gcc", "cc", "clang")
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2")

# Reads images from its input, writes every value of every image and then the logits to its output; the arena begins dirty.
_DRIVER = """\
#include <stdio.h>
#include <string.h>
#include "@.h"

void @_watch(int operation, const void *value);

static const unsigned long sizes[] = {SIZES};

void @_watch(int operation, const void *value)
{
    fwrite(value, 1, sizes[operation], stdout);
}

int main(void)
{
    static uint32_t arena[MACRO_ARENA_BYTES / 4];
    static float image[MACRO_CHANNELS * MACRO_HEIGHT * MACRO_WIDTH];
    static float logits[MACRO_CLASSES];
    memset(arena, 0xa5, sizeof arena);
    while (fread(image, sizeof image, 1, stdin) == 1) {
        if (@_run(image, logits, arena) != 0)
            return 1;
        fwrite(logits, sizeof logits, 1, stdout);
    }
    return 0;
}
"""


def find_compiler() -> str | None:
    """The first C compiler that this machine has; None where it has none."""
    return next((compiler for compiler in COMPILERS if shutil.which(compiler)), None)


def check_c(source: CSource, network: PackedNetwork, images: Tensor, compiler: str) -> Check:
    """Run normalized float32 images [N, C, H, W] through the compiled network and through the runtime."""
    values, logits = run_c(source, network, images, compiler)
    flips, signs, ours = sign_flips(network, images, values)
    difference = first_difference(network, values)
    if difference is None and not torch.equal(logits, _real(values[network.program.output])):
        difference = "the logits are not the output's value"
    argmax = (ours.argmax(1) == logits.argmax(1)).double().mean().item()
    error = (ours - logits).abs().max().item()
    return Check(difference, compiler, len(images), argmax, flips, signs, error)


def run_c(source: CSource, network: PackedNetwork, images: Tensor, compiler: str) -> tuple[dict[str, Value], Tensor]:
    """Every value that the compiled network computes for normalized images [N, C, H, W], and the logits."""
    program = network.program
    shapes_ = shapes.infer(program, {name: t.shape for name, t in network.packed.tensors.items()})
    sizes = [value_bytes(shapes_[op.output]) for op in program.ops]
    with tempfile.TemporaryDirectory() as folder:
        binary = _compile(source, sizes, Path(folder), compiler)
        run = subprocess.run([binary], input=images.contiguous().numpy().tobytes(), capture_output=True, check=False)
    rows = np.frombuffer(run.stdout, np.uint8)
    length = sum(sizes) + 4 * len(program.classes)
    if run.returncode != 0 or rows.size != length * len(images):
        raise BnasError(f"the compiled network {source.name} failed with exit code {run.returncode}")
    rows = rows.reshape(len(images), length)
    values: dict[str, Value] = {program.input: images}
    begin = 0
    for op, size in zip(program.ops, sizes, strict=True):
        values[op.output] = _value(rows[:, begin : begin + size], shapes_[op.output])
        begin += size
    return values, as_tensor(np.ascontiguousarray(rows[:, begin:]).view(np.float32))


def _compile(source: CSource, sizes: list[int], folder: Path, compiler: str) -> Path:
    name, macro = source.name, source.name.upper()
    driver = _DRIVER.replace("SIZES", ", ".join(map(str, sizes))).replace("@", name).replace("MACRO", macro)
    texts = {f"{name}.c": source.source, f"{name}.h": source.header, "check_driver_.c": driver}
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    command = [compiler, *FLAGS, f"-D{macro}_WATCH", f"{name}.c", "check_driver_.c", "-o", "check_"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BnasError(f"{compiler} does not compile {name}.c: {done.stderr.strip()[:2000]}")
    return folder / "check_"


def _value(rows: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], shape: Shape) -> Value:
    data = np.ascontiguousarray(rows)
    if shape.groups is None:
        return as_tensor(data.view(np.float32).reshape(-1, *shape.shape))
    channels, *rest = shape.shape
    words = words_for(channels // shape.groups)
    layout = (*rest, shape.groups, words) if rest else (words,)
    return Bits(data.view(np.uint32).reshape(-1, *layout), shape.shape)


def _real(value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("the output is bits")
    return value
