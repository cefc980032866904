"""The way in for a reader of the user's own, named by its import path."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

from bnas.data.images import Dataset
from bnas.errors import BnasError, nearest


def read_python(path: Path | None = None, *, reader: object, **options: object) -> Dataset:
    """What the function `reader` ("package.module:function") returns for (path, **options).

    This imports and runs the named code, as nothing else about a job does. `BnasError` where the path is none, the
    module or the function is not there, it does not take these options, or what it returns is no `Dataset`.
    An error inside the function is its own and comes through as it is.
    """
    function = _import(reader)
    try:
        inspect.signature(function).bind(path, **options)
    except TypeError as error:
        raise BnasError(
            f"reader '{reader}' cannot be called with the path and options {sorted(options)}: {error}"
        ) from None
    data = function(path, **options)
    if not isinstance(data, Dataset):
        raise BnasError(f"reader '{reader}' must return a bnas.data.Dataset; it returned {type(data).__name__}")
    return data


def _import(reader: object) -> Callable[..., object]:
    module_name, colon, name = str(reader).partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise BnasError(f"reader must be an import path 'package.module:function'; found '{reader}'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the named one fails to find is that module's bug, not a misspelt name.
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise BnasError(
            f"reader '{reader}': there is no module '{error.name}'; it must be installed, or its folder on PYTHONPATH"
        ) from None
    function: Callable[..., object] | None = getattr(module, name, None)
    if function is None or not callable(function):
        callables = [key for key, value in vars(module).items() if callable(value)]
        raise BnasError(
            f"reader '{reader}': module '{module_name}' has no function '{name}'.{nearest(name, callables)}"
        )
    return function
