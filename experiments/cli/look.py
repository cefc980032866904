"""Commands that show: networks, spaces, machines, and what a job will take."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.application import Device, JsonFile, Plugins, Round, Settings, app, with_plugins


@app.command()
def summary(
    source: Annotated[str, typer.Argument(help="A job, a run folder, a retraining's folder, or a genotype file.")],
    job: Annotated[str | None, typer.Option(help="Job whose data and sizes a genotype file is shown with.")] = None,
    settings: Settings = None,
    plugin: Plugins = None,
    json_file: JsonFile = None,
) -> None:
    """Costs of the network per layer, which layers stay real, and which settings are not the paper's.

    Example: [bold]bnas summary runs/first[/bold]
    """
    from experiments import look_command

    raise typer.Exit(look_command.summary(source, job, with_plugins(settings, plugin), json_file))


@app.command()
def plot(
    source: Annotated[Path, typer.Argument(help="A run folder, a genotype file, or a published name.")],
    to: Annotated[Path | None, typer.Option(help="PNG, SVG or PDF to write; default genotype.png beside it.")] = None,
    round: Round = None,
    json_file: JsonFile = None,
) -> None:
    """Draw the cells of a genotype.

    Example: [bold]bnas plot runs/first --to cell.svg[/bold]
    """
    from experiments import look_command

    raise typer.Exit(look_command.plot(source, to, round, json_file))


@app.command()
def space(
    name: Annotated[str, typer.Argument(help="A search space.")],
    images: Annotated[
        str, typer.Option(help="Channels x height x width of the images that costs are for.")
    ] = "3x32x32",
    classes: Annotated[int, typer.Option(min=1, help="Classes that costs are for.")] = 10,
    settings: Settings = None,
    plugin: Plugins = None,
    to: Annotated[Path | None, typer.Option(help="PNG, SVG or PDF to draw a random architecture into.")] = None,
    json_file: JsonFile = None,
) -> None:
    """What a search space holds: architectures, decisions, what stays real, the cheapest and the dearest network.

    Example: [bold]bnas space bnas_gist --images 3x224x224 --classes 1000 --set retrain.size.stem=imagenet[/bold]
    """
    from experiments import space_command

    raise typer.Exit(space_command.run(name, images, classes, with_plugins(settings, plugin), to, json_file))


@app.command()
def plan(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped job.")],
    settings: Settings = None,
    plugin: Plugins = None,
    genotype: Annotated[
        Path | None, typer.Option(help="Genotype file to retrain; default: one drawn at random.")
    ] = None,
    device: Device = None,
    json_file: JsonFile = None,
) -> None:
    """What a job will take: real steps of each phase at its true sizes give its time, memory and disk. No run is begun.

    Example: [bold]bnas plan cifar10_bats --set data.path=FOLDER[/bold]
    """
    from experiments import plan_command

    raise typer.Exit(plan_command.run(job, with_plugins(settings, plugin), genotype, device, json_file))


@app.command()
def doctor(
    data: Annotated[str | None, typer.Option(help="A data set to try, by name.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder or file of that data set.")] = None,
    json_file: JsonFile = None,
) -> None:
    """What this machine has, and whether its arithmetic is right; exit code 1 if a test fails.

    Example: [bold]bnas doctor --data cifar10 --path FOLDER[/bold]
    """
    from experiments import doctor as machine

    raise typer.Exit(machine.run(data, path, json_file))
