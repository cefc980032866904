"""Commands that serve a search: what the steps of its networks take on this device."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.application import JsonFile, Plugins, Settings, app, with_plugins


@app.command()
def profile(
    job: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped job: its space and its retraining.")
    ],
    table: Annotated[Path, typer.Option(help="JSON file of the measured steps; what it lacks is added.")],
    settings: Settings = None,
    plugin: Plugins = None,
    backend: Annotated[str, typer.Option(help="Kernels of the binary operations: cpu, reference.")] = "cpu",
    runs: Annotated[int, typer.Option(help="Timed runs of each network with steps that are new.")] = 50,
    patience: Annotated[int, typer.Option(help="Random architectures in a row that must bring nothing new.")] = 30,
    check: Annotated[
        Path | None,
        typer.Option(help="A run folder or genotype file: print its predicted and measured latency instead."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure every step that networks of a job's search space take, for `search.options.budget.latency_table`.

    Example: [bold]bnas profile digits_bats --table latency.json[/bold]
    """
    from experiments import profile_command

    raise typer.Exit(
        profile_command.run(job, with_plugins(settings, plugin), table, backend, runs, patience, check, json_file)
    )
