"""The application, and the options that several commands share."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bnas.errors import BnasError

EXIT_CODES = (
    "Exit codes: 0 done; 1 verify found a difference, or doctor a fault; 2 wrong input; 3 stopped before the end."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Binary neural architecture search: search, retrain, pack to one bit per weight, verify, run.",
    epilog=EXIT_CODES,
)


def checked_json(path: Path | None) -> Path | None:
    """Refuse at the start what would fail at the end, after hours of training."""
    if path is not None and path.is_dir():
        raise BnasError(f"--json {path}: this is a folder; name a file")
    if path is not None and not path.parent.is_dir():
        raise BnasError(f"--json {path}: there is no folder {path.parent}")
    return path


Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of the job: --set search.options.epochs=5. Repeatable.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; the old content is renamed, not removed.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1; overrides the job.")]
MaxMinutes = Annotated[float | None, typer.Option(help="Finish the round and stop after this many minutes.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", callback=checked_json, help="Also write what is printed to this file.")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="Import path of a module that adds spaces, strategies or schemes. Repeatable."),
]
Backend = Annotated[
    str | None,
    typer.Option(help="Kernels that run the packed network: cpu (the default), reference or triton."),
]
Round = Annotated[int | None, typer.Option(help="Genotype of this round of a run instead of the last.")]


def with_plugins(settings: list[str] | None, plugins: list[str] | None) -> list[str]:
    """The settings with the plugins among them; these are imported now, as a genotype may be of one of their spaces."""
    if not plugins:
        return settings or []
    from experiments.plugins import load_plugins

    load_plugins(plugins)
    return [*(settings or []), f"plugins=[{', '.join(plugins)}]"]


def typed_again() -> str:
    """The command as it was typed, for going on: what it began is not to be begun anew."""
    return shlex.join(["bnas", *(word for word in sys.argv[1:] if word != "--fresh")])
