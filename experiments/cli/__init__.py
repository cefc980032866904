"""The command line: one command a step of the chain. What each does stands in modules of `experiments` beside this.

Modules like `experiments.commands` are imported inside the commands: torch takes seconds to import, and help, completion
and a misspelt option need none of it. A command belongs to one of the modules here; importing it adds it.
"""

import sys
from typing import Annotated

import typer

import bnas
from bnas.errors import BnasError
from experiments.cli import bench, chain, look, methods, search, study
from experiments.cli.application import app
from experiments.console import fail

__all__ = ["app", "bench", "chain", "look", "main", "methods", "search", "study"]

WRONG_INPUT = 2
BUG = 70


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bnas {bnas.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere on the line.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script: a `BnasError` is one message and exit code 2, without a traceback unless --debug."""
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app(args=arguments)
    except BnasError as error:
        if "--debug" in sys.argv:
            raise
        fail(str(error))
        sys.exit(WRONG_INPUT)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        fail(
            f"{type(error).__name__}: {error}. This is a mistake in bnas; add --debug to see where, and please report it"
        )
        sys.exit(BUG)
