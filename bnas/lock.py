"""One process at a time in a run folder. The kernel releases the lock when the process dies, however it dies."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bnas import atomic
from bnas.errors import BnasError

LOCK_FILE = ".lock"

# The folders that this thread holds: a caller that locks around a whole command may call what locks for itself.
_mine = threading.local()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold `folder` for the block; the same thread may nest it. Yields a warning where the file system has no locks.

    `BnasError`, with process, host and start time, where another process or thread holds it.
    """
    key = os.path.realpath(folder)
    held: set[str] = _mine.__dict__.setdefault("folders", set())
    if key in held:
        yield None
        return
    descriptor, warning = _acquired(folder)
    held.add(key)
    try:
        yield warning
    finally:
        held.discard(key)
        # Closing the only descriptor releases the lock; the file stays, or two processes could lock two files.
        os.close(descriptor)


def is_mine(folder: Path) -> bool:
    """Whether this thread holds `folder`."""
    return os.path.realpath(folder) in _mine.__dict__.get("folders", ())


def _acquired(folder: Path) -> tuple[int, str | None]:
    path = folder / LOCK_FILE
    while True:
        with atomic.explaining("write", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            warning = _flock(descriptor, folder)
            if _is_at(descriptor, path):
                _sign(descriptor, path)
                return descriptor, warning
        except BaseException:
            os.close(descriptor)
            raise
        # The folder was moved away (--fresh) between open and lock: take the file that stands there now.
        os.close(descriptor)


def _flock(descriptor: int, folder: Path) -> str | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BnasError(
            f"{folder} is in use by {_holder(descriptor)}. Wait until it ends or stop it, or choose another --run folder"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            raise atomic.explained(error, "lock", folder / LOCK_FILE) from error
        return f"the file system of {folder} has no locks: a second process on this folder would not be noticed"
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _sign(descriptor: int, path: Path) -> None:
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})
    with atomic.explaining("write", path):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['pid']} on {found['host']}, started {found['started']}"
    except (ValueError, KeyError, TypeError):
        # The holder has the lock and has not signed yet.
        return "another process"
