"""Commands that time: each checks first that what it times is right."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from experiments.cli.application import JsonFile, app


class _OrAFile(TyperGroup):
    """`bnas bench model.bnas` means `bnas bench model model.bnas`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0].endswith(".bnas"):
            args = ["model", *args]
        return super().resolve_command(ctx, args)


bench = typer.Typer(
    cls=_OrAFile,
    no_args_is_help=True,
    help="Times, each taken after the results were compared: kernels, a packed file (bnas bench model.bnas), gpu.",
)
app.add_typer(bench, name="bench")

Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every candidate; default: torch's number.")]
Rounds = Annotated[int, typer.Option(min=3, help="How many times each candidate has its turn.")]
Batch = Annotated[list[int] | None, typer.Option(min=1, help="Images at once; repeatable. Default 1 and 64.")]
StepBatch = Annotated[int, typer.Option(min=1, help="Images a step.")]
Cells = Annotated[int, typer.Option(min=3, help="Cells in the chain, where a space has cells.")]
Channels = Annotated[int, typer.Option(min=1, help="Channels of a network's first cells, or of its narrowest part.")]
Precision = Annotated[str, typer.Option(help="float32, or bfloat16: under autocast.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@bench.command()
def kernels(
    group: Annotated[list[str] | None, typer.Option(help="resnet18, cifar_cell, linear; repeatable.")] = None,
    batch: Batch = None,
    threads: Threads = None,
    rounds: Rounds = 15,
    json_file: JsonFile = None,
) -> None:
    """Packed layers by shape, packing included, against torch float32, bfloat16 and int8 and onnxruntime int8.

    Example: [bold]bnas bench kernels --group resnet18 --threads 1 --json kernels.json[/bold]
    """
    from experiments import bench_kernels

    raise typer.Exit(bench_kernels.run(group, batch, threads, rounds, json_file))


@bench.command()
def model(
    packed: Annotated[
        Path, typer.Argument(help="A model.bnas file; or birealnet18, bats20, vgg_small: untrained networks made here.")
    ],
    batch: Batch = None,
    threads: Threads = None,
    rounds: Rounds = 9,
    json_file: JsonFile = None,
) -> None:
    """A packed network on each back end and layer by layer, against the same network in torch with real values.

    Example: [bold]bnas bench runs/first/retrain-bats-seed0/model.bnas[/bold]
    """
    from experiments import bench_model

    raise typer.Exit(bench_model.run(packed, batch, threads, rounds, json_file))


@bench.command()
def gpu(
    model: Annotated[Path | None, typer.Option(help="Also time this packed file, at batch 1 in a CUDA graph.")] = None,
    json_file: JsonFile = None,
) -> None:
    """The kernels of the triton back end against cuDNN and cuBLAS.

    Example: [bold]bnas bench gpu --model runs/first/retrain-bats-seed0/model.bnas --json gpu.json[/bold]
    """
    from experiments import bench_gpu

    raise typer.Exit(bench_gpu.run(model, json_file))


@bench.command()
def supernet(
    space: Annotated[list[str] | None, typer.Option(help="A space of cells; repeatable. Default: all of them.")] = None,
    batch: StepBatch = 64,
    cells: Cells = 8,
    channels: Channels = 16,
    precision: Precision = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    rounds: Rounds = 9,
    json_file: JsonFile = None,
) -> None:
    """A step of a differentiable search: the super-network as it runs against its plain form, candidate by candidate.

    Example: [bold]bnas bench supernet --space bnas_gist --batch 16 --rounds 3 --threads 1[/bold]
    """
    from experiments import bench_supernet
    from experiments.config import resolve_device

    setup = bench_supernet.Setup(batch, cells, channels, precision, resolve_device(device).type)
    raise typer.Exit(bench_supernet.run(space, setup, threads, rounds, json_file))


@bench.command()
def score(
    space: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable. Default: bats, bnas_gist, cp_nas, widths, group_mobilenet."),
    ] = None,
    scheme: Annotated[str, typer.Option(help="A scheme of one sign by one sign multiplies bits.")] = "xnor",
    batch: Annotated[int, typer.Option(min=2, help="Images at once.")] = 64,
    images: Annotated[int, typer.Option(min=1, help="Images that a path is scored by.")] = 128,
    paths: Annotated[int, typer.Option(min=1, help="Paths, as evolution breeds them.")] = 10,
    parents: Annotated[int, typer.Option(min=1, help="Random paths that these are children of.")] = 3,
    cells: Cells = 8,
    channels: Channels = 36,
    norms: Annotated[str, typer.Option(help="batch, or recalibrated: on two training batches.")] = "batch",
    threads: Threads = None,
    rounds: Rounds = 5,
    json_file: JsonFile = None,
) -> None:
    """Scoring a population of paths: binary convolutions of numbers against packed bits, apart against sharing.

    Example: [bold]bnas bench score --space bats --paths 4 --rounds 3 --threads 1[/bold]
    """
    from experiments import bench_score

    setup = bench_score.Setup(batch, cells, channels, images, paths, parents, scheme, norms)
    raise typer.Exit(bench_score.run(space, setup, threads, rounds, json_file))


@bench.command()
def train(
    batch: StepBatch = 64,
    cells: Cells = 20,
    channels: Channels = 36,
    precision: Precision = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    rounds: Rounds = 9,
    json_file: JsonFile = None,
) -> None:
    """A step of a retraining of a `bats` network as it runs, against the same network written plainly.

    Example: [bold]bnas bench train --batch 8 --rounds 5 --threads 1[/bold]
    """
    from experiments import bench_train
    from experiments.config import resolve_device

    setup = bench_train.Setup(batch, cells, channels, precision, resolve_device(device).type)
    raise typer.Exit(bench_train.run(setup, threads, rounds, json_file))


@bench.command()
def search(
    strategy: Annotated[list[str] | None, typer.Option(help="A strategy; repeatable. Default: all of them.")] = None,
    space: Annotated[list[str] | None, typer.Option(help="A space; repeatable. Default: all of them.")] = None,
    batch: StepBatch = 8,
    cells: Cells = 3,
    channels: Channels = 8,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a round.")] = 4,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each search; the first is not timed.")] = 3,
    data: Annotated[str | None, typer.Option(help="A data set instead of noise of 32 x 32 pixels.")] = None,
    path: Annotated[str | None, typer.Option(help="Where that data set lies.")] = None,
    device: Device = "cpu",
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Images a second of each strategy on each space, and the share of time in network, data, optimizer, bookkeeping.

    Example: [bold]bnas bench search --strategy darts --space bats --threads 1[/bold]
    """
    from experiments import bench_search
    from experiments.config import resolve_device

    setup = bench_search.Setup(batch, cells, channels, steps, rounds, resolve_device(device).type)
    raise typer.Exit(bench_search.run(strategy, space, setup, data, path, threads, json_file))
