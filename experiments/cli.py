"""The command line: one command a step of the chain. What each does stands in experiments.commands."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

import bnas
from bnas.errors import BnasError
from experiments.console import fail

# `experiments.commands` is imported inside the commands: torch takes seconds to import, and help, completion and a
# misspelt option need none of it.

WRONG_INPUT = 2
BUG = 70
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


def _checked_json(path: Path | None) -> Path | None:
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
    Path | None, typer.Option("--json", callback=_checked_json, help="Also write what is printed to this file.")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="Import path of a module that adds spaces, strategies or schemes. Repeatable."),
]
Round = Annotated[int | None, typer.Option(help="Genotype of this round of a run instead of the last.")]


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


def _with(settings: list[str] | None, plugins: list[str] | None) -> list[str]:
    """The settings with the plugins among them; these are imported now, as a genotype may be of one of their spaces."""
    if not plugins:
        return settings or []
    from experiments.plugins import load_plugins

    load_plugins(plugins)
    return [*(settings or []), f"plugins=[{', '.join(plugins)}]"]


def _again() -> str:
    """The command as it was typed, for going on: what it began is not to be begun anew."""
    return shlex.join(["bnas", *(word for word in sys.argv[1:] if word != "--fresh")])


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
        commands.search(job, _with(settings, plugin), run, fresh, device, max_minutes, json_file, again=_again()),
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

    changes = [*_with(settings, plugin), *(["retrain.init_from_search=true"] if init_from_search else [])]
    raise typer.Exit(
        commands.retrain(source, job, changes, run, id, fresh, device, max_minutes, json_file, again=_again()),
    )


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="packed: a retraining's folder or checkpoint. genotype: a run's folder or a genotype file."
        ),
    ],
    what: Annotated[str, typer.Option(help="packed or genotype.")] = "packed",
    to: Annotated[
        Path | None,
        typer.Option(
            help="File to write. packed: default model.bnas beside the checkpoint. genotype: default, the terminal."
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Of a genotype: json, yaml, darts, dot, svg, png; default: by the suffix of --to."),
    ] = None,
    round: Round = None,
    json_file: JsonFile = None,
) -> None:
    """Write the packed network, or the genotype.

    Example: [bold]bnas export runs/first[/bold]

    Example: [bold]bnas export runs/first --what genotype --to cell.svg[/bold]
    """
    from experiments import commands

    raise typer.Exit(commands.export(source, what, to, format, round, json_file))


@app.command()
def verify(
    packed: Annotated[Path, typer.Argument(help="A model.bnas file.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint of the trained network, or its folder; default: beside the file.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Is the packed network the trained one? Bits and integer sums of every layer decide; exit code 1 if not.

    Example: [bold]bnas verify runs/first/retrain-bats-seed0/model.bnas[/bold]
    """
    from experiments import commands

    raise typer.Exit(commands.verify(packed, checkpoint, json_file))


@app.command()
def evaluate(
    network: Annotated[Path, typer.Argument(help="A model.bnas file, a retraining's folder or its checkpoint.")],
    data: Annotated[str | None, typer.Option(help="Data set by name; default: that of the run beside it.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder or file of the data set.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many test images.", min=1)] = None,
    json_file: JsonFile = None,
) -> None:
    """Accuracy on the test split: of a packed file by the packed runtime, of a checkpoint by torch.

    Example: [bold]bnas evaluate runs/first/retrain-bats-seed0/model.bnas[/bold]
    """
    from experiments import commands

    raise typer.Exit(commands.evaluate(network, data, path, limit, json_file))


@app.command()
def predict(
    packed: Annotated[Path, typer.Argument(help="A model.bnas file.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    resize: Annotated[bool, typer.Option("--resize", help="Fit an image of another size.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Classes of one image with their probabilities.

    Example: [bold]bnas predict model.bnas cat.png --resize[/bold]
    """
    from experiments import commands

    raise typer.Exit(commands.predict(packed, image, resize, json_file))


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
    from experiments import commands

    raise typer.Exit(commands.summary(source, job, _with(settings, plugin), json_file))


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
    from experiments import commands

    raise typer.Exit(commands.plot(source, to, round, json_file))


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

    raise typer.Exit(space_command.run(name, images, classes, _with(settings, plugin), to, json_file))


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

    raise typer.Exit(plan_command.run(job, _with(settings, plugin), genotype, device, json_file))


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


@app.command()
def demo(
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    json_file: JsonFile = None,
) -> None:
    """The whole chain on 8x8 digits in minutes: search, picture, retrain, export, verify, test accuracy.

    Example: [bold]bnas demo[/bold]
    """
    from experiments import commands

    raise typer.Exit(commands.demo(run, json_file, again=_again()))


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
