"""Commands on binarization methods."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.application import (
    Device,
    Fresh,
    JsonFile,
    MaxMinutes,
    Plugins,
    Settings,
    app,
    typed_again,
    with_plugins,
)


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


@app.command()
def train(
    name: Annotated[
        Path,
        typer.Argument(help="A fixed network (resnet20, meliusnet22), a published name (bnas_a), a genotype file."),
    ],
    scheme: Annotated[
        str | None, typer.Option(help="How it is binarized (see bnas schemes); default: as its paper has it.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set: digits, cifar10, ...")] = None,
    path: Annotated[str | None, typer.Option(help="Folder or file of the data set.")] = None,
    settings: Settings = None,
    plugin: Plugins = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    id: Annotated[str | None, typer.Option(help="Name of this training; default scheme and seed.")] = None,
    fresh: Fresh = False,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    json_file: JsonFile = None,
) -> None:
    """Train a known network under any scheme; then export, verify and evaluate it as a found one.

    50 epochs of Adam, or SGD from 200 epochs on (--set retrain.recipe.epochs=200); all of it can be --set.

    Example: [bold]bnas train resnet20 --scheme irnet --data cifar10 --path FOLDER[/bold]

    Example: [bold]bnas train meliusnet22 --data digits --set retrain.size.channels=8 --set retrain.size.blocks=1[/bold]
    """
    from experiments import train_command

    raise typer.Exit(
        train_command.run(
            name,
            scheme,
            data,
            path,
            with_plugins(settings, plugin),
            run,
            id,
            fresh,
            device,
            max_minutes,
            json_file,
            again=typed_again(),
        )
    )


Checkpoint = Annotated[Path, typer.Argument(help="A retraining's folder or checkpoint, or a run with just one.")]


@app.command()
def sensitivity(
    checkpoint: Checkpoint,
    images: Annotated[int, typer.Option(help="Validation images to measure on, of the training split.")] = 1000,
    plot: Annotated[
        Path | None, typer.Option(help="PNG, SVG or PDF to draw into; default sensitivity.png beside the checkpoint.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Each binary layer in turn real, and each real one binary: the change of the accuracy, and duplicate filters.

    Example: [bold]bnas sensitivity runs/resnet20 --images 500[/bold]
    """
    from experiments import sensitivity as command

    raise typer.Exit(command.run(checkpoint, images, plot, json_file))


@app.command()
def errors(
    checkpoint: Checkpoint,
    images: Annotated[int, typer.Option(help="Validation images in the one batch, of the training split.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the random directions.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Forward and gradient error of each binary layer and kind of layer: real against binary, surrogate against differences.

    Example: [bold]bnas errors runs/resnet20[/bold]
    """
    from experiments import errors_report

    raise typer.Exit(errors_report.run(checkpoint, images, seed, json_file))


@app.command()
def squeeze(
    checkpoint: Checkpoint,
    threshold: Annotated[float, typer.Option(help="A channel counts whose slope |gamma| is above it.")] = 0.1,
    to: Annotated[
        Path | None, typer.Option(help="Genotype file to write; default squeezed.json beside the checkpoint.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Of a widened network of space widths, trained with the loss slimming: the widths that it needs, as a genotype.

    Example: [bold]bnas squeeze runs/wide --threshold 0.05[/bold]
    """
    from experiments import squeeze_command

    raise typer.Exit(squeeze_command.run(checkpoint, threshold, to, json_file))
