"""The command that times."""

from pathlib import Path
from typing import Annotated

import typer

from bnas.errors import check_choice
from experiments.cli.application import JsonFile, app


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="gpu: the kernels of the triton back end against cuDNN and cuBLAS.")],
    model: Annotated[Path | None, typer.Option(help="Also time this packed file, at batch 1 in a CUDA graph.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Times of the packed kernels, after their integers were compared with the reference.

    Example: [bold]bnas bench gpu --model runs/first/retrain-bats-seed0/model.bnas --json gpu.json[/bold]
    """
    check_choice("benchmark", what, ["gpu"])
    from experiments import bench_gpu

    raise typer.Exit(bench_gpu.run(model, json_file))
