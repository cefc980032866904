"""Commands on binarization methods."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.application import JsonFile, Plugins, app, with_plugins


@app.command()
def schemes(
    name: Annotated[str | None, typer.Argument(help="One scheme, with its options; default: all.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG, SVG or PDF to draw values and gradients into.")] = None,
    plugin: Plugins = None,
    json_file: JsonFile = None,
) -> None:
    """Every binarization scheme: value, surrogate gradient, paper, and whether it packs into XNOR products.

    Example: [bold]bnas schemes --plot schemes.png[/bold]

    Example: [bold]bnas schemes least-squares[/bold]
    """
    from experiments import scheme_command

    with_plugins(None, plugin)
    raise typer.Exit(scheme_command.run(name, plot, json_file))
