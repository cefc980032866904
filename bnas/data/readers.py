"""The table of data readers, and the one function that reads a data set by name."""

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from bnas.data.cifar import read_cifar10, read_cifar100
from bnas.data.digits import read_digits
from bnas.data.folder import read_folder
from bnas.data.images import Dataset
from bnas.data.npz import read_npz
from bnas.data.own_reader import read_python
from bnas.errors import BnasError, nearest
from bnas.registry import Registry

READERS: Registry[Callable[..., Dataset]] = Registry(
    "data set",
    {
        "digits": read_digits,
        "cifar10": read_cifar10,
        "cifar100": read_cifar100,
        "folder": read_folder,
        "npz": read_npz,
        "python": read_python,
    },
)


def needs_path(name: str) -> bool:
    """Whether the data set `name` is read from a path that has to be given."""
    path = inspect.signature(READERS[name]).parameters.get("path")
    return path is not None and path.default is inspect.Parameter.empty


def read(name: str, path: str | Path | None = None, **options: object) -> Dataset:
    """The data set `name`, from `path` where it is read from disk.

    A reader's keyword-only parameters are its options. `BnasError` for an unknown name or option, for a path that is
    missing or not wanted, and for what the reader itself finds wrong.
    """
    reader = READERS[name]
    parameters = inspect.signature(reader).parameters
    _check_options(name, parameters, options)
    if "path" not in parameters:
        if path is not None:
            raise BnasError(f"data set '{name}' is not read from disk: leave out the path (found '{path}')")
        return reader(**options)
    if path is None and parameters["path"].default is inspect.Parameter.empty:
        raise BnasError(f"data set '{name}' is read from disk: give the path of its folder or file")
    return reader(path if path is None else Path(os.path.expanduser(path)), **options)


def _check_options(name: str, parameters: Mapping[str, inspect.Parameter], options: Mapping[str, object]) -> None:
    own = {key: parameter for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    missing = [
        key for key, parameter in own.items() if parameter.default is inspect.Parameter.empty and key not in options
    ]
    if missing:
        raise BnasError(f"data set '{name}' needs the option '{missing[0]}'")
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in options:
        if key not in own:
            listed = f"it takes: {', '.join(own)}" if own else "it takes none"
            raise BnasError(f"data set '{name}' has no option '{key}'; {listed}.{nearest(key, own)}")
