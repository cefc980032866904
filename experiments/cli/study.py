"""Commands that answer a question with many runs."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.application import (
    Device,
    JsonFile,
    MaxMinutes,
    Plugins,
    Settings,
    app,
    typed_again,
    with_plugins,
)


@app.command()
def compare(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped job; its key compare says what.")],
    settings: Settings = None,
    plugin: Plugins = None,
    run: Annotated[Path | None, typer.Option(help="Folder of all its runs; default runs/compare-JOB.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Entry that the others are compared with; default random, else the first.")
    ] = None,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    json_file: JsonFile = None,
) -> None:
    """Strategies or schemes over several seeds: search, retrain, export, verify and test each; one table.

    The same line continues a comparison that was stopped; what is finished is not done again.

    Example: [bold]bnas compare digits_bats --set seeds=4 --set compare=\\[darts,random][/bold]
    """
    from experiments import compare_command

    raise typer.Exit(
        compare_command.run(
            job, with_plugins(settings, plugin), run, against, device, max_minutes, json_file, again=typed_again()
        ),
    )


@app.command()
def rank(
    run: Annotated[Path, typer.Argument(help="Folder of a search by a strategy with a super-network.")],
    architectures: Annotated[int, typer.Option(help="How many, the found one among them.")] = 8,
    epochs: Annotated[int, typer.Option(help="Of each short training, in one stage.")] = 5,
    settings: Settings = None,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    json_file: JsonFile = None,
) -> None:
    """Do shared weights order architectures as training each alone does? Kendall's tau, on validation images.

    The same line continues what was stopped. The size of the trained networks is that of the job's retraining.

    Example: [bold]bnas rank runs/first --architectures 12 --set retrain.size.cells=8[/bold]
    """
    from experiments import rank_command

    raise typer.Exit(
        rank_command.run(
            run, architectures, epochs, settings or [], device, max_minutes, json_file, again=typed_again()
        ),
    )


@app.command()
def cross(
    job: Annotated[str, typer.Argument(help="A YAML file, or a shipped job; its keys compare and spaces say what.")],
    settings: Settings = None,
    plugin: Plugins = None,
    run: Annotated[Path | None, typer.Option(help="Folder of all its runs; default runs/cross-JOB.")] = None,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    json_file: JsonFile = None,
) -> None:
    """Every strategy on every space: a comparison for each space, and tables of both.

    The same line continues what was stopped.

    Example: [bold]bnas cross digits_cross --set seeds=2[/bold]
    """
    from experiments import cross_command

    raise typer.Exit(
        cross_command.run(
            job, with_plugins(settings, plugin), run, device, max_minutes, json_file, again=typed_again()
        ),
    )
