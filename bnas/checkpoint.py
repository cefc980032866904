"""A state of plain containers and tensors in a file that shows its own damage, with the one before it kept.

The file is what `torch.save` writes, with a trailer in the comment that ends every zip file: a mark, the length and the
SHA-256 of what stands before it. So `torch.load(path, weights_only=True)` and any zip tool open it too. Loading runs no
code, and takes no memory beyond the size of the file.
"""

import contextlib
import copy
import hashlib
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from bnas import atomic
from bnas.errors import BnasError

SCHEMA = 1

_MARK = b"BNASCKPT"
_TRAILER = struct.Struct("<8sQ32s")  # mark, payload bytes, SHA-256 of the payload
_COMMENT_BYTES = struct.pack("<H", _TRAILER.size)  # the last field of a zip file: the length of its comment
_NO_COMMENT = b"\0\0"
_SCALARS = (type(None), bool, int, float, str)
_TENSORS = (torch.Tensor, torch.nn.Parameter)


class DamagedCheckpointError(BnasError):
    """The file was cut short, changed, or never was a checkpoint."""


@dataclass(frozen=True)
class Loaded:
    """What `load_newest` found: the content, the file it came from, and what to tell the user when it is not the newest."""

    content: dict[str, Any]
    path: Path
    note: str | None = None


def previous_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def damaged_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def save(path: Path, content: Mapping[str, Any], *, kind: str, kept: str = atomic.AS_BEFORE) -> None:
    """Put `content` in the place of `path`; what was there becomes `<name>.previous`.

    `content`: dict (keys str or int), list, tuple, str, int, float, bool, None and dense tensors, else `TypeError`.
    `kind` ("search", "retrain") is asked for again on loading. `BnasError` with `kept` where the file system refuses.
    """
    whole = {"schema": SCHEMA, "kind": kind, "content": dict(content)}
    check_plain(whole["content"])
    with atomic.replacing(path, keep_as=previous_path(path), kept=kept) as file:
        sink = _Sink(file)
        try:
            torch.save(whole, cast(IO[bytes], sink))
        except RuntimeError:
            # torch reports a failed write as a wrong file position; the reason is what `write` said.
            if sink.failure is not None:
                raise sink.failure from None
            raise
        file.seek(-len(_COMMENT_BYTES), os.SEEK_END)
        file.write(_COMMENT_BYTES + _TRAILER.pack(_MARK, sink.length, sink.digest.digest()))


def load(path: Path, *, kind: str) -> dict[str, Any]:
    """The content of the checkpoint at `path`, on the CPU.

    `DamagedCheckpointError` where the bytes are not those that were saved; `BnasError` where they are a checkpoint of another
    kind or of a newer bnas, or cannot be read.
    """
    with atomic.explaining("read", path):
        _verify(path)
        whole = _unpickled(path)
    schema, found_kind, content = (whole.get(key) for key in ("schema", "kind", "content"))
    if type(schema) is not int or not isinstance(found_kind, str) or not isinstance(content, dict):
        raise DamagedCheckpointError(f"{path} is not a checkpoint of bnas: it has no schema number, kind and content")
    if schema != SCHEMA:
        raise BnasError(
            f"{path}: checkpoint schema {schema}; this bnas reads schema {SCHEMA}. Go on with the bnas that wrote it"
        )
    if found_kind != kind:
        raise BnasError(f"{path}: a checkpoint of kind '{found_kind}', where one of kind '{kind}' is needed")
    return content


def load_newest(path: Path, *, kind: str, put_aside: bool = True) -> Loaded | None:
    """The newest undamaged one of `path` and `<name>.previous`; None where there is neither.

    A damaged newest one is renamed `<name>.damaged` (not with `put_aside=False`, for readers that hold no lock), and the
    note says so. `BnasError` where nothing undamaged is left; then no file is touched.
    """
    previous = previous_path(path)
    if not path.exists():
        if not previous.exists():
            return None
        note = f"the last save of {path.name} was cut short; {previous.name}, of the round before, is used"
        return Loaded(load(previous, kind=kind), previous, note)
    try:
        return Loaded(load(path, kind=kind), path)
    except DamagedCheckpointError as error:
        damage = error
    content = _instead_of(path, damage, kind)
    note = f"{damage}; {previous.name}, of the round before, is used"
    if put_aside:
        with atomic.explaining("rename", path):
            os.replace(path, damaged_path(path))
            atomic.sync_folder(path.parent)
        note += f", and the damaged file is kept as {damaged_path(path).name}"
    return Loaded(content, previous, note)


def _instead_of(path: Path, damage: DamagedCheckpointError, kind: str) -> dict[str, Any]:
    remedy = "No other checkpoint is left: start anew in another run folder, or with --fresh in this one"
    previous = previous_path(path)
    if not previous.exists():
        raise BnasError(f"{damage}, and there is no {previous.name}. {remedy}") from damage
    try:
        return load(previous, kind=kind)
    except DamagedCheckpointError as error:
        raise BnasError(f"{damage}, and {error}. {remedy}") from error


def check_plain(value: object, where: str = "state") -> None:
    """`TypeError`, naming the place, for anything in `value` that a checkpoint cannot hold."""
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where}: the key {key!r} is a {_type_name(key)}; keys are str or int")
            check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        assert isinstance(value, (list, tuple))
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif type(value) not in _SCALARS and not (type(value) in _TENSORS and _is_dense(value)):
        raise TypeError(
            f"{where} is a {_type_name(value)}; a checkpoint holds dict, list, tuple, str, int, float, bool, None and "
            "dense tensors"
        )


def _is_dense(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


class _Sink:
    """Passes bytes on to `file`, hashes them, and remembers the `OSError` that torch does not pass on."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.length = 0
        self.failure: OSError | None = None
        self._file = file

    def write(self, data: bytes) -> int:
        with self._remembering():
            self._file.write(data)
        self.digest.update(data)
        self.length += len(data)
        return len(data)

    def flush(self) -> None:
        with self._remembering():
            self._file.flush()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


def _verify(path: Path) -> None:
    """`DamagedCheckpointError` unless trailer, length and SHA-256 agree and the zip claims no more bytes than there are."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _TRAILER.size + len(_COMMENT_BYTES):
            raise DamagedCheckpointError(f"{path} is cut short: {size} bytes are no checkpoint")
        file.seek(-_TRAILER.size, os.SEEK_END)
        mark, length, expected = _TRAILER.unpack(file.read(_TRAILER.size))
        if mark != _MARK or length + _TRAILER.size != size:
            raise DamagedCheckpointError(f"{path} is cut short or not a checkpoint of bnas: its end is missing")
        file.seek(0)
        if _digest(file, length) != expected or file.read(len(_COMMENT_BYTES)) != _COMMENT_BYTES:
            raise DamagedCheckpointError(
                f"{path} is damaged: its bytes are not those that were saved (SHA-256 differs)"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}") from error
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise DamagedCheckpointError(f"{path} is damaged: its parts claim more bytes than the file has")


def _digest(file: BinaryIO, length: int) -> bytes:
    """SHA-256 of the next `length` bytes as torch wrote them, with no comment; leaves the file before that field."""
    digest = hashlib.sha256()
    left = length - len(_NO_COMMENT)
    while left > 0:
        chunk = file.read(min(left, 1 << 20))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
    digest.update(_NO_COMMENT)
    return digest.digest()


def _unpickled(path: Path) -> dict[str, Any]:
    """The pickled mapping: plain containers and tensors, or `DamagedCheckpointError`; no code runs."""
    try:
        # Mapped storages are slices of the file and cannot grow, so no claim in the pickle takes memory that the file
        # does not have; the deep copy then copies storage by storage and lets the file go.
        mapped = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        check_plain(mapped)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpointError(f"{path} holds something else than data; nothing of it was run") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # what torch raises for bytes that it did not write is not a closed list
        raise DamagedCheckpointError(f"{path} is damaged: {_first_line(error)}") from error
    if not isinstance(mapped, dict):
        raise DamagedCheckpointError(f"{path} is not a checkpoint of bnas: it holds a {_type_name(mapped)}")
    return copy.deepcopy(mapped)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
