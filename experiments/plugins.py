"""What users add from outside: modules with tables (spaces, strategies, schemes, targets), named by import path."""

import importlib
import re
import sys
from collections.abc import Iterable
from typing import Any

from bnas.binary import SCHEMES
from bnas.deploy.targets import TARGETS
from bnas.errors import BnasError
from bnas.registry import Registry
from search_spaces import SPACES
from strategies import STRATEGIES

TABLES: dict[str, Registry[Any]] = {
    "SPACES": SPACES,
    "STRATEGIES": STRATEGIES,
    "SCHEMES": SCHEMES,
    "TARGETS": TARGETS,
}
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def load_plugins(paths: Iterable[str]) -> None:
    """Import each module and add its tables to those of bnas; loading one twice changes nothing.

    The current folder is searched first, as with `python -m`. `BnasError` for what is not an import path, for a module
    that is not there or fails, for one without a table, and for a name that is taken.
    """
    for path in paths:
        _load(path)


def _load(path: str) -> None:
    if not _IMPORT_PATH.fullmatch(path):
        raise BnasError(f"plugin '{path}': expected the import path of a module, such as package.module")
    try:
        sys.path.insert(0, "")
        module = importlib.import_module(path)
    except ImportError as error:
        raise BnasError(f"plugin '{path}' cannot be imported: {error}. Is its folder the current one?") from error
    except Exception as error:
        # Whatever a user's module raises is the user's to mend, and --debug shows where.
        raise BnasError(f"plugin '{path}' fails when it is imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    found = {name: getattr(module, name) for name in TABLES if hasattr(module, name)}
    if not found:
        raise BnasError(f"plugin '{path}' adds nothing: it has none of the tables {', '.join(TABLES)}")
    for name, entries in found.items():
        if not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
            raise BnasError(f"plugin '{path}': {name} is a table name -> factory, got {type(entries).__name__}")
        TABLES[name].register(entries, f"plugin '{path}'")
