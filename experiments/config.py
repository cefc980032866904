"""A job: what is searched, on which data, by which strategy, and how the winner is retrained. Frozen and checked."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from bnas import strict
from bnas.binary import make_scheme
from bnas.data import READERS, Augmentation
from bnas.errors import BnasError, nearest
from bnas.options import check_number, describe, option
from bnas.space import NetSpec, SearchSpace
from bnas.training.recipe import Recipe
from bnas.training.retraining import STAGE_MODES, plan_stages
from experiments import yaml_file
from search_spaces import make_space
from strategies import STRATEGIES

Table = Mapping[str, Any]


@dataclass(frozen=True)
class DataJob:
    """Which images."""

    name: str = option("digits", "a data set by name", "ours", choices=tuple(READERS))
    path: str | None = option(None, "folder or file that it is read from; digits need none", "ours")
    options: Table = field(default_factory=dict)


@dataclass(frozen=True)
class SpaceJob:
    """Which architectures."""

    name: str = option("bats", "a search space by name", "ours")
    args: Table = field(default_factory=dict)


@dataclass(frozen=True)
class SearchJob:
    """How the space is searched. `options` are the strategy's, `size` the space's."""

    strategy: str = option("darts", "a strategy by name", "ours", choices=tuple(STRATEGIES))
    options: Table = field(default_factory=dict)
    scheme: str = option("binary-activations", "what is binary while searching", "paper")
    scheme_options: Table = field(default_factory=dict)
    size: Table = field(default_factory=dict)
    batch_size: int = option(64, "images a step, of each half", "code")
    train_fraction: float = option(0.5, "share of the training split that trains weights; the rest judges", "code")
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class RetrainJob:
    """How a found architecture is trained from its start."""

    scheme: str = option("bats", "how weights and activations are binarized", "paper")
    scheme_options: Table = field(default_factory=dict)
    size: Table = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    stages: str = option(
        "auto", "two: real weights first; one: joint; auto: two from 100 epochs on", "ours", choices=STAGE_MODES
    )
    first_stage_weight_decay: float = option(1e-5, "of the real weights, in the first of two stages", "ours")
    init_from_search: bool = option(False, "start from the super-network's weights (needs equal sizes)", "ours")
    augmentation: Augmentation = field(default_factory=Augmentation)
    round_steps: int = option(0, "steps between two checkpoints; 0: an epoch, at most 200 steps", "ours")


@dataclass(frozen=True)
class Job:
    """Everything that `bnas search` and `bnas retrain` need to know."""

    seed: int = option(0, "one seed for everything random", "ours")
    device: str = option("auto", "auto (cuda where there is one), cpu, cuda, cuda:1", "ours")
    deterministic: bool = option(False, "on CUDA: only operations that repeat bit for bit", "ours")
    threads: int = option(0, "CPU threads; 0: as many as torch takes", "ours")
    data: DataJob = field(default_factory=DataJob)
    space: SpaceJob = field(default_factory=SpaceJob)
    search: SearchJob = field(default_factory=SearchJob)
    retrain: RetrainJob = field(default_factory=RetrainJob)

    def make_space(self) -> SearchSpace:
        return make_space(self.space.name, self.space.args)

    def spec(self, part: SearchJob | RetrainJob, input_shape: tuple[int, int, int], num_classes: int) -> NetSpec:
        """What the network of that part of the job is for."""
        return NetSpec(input_shape, num_classes, part.scheme, dict(part.scheme_options), dict(part.size))


# May differ between two starts of one run.
MAY_CHANGE = ("device", "deterministic")
# Smaller values need less memory.
MEMORY_KEYS = {
    "search": ("search.batch_size", "search.size.channels", "search.size.cells"),
    "retrain": ("retrain.recipe.batch_size", "retrain.size.channels", "retrain.size.cells"),
}


def shipped_jobs() -> dict[str, Path]:
    """The jobs that come with bnas, by name."""
    folder = resources.files("experiments") / "jobs"
    return {Path(str(entry)).stem: Path(str(entry)) for entry in sorted(folder.iterdir(), key=str) if _is_yaml(entry)}


def _is_yaml(entry: Any) -> bool:
    return str(entry).endswith(".yaml")


def find_job(name_or_path: str) -> Path:
    """A YAML file, or a shipped job by its name."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    jobs = shipped_jobs()
    if name_or_path in jobs:
        return jobs[name_or_path]
    looks_like_file = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    what = f"there is no file {path}, and" if looks_like_file else f"'{name_or_path}' is neither a file nor a job;"
    near = nearest(path.stem if looks_like_file else name_or_path, jobs)
    raise BnasError(f"{what} bnas ships the jobs {', '.join(jobs)}.{near}")


def load_job(name_or_path: str, settings: Sequence[str] = ()) -> Job:
    """The job of that file or name, with `key=value` settings applied, checked as a whole and completed."""
    path = find_job(name_or_path)
    content = yaml_file.read(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise BnasError(f"{path}: a job is a table of keys and values, got {type(content).__name__}")
    for setting in settings:
        apply_setting(content, setting)
    return make_job(content, str(path))


def apply_setting(content: dict[str, Any], setting: str) -> None:
    """Change nested `content` by `section.key=value`; the value is read as YAML."""
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BnasError(f"--set {setting}: expected section.key=value, such as search.options.epochs=5")
    table = content
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise BnasError(f"--set {setting}: '{part}' is a value, not a table of keys")
        table = inner
    table[parts[-1]] = yaml_file.parse(text, f"--set {key}")


def make_job(content: Table, where: str) -> Job:
    """A checked job from nested plain values, with every option of its strategy and sizes filled in."""
    job = strict.build(Job, content, where)
    try:
        return _completed(job)
    except BnasError as error:
        raise error.within(where) from None


def _completed(job: Job) -> Job:
    check_number("search.batch_size", job.search.batch_size, at_least=1, whole=True)
    check_number("search.train_fraction", job.search.train_fraction, above=0, below=1)
    check_number("retrain.round_steps", job.retrain.round_steps, at_least=0, whole=True)
    check_number("retrain.first_stage_weight_decay", job.retrain.first_stage_weight_decay, at_least=0)
    check_number("threads", job.threads, at_least=0, whole=True)
    READERS[job.data.name]
    space = _at("space", job.make_space)
    parts: dict[str, Any] = {}
    for name, part in (("search", job.search), ("retrain", job.retrain)):
        _at(f"{name}.scheme", lambda part=part: make_scheme(part.scheme, part.scheme_options))
        start = {} if name == "search" else dict(space.retrain_size)
        size = strict.build(space.size_class, {**start, **part.size}, f"{name}.size")
        parts[name] = dataclasses.replace(part, size=dataclasses.asdict(size))
    entry = _at("search.strategy", lambda: STRATEGIES[job.search.strategy])
    options = strict.build(entry.options, job.search.options, "search.options")
    parts["search"] = dataclasses.replace(parts["search"], options=dataclasses.asdict(options))
    retrain = job.retrain
    _at(
        "retrain.stages",
        lambda: plan_stages(retrain.scheme, retrain.scheme_options, retrain.recipe.epochs, mode=retrain.stages),
    )
    return dataclasses.replace(job, **parts)


def _at(key: str, action: Any) -> Any:
    try:
        return action()
    except BnasError as error:
        raise error.within(key) from None


def strategy_options(job: Job) -> Any:
    """The options of the job's strategy as their dataclass."""
    return strict.build(STRATEGIES[job.search.strategy].options, job.search.options, "search.options")


def fingerprint(job: Job, part: str) -> dict[str, Any]:
    """The flat keys that a run of that part ("search" or "retrain") depends on."""
    other = "retrain" if part == "search" else "search"
    flat = dict(_flat(dataclasses.asdict(job), ""))
    return {key: value for key, value in flat.items() if not key.startswith(f"{other}.")}


def _flat(table: Table, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def job_text(job: Job, *, explained: bool = False) -> str:
    """The job as YAML that `load_job` reads back.

    Each default that the papers do not give is marked as ours; `explained` adds what each key means.
    """
    return "\n".join(_lines(job, _dataclasses_of(job), "", 0, explained)) + "\n"


def _dataclasses_of(job: Job) -> dict[str, type]:
    """Which dataclass explains a table of the job that is a plain mapping."""
    size = job.make_space().size_class
    options = STRATEGIES[job.search.strategy].options
    return {"search.options": options, "search.size": size, "retrain.size": size}


def _lines(value: Any, explains: Mapping[str, type], path: str, depth: int, explained: bool) -> Iterator[str]:
    cls = explains.get(path, type(value))
    described = {entry.name: entry for entry in describe(cls)} if dataclasses.is_dataclass(cls) else {}
    items = value.items() if isinstance(value, Mapping) else ((f.name, getattr(value, f.name)) for f in _fields(value))
    indent = "  " * depth
    for key, entry in items:
        inner = f"{path}.{key}" if path else key
        if (isinstance(entry, Mapping) and entry) or dataclasses.is_dataclass(entry):
            yield f"{indent}{key}:"
            yield from _lines(entry, explains, inner, depth + 1, explained)
            continue
        comment = _comment(described[key], entry, explained) if key in described else ""
        yield f"{indent}{key}: {yaml_file.scalar(entry)}{comment}"


def _fields(value: Any) -> tuple[Any, ...]:
    return dataclasses.fields(value)


def _comment(entry: Any, value: Any, explained: bool) -> str:
    ours = value == entry.default and entry.origin == "ours"
    if explained:
        return f"  # {entry.help}{' [our default, not the paper' + chr(39) + 's]' if ours else ''}"
    return "  # our default, not the paper's" if ours else ""


def resolve_device(name: str) -> torch.device:
    """The device of that name; `BnasError` says which there are when it is not one of them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name not in there:
        raise BnasError(f"device: there is no '{name}' here; there is auto, {', '.join(there)}")
    return torch.device(name)
