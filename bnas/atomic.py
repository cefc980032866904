"""Writing a file whole or not at all, and saying what a file system's refusal means.

At every instant, also under SIGKILL or a power cut, the name stands for the complete old file or the complete new one:
a temporary file in the same folder, fsync, rename, fsync of the folder.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bnas.errors import BnasError

AS_BEFORE = "The file is as it was before."

_ELSEWHERE = "Choose a folder that you can write to."
_AGAIN = "Then give the same command again."
_MEANINGS = {
    errno.ENOSPC: ("the disk is full", f"Free some space. {_AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"Free some space. {_AGAIN}"),
    errno.EFBIG: ("it would be larger than this process may write (`ulimit -f`)", f"Raise the limit. {_AGAIN}"),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("permission denied", _ELSEWHERE),
    errno.EPERM: ("permission denied", _ELSEWHERE),
    errno.ENOENT: ("there is no such file or folder", "Check the path."),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "Choose another path."),
    errno.EEXIST: ("a file of that name exists", "Choose another path."),
    errno.EISDIR: ("a folder of that name exists", "Choose another path."),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter one."),
}


def explained(error: OSError, action: str, path: Path, kept: str = "") -> BnasError:
    """The error for `action` ("write", "read") on `path`: what the system said, what was kept, what to do."""
    unlisted = error.strerror or type(error).__name__
    what, remedy = _MEANINGS.get(error.errno or 0, (unlisted, f"Mend this. {_AGAIN}"))
    return BnasError(" ".join(part for part in (f"cannot {action} {path}: {what}.", kept, remedy) if part))


@contextlib.contextmanager
def explaining(action: str, path: Path, kept: str = "") -> Iterator[None]:
    """Turn an `OSError` of the block into a `BnasError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise explained(error, action, path, kept) from error


@contextlib.contextmanager
def replacing(path: Path, *, keep_as: Path | None = None, kept: str = AS_BEFORE) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of `path` when the block ends, and leaves no trace when it raises.

    With `keep_as`, the old file first moves there; at every instant one of the two names holds a complete file.
    An `OSError` becomes a `BnasError` that says `kept`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    with explaining("write", path, kept):
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if keep_as is not None and path.exists():
                os.replace(path, keep_as)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes, *, kept: str = AS_BEFORE) -> None:
    """Put `data` in the place of `path`, atomically; `BnasError` where the file system refuses."""
    with replacing(path, kept=kept) as file:
        file.write(data)


def write_text(path: Path, text: str, *, kept: str = AS_BEFORE) -> None:
    """Put `text` (UTF-8) in the place of `path`, atomically; `BnasError` where the file system refuses."""
    write_bytes(path, text.encode(), kept=kept)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync of folders; the rename itself is done.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left. Only for a file with one writer, under its lock."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        with explaining("remove", part):
            part.unlink(missing_ok=True)
