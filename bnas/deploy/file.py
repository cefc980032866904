"""`model.bnas`: a packed network on disk. A safetensors file whose metadata holds the program; docs/format.md has it in full.

Reading believes nothing: lengths are checked against the file before memory is taken, then the checksum, then every
tensor against the program. Needs neither the training code nor a search space.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bnas import atomic
from bnas.deploy import shapes
from bnas.deploy.ir import Program
from bnas.deploy.kinds import COMPARISONS, DType
from bnas.errors import BnasError
from bnas.kernels.packing import full_words

FORMAT = "bnas-packed"
VERSION = 1
DTYPES: Mapping[DType, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U32": np.dtype("<u4"), "U8": np.dtype("u1")}

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Packed:
    """A program and the tensors that it names; wholly valid, or not constructed."""

    program: Program
    tensors: Mapping[str, Array]

    def __post_init__(self) -> None:
        types = self.program.tensor_types()
        _check_same_names(types, self.tensors)
        for name, type_ in types.items():
            if self.tensors[name].dtype != DTYPES[type_]:
                raise BnasError(f"tensor '{name}' is {self.tensors[name].dtype}, the program needs {DTYPES[type_]}")
        values = shapes.infer(self.program, {name: tensor.shape for name, tensor in self.tensors.items()})
        for op in self.program.ops:
            if op.kind in COMPARISONS and self.tensors[op.tensors["flip"]].max() > 1:
                raise BnasError(f"{op}: tensor flip '{op.tensors['flip']}' holds more than 0 and 1")
            if op.kind in ("binary_conv2d", "binary_linear"):
                length = values[op.inputs[0]].shape[0] // op.attributes.get("groups", 1)
                if (self.tensors[op.tensors["weight"]] & ~full_words(length)).any():
                    raise BnasError(f"{op}: tensor weight '{op.tensors['weight']}' has tail bits that are not 0")

    def binary_weight_bytes(self) -> int:
        """Bytes of all packed weights, tail bits included."""
        return sum(tensor.nbytes for tensor in self.tensors.values() if tensor.dtype == DTYPES["U32"])


def save(packed: Packed, path: str | Path) -> None:
    """Write the file, whole or not at all. Equal networks give equal bytes."""
    atomic.write_bytes(Path(path), encode(packed))


def encode(packed: Packed) -> bytes:
    """The bytes of the file."""
    types = packed.program.tensor_types()
    # Words and floats first: they then lie on addresses that divide by 4.
    names = sorted(types, key=lambda name: (types[name] == "U8", name))
    program = packed.program.to_json()
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(VERSION),
            "sha256": checksum(program, types, packed.tensors),
            "program": program,
        }
    }
    end = 0
    for name in names:
        begin, end = end, end + packed.tensors[name].nbytes
        header[name] = {"dtype": types[name], "shape": list(packed.tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(packed.tensors[name].tobytes() for name in names)


def checksum(program: str, types: Mapping[str, DType], tensors: Mapping[str, Array]) -> str:
    """SHA-256, in hexadecimal, of the program's text and of each tensor in the order of names: a line, then its bytes.

    The line is `name type size,size,...` between two line feeds.
    """
    digest = hashlib.sha256(program.encode())
    for name in sorted(types):
        sizes = ",".join(map(str, tensors[name].shape))
        digest.update(f"\n{name} {types[name]} {sizes}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def load(path: str | Path) -> Packed:
    """Read and check a packed network; `BnasError` with the file's name and what is wrong with it."""
    with atomic.explaining("read", Path(path)):
        try:
            _check_length(Path(path))
            with safe_open(str(path), framework="numpy") as file:
                return _read(file)
        except SafetensorError as error:
            raise BnasError(f"{path}: is not a packed network, nor any other safetensors file ({error})") from None
        except BnasError as error:
            raise error.within(str(path)) from None


def _check_length(path: Path) -> None:
    """`BnasError` unless the header that the first 8 bytes announce lies inside the file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
    if len(start) < 8:
        raise BnasError(f"is not a packed network: it has {size} bytes")
    announced = struct.unpack("<Q", start)[0]
    if announced > size - 8:
        raise BnasError(
            f"is not a packed network, or was cut off: its first bytes announce a header of {announced} bytes, "
            f"the file has {size}"
        )


def _read(file: Any) -> Packed:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise BnasError(f"is a safetensors file, but not a packed network of bnas ('format' is not '{FORMAT}')")
    version = metadata.get("version", "")
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise BnasError(f"has the format version '{version}', which is none")
    if int(version) > VERSION:
        raise BnasError(f"has format version {version}; this bnas reads versions up to {VERSION}: install a newer bnas")
    program_text = metadata.get("program", "")
    found: dict[str, DType] = {}
    # The open file has keys, but is no mapping to iterate over.
    for name in file.keys():  # noqa: SIM118
        type_ = file.get_slice(name).get_dtype()
        if type_ not in DTYPES:
            raise BnasError(f"tensor '{name}' has the type {type_}; there are: {', '.join(DTYPES)}")
        found[name] = type_
    tensors = {name: file.get_tensor(name) for name in found}
    if checksum(program_text, found, tensors) != metadata.get("sha256"):
        raise BnasError("is damaged: its checksum does not fit its content; export the network again or copy it anew")
    program = Program.from_json(program_text)
    return Packed(program, tensors)


def _check_same_names(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name in wanted:
        if name not in given:
            raise BnasError(f"tensor '{name}', which the program names, is missing")
    for name in given:
        if name not in wanted:
            raise BnasError(f"tensor '{name}' is not named by the program")
