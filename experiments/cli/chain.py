"""Commands of the chain: a job, search, retrain, export, verify, evaluate, predict."""

import json
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.application import (
    Backend,
    Device,
    Fresh,
    JsonFile,
    MaxMinutes,
    Plugins,
    Round,
    Settings,
    app,
    typed_again,
    with_plugins,
)


@app.command()
def init(
    out: Annotated[Path, typer.Argument(help="The job file to write.")] = Path("job.yaml"),
    space: Annotated[str, typer.Option(help="A search space.")] = "bats",
    strategy: Annotated[str, typer.Option(help="A strategy.")] = "darts",
    data: Annotated[str, typer.Option(help="A data set: digits, cifar10, cifar100, folder, npz, python.")] = "digits",
    path: Annotated[str | None, typer.Option(help="Folder or file of the data set; digits need none.")] = None,
) -> None:
    """Write a job file with every key, its default and what it means.

    Example: [bold]bnas init my.yaml --space bats --strategy darts[/bold]
    """
    from experiments import commands

    raise typer.Exit(commands.init(out, space, strategy, data, path))


@app.command()
def search(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped job.")],
    settings: Settings = None,
    plugin: Plugins = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/JOB.")] = None,
    fresh: Fresh = False,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    json_file: JsonFile = None,
) -> None:
    """Search an architecture. The same line continues a run that was stopped (by Ctrl-C, say; exit code 3).

    Example: [bold]bnas search digits_bats --run runs/first --set search.options.epochs=6[/bold]
    """
    from experiments import commands

    raise typer.Exit(
        commands.search(
            job, with_plugins(settings, plugin), run, fresh, device, max_minutes, json_file, again=typed_again()
        ),
    )


@app.command()
def retrain(
    source: Annotated[
        Path, typer.Argument(help="The folder of a finished search, a genotype file, or a published name (bnas_a).")
    ],
    job: Annotated[
        str | None, typer.Option(help="Job to train with; default: that of the search. A genotype file needs one.")
    ] = None,
    settings: Settings = None,
    plugin: Plugins = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; default: that of the search.")] = None,
    id: Annotated[str | None, typer.Option(help="Name of this retraining; default scheme and seed.")] = None,
    init_from_search: Annotated[
        bool, typer.Option("--init-from-search", help="Start from the super-network's weights (needs equal sizes).")
    ] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of another retraining (real-valued, or of other images): its folder or checkpoint."
        ),
    ] = None,
    fresh: Fresh = False,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    json_file: JsonFile = None,
) -> None:
    """Train the found architecture from its start, with binary weights and activations.

    The same line continues a run that was stopped.

    Example: [bold]bnas retrain runs/first --set seed=1[/bold]
    """
    from experiments import commands

    changes = [*with_plugins(settings, plugin), *(["retrain.init_from_search=true"] if init_from_search else [])]
    if init_from is not None:
        changes.append(f"retrain.init_from={json.dumps(str(init_from))}")
    raise typer.Exit(
        commands.retrain(source, job, changes, run, id, fresh, device, max_minutes, json_file, again=typed_again()),
    )


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="A retraining's folder or checkpoint; for onnx and c a packed file too; for a genotype a run's folder or "
            "a genotype file. Default: this folder."
        ),
    ] = Path("."),
    what: Annotated[
        str | None, typer.Option(help="packed, genotype, onnx or c; default: by --to, else packed.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="File to write (.bnas, .onnx, .c), or only 'onnx' or 'c'; default model.bnas, model.onnx or model.c and "
            "model.h beside the checkpoint. genotype: default, the terminal."
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Of a genotype: json, yaml, darts, dot, svg, png; default: by the suffix of --to."),
    ] = None,
    round: Round = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="onnx, c: run it, by onnxruntime or a C compiler, and compare every operation with the packed runtime.",
        ),
    ] = True,
    json_file: JsonFile = None,
) -> None:
    """Write the packed network (also as ONNX, or as C for microcontrollers), or the genotype.

    Example: [bold]bnas export runs/first[/bold]

    Example: [bold]bnas export runs/first --to c[/bold]

    Example: [bold]bnas export runs/first/retrain-bats-seed0/model.bnas --to net.onnx[/bold]

    Example: [bold]bnas export runs/first --what genotype --to cell.svg[/bold]
    """
    from experiments import packed_command

    raise typer.Exit(packed_command.export(source, what, to, format, round, check, json_file))


@app.command()
def verify(
    packed: Annotated[Path, typer.Argument(help="A model.bnas file.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint of the trained network, or its folder; default: beside the file.")
    ] = None,
    backend: Backend = None,
    json_file: JsonFile = None,
) -> None:
    """Is the packed network the trained one? Bits and integer sums of every layer decide; exit code 1 if not.

    Example: [bold]bnas verify runs/first/retrain-bats-seed0/model.bnas[/bold]
    """
    from experiments import packed_command

    raise typer.Exit(packed_command.verify(packed, checkpoint, backend, json_file))


@app.command()
def evaluate(
    networks: Annotated[
        list[Path],
        typer.Argument(help="A model.bnas file, a retraining's folder or its checkpoint; several: an ensemble."),
    ],
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="The mean of the networks' class probabilities.")
    ] = False,
    data: Annotated[str | None, typer.Option(help="Data set by name; default: that of the run beside it.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder or file of the data set.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many test images.", min=1)] = None,
    backend: Backend = None,
    json_file: JsonFile = None,
) -> None:
    """Accuracy on the test split: of a packed file by the packed runtime, of a checkpoint by torch.

    Example: [bold]bnas evaluate runs/first/retrain-bats-seed0/model.bnas[/bold]

    Example: [bold]bnas evaluate runs/a runs/b runs/c --ensemble[/bold]
    """
    from experiments import packed_command

    raise typer.Exit(packed_command.evaluate(networks, ensemble, data, path, limit, backend, json_file))


@app.command()
def predict(
    packed: Annotated[Path, typer.Argument(help="A model.bnas file.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    resize: Annotated[bool, typer.Option("--resize", help="Fit an image of another size.")] = False,
    backend: Backend = None,
    json_file: JsonFile = None,
) -> None:
    """Classes of one image with their probabilities.

    Example: [bold]bnas predict model.bnas cat.png --resize[/bold]
    """
    from experiments import packed_command

    raise typer.Exit(packed_command.predict(packed, image, resize, backend, json_file))


@app.command()
def demo(
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    json_file: JsonFile = None,
) -> None:
    """The whole chain on 8x8 digits in minutes: search, picture, retrain, export, verify, test accuracy.

    Example: [bold]bnas demo[/bold]
    """
    from experiments import commands

    raise typer.Exit(commands.demo(run, json_file, again=typed_again()))
