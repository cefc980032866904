"""The table of data readers, and the one function that reads a data set by name."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

from bnas.data.cifar import read_cifar10, read_cifar100
from bnas.data.digits import read_digits
from bnas.data.images import Dataset
from bnas.errors import BnasError, nearest
from bnas.registry import Registry

READERS: Registry[Callable[..., Dataset]] = Registry(
    "data set",
    {
        "digits": read_digits,
        "cifar10": read_cifar10,
        "cifar100": read_cifar100,
    },
)


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
    return reader(path if path is None else Path(path).expanduser(), **options)


def _check_options(name: str, parameters: Mapping[str, inspect.Parameter], options: Mapping[str, object]) -> None:
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    allowed = [key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for key in options:
        if key not in allowed:
            listed = f"it takes: {', '.join(allowed)}" if allowed else "it takes none"
            raise BnasError(f"data set '{name}' has no option '{key}'; {listed}.{nearest(key, allowed)}")
