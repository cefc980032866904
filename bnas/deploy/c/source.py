"""A packed network as C99: the text of its .c and its .h. Of libc it needs stdint.h and string.h, and it owns no memory."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.deploy import shapes
from bnas.deploy.c.emit import Writer, c_float, statements
from bnas.deploy.c.kernels import GEOMETRY, KERNELS, POPCOUNT
from bnas.deploy.c.plan import plan
from bnas.deploy.file import Packed
from bnas.errors import BnasError

_C_TYPES = {"float32": "float", "uint32": "uint32_t", "uint8": "uint8_t"}
_PER_LINE = 8


@dataclass(frozen=True)
class CSource:
    """The two files, and what they take: bytes of constants (flash) and of the arena (memory)."""

    name: str
    source: str
    header: str
    const_bytes: int
    arena_bytes: int


def c_name(text: str) -> str:
    """`text` as a C identifier: other characters become _, and one that would begin with a digit gets net_ before it."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", text).strip("_") or "net"
    return f"net_{name}" if name[0].isdigit() else name


def write_c(packed: Packed, name: str = "net") -> CSource:
    """The network as C. `name`, a C identifier, begins every public name.

    `BnasError` names the layer that has no form in C, and the reason.
    """
    if c_name(name) != name:
        raise BnasError(f"'{name}' is no name for C; '{c_name(name)}' would be")
    program = packed.program
    values = shapes.infer(program, {key: tensor.shape for key, tensor in packed.tensors.items()})
    writer = Writer(packed, values, plan(program, values))
    body = []
    for place, op in enumerate(program.ops):
        body += [
            f"    /* {place}: {op.kind} {_comment(op.name)} */",
            *(f"    {line}" for line in statements(writer, op)),
        ]
        body.append(f"    WATCH({place}, {writer.pointer(op.output)});")
    tensors = [packed.tensors[key] for key in writer.constants]
    const_bytes = sum(tensor.nbytes for tensor in tensors) + 4 * 2 * program.input_shape[0]
    # One word at least: C has no empty array.
    arena_bytes = max(writer.plan.size, 4)
    parts = [_preamble(name), *_kernels(writer, name.upper())]
    parts += [_array(c, packed.tensors[key]) for key, c in writer.constants.items()]
    parts += [f"static const geometry g{i} = {text};" for i, text in enumerate(writer.geometries)]
    parts += [_normalize(packed, name), _run(name, body, writer.pointer(program.output))]
    return CSource(name, "\n\n".join(parts) + "\n", _header(packed, name, arena_bytes), const_bytes, arena_bytes)


def _comment(text: str) -> str:
    """Text that cannot end a comment, continue a line or spell a trigraph."""
    return re.sub(r"[^A-Za-z0-9_., -]", "_", text)


def _preamble(name: str) -> str:
    return f"""\
/* A binary neural network, written by bnas; {name}.h says how to call it.
 * For results that agree to the last bit with those of other machines, compile with -ffp-contract=off
 * (gcc's -std=c99 implies it). */
#include "{name}.h"

#include <string.h>

#define INFINITE (1.0f / 0.0f)

/* Sees every operation's result, where a check defines {name.upper()}_WATCH. */
#ifdef {name.upper()}_WATCH
void {name}_watch(int operation, const void *value);
#define WATCH(operation, value) {name}_watch(operation, value)
#else
#define WATCH(operation, value) ((void)0)
#endif"""


def _kernels(writer: Writer, macro: str) -> list[str]:
    called = [text for kernel, text in KERNELS.items() if kernel in writer.kernels]
    parts = [GEOMETRY] if writer.geometries else []
    if any("popcount(" in text for text in called):
        parts.append(POPCOUNT.replace("@MACRO@", macro))
    return parts + called


def _array(c: str, tensor: NDArray[Any]) -> str:
    flat = tensor.reshape(-1)
    words = [c_float(n) for n in flat] if flat.dtype == np.float32 else [f"0x{n:x}u" for n in flat.tolist()]
    lines = [", ".join(words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)]
    return f"static const {_C_TYPES[flat.dtype.name]} {c}[{flat.size}] = {{\n    " + ",\n    ".join(lines) + "\n};"


def _normalize(packed: Packed, name: str) -> str:
    program = packed.program
    channels, height, width = program.input_shape
    mean, std = np.array(program.mean, np.float32), np.array(program.std, np.float32)
    return f"""\
{_array("mean", mean)}

{_array("std", std)}

void {name}_normalize(const uint8_t *pixels, float *image)
{{
    int32_t c, p;
    for (c = 0; c < {channels}; c++)
        for (p = 0; p < {height * width}; p++)
            *image++ = ((float)*pixels++ / 255.0f - mean[c]) / std[c];
}}"""


def _run(name: str, body: list[str], output: str) -> str:
    statements_ = "\n".join(body)
    return f"""\
int {name}_run(const float *image, float *logits, void *arena)
{{
    unsigned char *memory = (unsigned char *)arena;
    if (image == NULL || logits == NULL || arena == NULL || (uintptr_t)arena % 4 != 0)
        return 1;
{statements_}
    memcpy(logits, {output}, {name.upper()}_CLASSES * sizeof(float));
    return 0;
}}"""


def _header(packed: Packed, name: str, arena_bytes: int) -> str:
    program, macro = packed.program, name.upper()
    channels, height, width = program.input_shape
    classes = "\n".join(f" *   {i}: {_comment(c)}" for i, c in enumerate(program.classes))
    return f"""\
/* A binary neural network, written by bnas. An example of a call:
 *
 *   static uint32_t arena[{macro}_ARENA_BYTES / 4];
 *   static float image[{macro}_CHANNELS * {macro}_HEIGHT * {macro}_WIDTH];
 *   float logits[{macro}_CLASSES];
 *   {name}_normalize(pixels, image);
 *   {name}_run(image, logits, arena);
 *
 * The largest logit is that of the class:
{classes}
 */
#ifndef {macro}_H
#define {macro}_H

#include <stdint.h>

#define {macro}_CHANNELS {channels}
#define {macro}_HEIGHT {height}
#define {macro}_WIDTH {width}
#define {macro}_CLASSES {len(program.classes)}
#define {macro}_ARENA_BYTES {arena_bytes}

#ifdef __cplusplus
extern "C" {{
#endif

/* pixels: uint8 [channels, height, width]. image: the same as the network wants it, (pixel / 255 - mean) / std. */
void {name}_normalize(const uint8_t *pixels, float *image);

/* image: normalized [channels, height, width]; logits: [{macro}_CLASSES]; arena: {macro}_ARENA_BYTES bytes, aligned to 4,
 * whose content before and after means nothing. Two calls at a time need two arenas.
 * 0: done. 1: a pointer is NULL, or the arena not aligned. */
int {name}_run(const float *image, float *logits, void *arena);

#ifdef __cplusplus
}}
#endif
#endif
"""
