"""What all readers of files share: folders that must be there, and sizes that are bounded before memory is taken."""

import math
import os
from pathlib import Path

from bnas.errors import BnasError


def no_download(how: str) -> str:
    """The end of a message about data that is not there: `how` says how to get it."""
    return f"bnas never downloads data: {how}"


def require_folder(path: Path, wanted: str, how: str) -> Path:
    """`path` where it is a folder; else a `BnasError` with what was looked for (`wanted`) and `how` to get it."""
    if path.is_dir():
        return path
    if path.is_file():
        raise BnasError(f"'{path}' is a file; looked for a folder with {wanted} (an archive must be unpacked first)")
    raise BnasError(f"there is no folder '{path}'; looked there for {wanted}. {no_download(how)}")


def contents(folder: Path, most: int = 6) -> str:
    """The names in a folder, as far as a message has room for them."""
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries(folder)]
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def entries(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden files."""
    try:
        return sorted(
            (entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    except OSError as error:
        raise BnasError(f"cannot list '{folder}': {error.strerror or error}") from None


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes; `BnasError` where it is larger or cannot be read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise BnasError(f"'{path}' has {size:,} bytes; at most {most:,} are expected")
            # Never more than was announced, should the file grow meanwhile.
            return file.read(size)
    except OSError as error:
        raise BnasError(f"cannot read '{path}': {error.strerror or error}") from None


def check_memory(what: str, *sizes: int) -> None:
    """`BnasError` where an array of these sizes (their product in bytes) is larger than half of the machine's memory."""
    needed, half = math.prod(sizes), _memory_bytes() // 2
    if needed > half:
        raise BnasError(
            f"{what} would take {needed / 2**30:,.1f} GiB in memory; this machine allows {half / 2**30:,.1f} GiB for it"
        )


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        # Not every system tells; 8 GiB is what a small machine has.
        return 8 * 2**30
