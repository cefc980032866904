"""Where jobs come from: YAML files, the jobs that bnas ships, tables of plain values; with settings of the command line."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bnas import strict
from bnas.errors import BnasError, nearest
from bnas.rundir import RunFiles
from experiments import yaml_file
from experiments.config import Job, Table, about, completed
from experiments.plugins import load_plugins


def shipped_jobs() -> dict[str, Path]:
    """The jobs that come with bnas, by name."""
    folder = resources.files("experiments") / "jobs"
    return {Path(str(entry)).stem: Path(str(entry)) for entry in sorted(folder.iterdir(), key=str) if _is_yaml(entry)}


def _is_yaml(entry: Any) -> bool:
    return str(entry).endswith(".yaml")


def find_job(name_or_path: str) -> Path:
    """A YAML file, or a shipped job by its name."""
    path = Path(name_or_path)
    jobs = shipped_jobs()
    # A run's folder may have the name of the job that it runs.
    if name_or_path in jobs and not path.is_file():
        return jobs[name_or_path]
    if path.is_dir():
        raise BnasError(f"{path} is a folder; a job is a YAML file, such as the job.yaml in the folder of a run")
    if path.exists():
        return path
    looks_like_file = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    what = f"there is no file {path}" if looks_like_file else f"'{name_or_path}' is neither a file nor a shipped job"
    raise BnasError(f"{what}; bnas ships the jobs {', '.join(jobs)}.{nearest(path.stem, jobs)}")


def load_job(name_or_path: str, settings: Sequence[str] = ()) -> Job:
    """The job of that file or name, with `key=value` settings applied, checked as a whole and completed."""
    path = find_job(name_or_path)
    content = yaml_file.read(path)
    # A file of comments only is a job of defaults.
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise BnasError(f"{path}: a job is a table of keys and values, found {strict.shown(content)}")
    return set_up(content, str(path), settings)


def set_up(content: dict[str, Any], where: str, settings: Sequence[str] = ()) -> Job:
    """The job of nested plain values with `key=value` settings applied; `content` is changed by them."""
    for assignment in settings:
        _apply(content, assignment)
    return make_job(content, " ".join([where, *(f"--set {assignment}" for assignment in settings)]))


def load_plugins_of(files: RunFiles) -> None:
    """Import what the job of a run names as plugins: its genotype may be of a space that one of them adds."""
    if files.job.exists():
        _load_plugins(yaml_file.read(files.job))


def _load_plugins(content: Any) -> None:
    """Import the plugins of a job before it is checked; what is not a list of words is left to the check."""
    paths = content.get("plugins") if isinstance(content, dict) else None
    if isinstance(paths, list | tuple) and all(isinstance(path, str) for path in paths):
        with about("plugins"):
            load_plugins(paths)


def _apply(content: dict[str, Any], assignment: str) -> None:
    """Change nested `content` by `section.key=value`; the value is read as YAML."""
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BnasError(f"--set {assignment}: expected section.key=value, such as search.options.epochs=5")
    table = content
    for depth, name in enumerate(parts[:-1], 1):
        inner = table.get(name)
        if not isinstance(inner, dict | None):
            place = ".".join(parts[:depth])
            raise BnasError(f"--set {assignment}: '{place}' is the value {strict.shown(inner)}, not a table of keys")
        table[name] = {} if inner is None else inner
        table = table[name]
    table[parts[-1]] = yaml_file.parse(text, f"--set {assignment}")


def make_job(content: Table, where: str = "") -> Job:
    """A checked job from nested plain values, with every option of its strategy, space and sizes filled in.

    `BnasError` names `where` (the file that the values are from, if any) and the key.
    """
    try:
        _load_plugins(content)
        return completed(strict.build(Job, content))
    except BnasError as error:
        raise BnasError(f"{where}: {error}" if where else str(error)) from None
