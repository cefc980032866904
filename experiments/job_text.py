"""A job as YAML, with what each key means and whether its value is the paper's."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bnas.binary.schemes import scheme_options
from bnas.data import READERS
from experiments import yaml_file
from experiments.config import Job
from strategies import STRATEGIES

OURS = "[ours]"
LEGEND = f"# {OURS}: our default; the papers do not give this value."
# Comments start in this column, where the key and its value leave room.
_COMMENT_COLUMN = 34


class Key(NamedTuple):
    """One key of a job. `name` is its full path; `is_table`: other keys are below it."""

    name: str
    value: Any
    help: str
    is_ours: bool
    is_table: bool


def keys(job: Job) -> Iterator[Key]:
    """All keys of a job in the order of its file, each table before what is in it."""
    return _Lister(job).keys(job, "")


def our_defaults(job: Job) -> dict[str, Any]:
    """The keys whose value is a default of ours that the papers do not give."""
    return {key.name: key.value for key in keys(job) if key.is_ours}


def job_text(job: Job, *, explained: bool = False) -> str:
    """The job as YAML that `load_job` reads back. Defaults of ours are marked; `explained` adds what each key means."""
    return "\n".join([LEGEND, *(_line(key, explained) for key in keys(job))]) + "\n"


def _line(key: Key, explained: bool) -> str:
    *above, last = key.name.split(".")
    text = f"{'  ' * len(above)}{yaml_file.scalar(last)}:"
    if not key.is_table:
        text += f" {yaml_file.scalar(key.value)}"
    words = [*([OURS] if key.is_ours else []), *([key.help] if explained else [])]
    return f"{text.ljust(_COMMENT_COLUMN - 2)}  # {' '.join(words)}" if words else text


class _Lister:
    """Knows what explains the tables of a job whose keys depend on its space, strategy, schemes and data."""

    def __init__(self, job: Job) -> None:
        size, reader = job.make_space().size_class, READERS[job.data.name]
        # Plain tables: see `keys`.
        self._explained: dict[str, type | str] = {
            "data.options": f"option of data set {job.data.name}",
            "space.args": f"argument of space {job.space.name}",
            "search.options": STRATEGIES[job.search.strategy].options,
            "search.scheme_options": f"option of scheme {job.search.scheme}",
            "search.size": size,
            "retrain.scheme_options": f"option of scheme {job.retrain.scheme}",
            "retrain.size": size,
        }
        # Tables that start empty: which keys they may have.
        self._possible = {
            "data.options": _parameters(reader, inspect.Parameter.KEYWORD_ONLY),
            "search.scheme_options": list(scheme_options(job.search.scheme)),
            "retrain.scheme_options": list(scheme_options(job.retrain.scheme)),
        }

    def keys(self, table: Any, path: str, explained: type | str = Job) -> Iterator[Key]:
        """`explained`: the dataclass whose fields explain the table, or one sentence for all its keys."""
        fields = {} if isinstance(explained, str) else {field.name: field for field in dataclasses.fields(explained)}
        for name, value in (vars(table) if dataclasses.is_dataclass(table) else table).items():
            inner = f"{path}.{name}" if path else name
            about: Mapping[str, Any] = fields[name].metadata if name in fields else {"help": explained}
            help = str(about["help"])
            if inner in self._possible:
                help += f": {', '.join(self._possible[inner]) or 'it has none'}"
            is_ours = about.get("origin") == "ours" and value == fields[name].default
            is_table = dataclasses.is_dataclass(value) or (isinstance(value, Mapping) and bool(value))
            yield Key(inner, _plain_list(value), help, is_ours, is_table)
            if is_table:
                # A table of options within options is a mapping here; its field says what it is made into.
                made = fields[name].default_factory if name in fields else None
                kind = made if isinstance(made, type) and dataclasses.is_dataclass(made) else help
                below = type(value) if dataclasses.is_dataclass(value) else kind
                yield from self.keys(value, inner, self._explained.get(inner, below))


def _plain_list(value: Any) -> Any:
    """A list of dataclasses as one of tables."""
    if isinstance(value, tuple) and value and all(dataclasses.is_dataclass(entry) for entry in value):
        return [dict(vars(entry)) for entry in value]
    return value


def _parameters(factory: Any, kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD) -> list[str]:
    return [name for name, parameter in inspect.signature(factory).parameters.items() if parameter.kind is kind]
