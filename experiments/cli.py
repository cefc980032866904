"""The command line: one command a step of the chain. A thin layer over experiments.api and experiments.deployment."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bnas import atomic
from bnas.cost import measure
from bnas.data import read
from bnas.errors import BnasError, check_choice
from bnas.genotype import Genotype
from bnas.options import describe
from bnas.rundir import RunDir
from experiments import api, deployment
from experiments.config import Job, job_text, load_job, make_job, shipped_jobs
from experiments.console import console, errors, make_reporter, print_cost, size, table
from experiments.genotype_formats import format_for, read_genotype, write_genotype
from experiments.network import find_trained, load_trained
from experiments.plot import draw_genotype, save_figure
from search_spaces import SPACES, space_of
from strategies import STRATEGIES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Binary neural architecture search: search, retrain, pack to one bit per weight, verify, run.",
)
_debug = False

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of the job: --set search.options.epochs=5. Repeatable.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; the old content is renamed, not removed.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1; overrides the job.")]
MaxMinutes = Annotated[float | None, typer.Option(help="Finish the round and stop after this many minutes.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write what is printed to this file.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug


def _write_json(path: Path | None, content: Any) -> None:
    if path is not None:
        atomic.write_text(path, api.as_json(content))
        console.print(f"wrote {path}", markup=False)


def _job(name: str, settings: list[str] | None, device: str | None) -> Job:
    return load_job(name, [*(settings or []), *([f"device={device}"] if device else [])])


@app.command()
def init(
    out: Annotated[Path, typer.Argument(help="The job file to write.")] = Path("job.yaml"),
    space: Annotated[str, typer.Option(help="A search space.")] = "bats",
    strategy: Annotated[str, typer.Option(help="A strategy.")] = "darts",
    data: Annotated[str, typer.Option(help="A data set.")] = "digits",
) -> None:
    """Write a job file with every key, its default and what it means.

    Example: [bold]bnas init my.yaml --space bats --strategy darts[/bold]
    """
    if out.exists():
        raise BnasError(f"{out} exists; name another file, or remove it first")
    SPACES[space]
    STRATEGIES[strategy]
    job = make_job({"data": {"name": data}, "space": {"name": space}, "search": {"strategy": strategy}}, "bnas init")
    atomic.write_text(out, "# A job of bnas. Run it with: bnas search " + f"{out}\n" + job_text(job, explained=True))
    console.print(f"wrote {out}; next: bnas search {out} --run runs/{out.stem}", markup=False)


@app.command()
def search(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped job.")],
    settings: Settings = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/JOB.")] = None,
    fresh: Fresh = False,
    device: Device = None,
    max_minutes: MaxMinutes = None,
    json_file: JsonFile = None,
) -> None:
    """Search an architecture. The same line continues a run that was stopped.

    Example: [bold]bnas search digits_bats --run runs/first --set search.options.epochs=6[/bold]
    """
    folder = run or Path("runs") / Path(job).stem
    loaded = _job(job, settings, device)
    done = api.search(loaded, folder, fresh=fresh, reporter=make_reporter("val_accuracy"), max_minutes=max_minutes)
    if done.genotype is None:
        return
    found = _describe(done.genotype)
    table("found", ("", "value"), list(found.items()))
    console.print(f"{done.files.genotype}; next: bnas retrain {folder}", markup=False)
    _write_json(json_file, {**found, "genotype": done.genotype.to_dict()})


def _describe(genotype: Genotype) -> dict[str, Any]:
    space = space_of(genotype)
    facts = {key: round(value, 4) for key, value in space.facts(genotype).items()}
    return {"space": genotype.space, "digest": space.digest(genotype), **facts}


def _genotype_and_job(
    source: Path, job: str | None, settings: list[str] | None, device: str | None
) -> tuple[Genotype, Job, Path]:
    """The genotype of a run folder or of a file, the job to train it with, and the run folder of the first."""
    extra = [*(settings or []), *([f"device={device}"] if device else [])]
    if source.is_dir():
        files = RunDir(source).files_for_search()
        genotype = api.genotype_of_round(files, None)
        return genotype, load_job(job or str(files.job), extra), source
    genotype = read_genotype(source)
    if job is None:
        raise BnasError(
            f"{source} is a genotype without a job: say with which data and recipe to train it, "
            f"--job FILE or one of {', '.join(shipped_jobs())}"
        )
    return genotype, load_job(job, extra), Path("runs") / source.stem


@app.command()
def retrain(
    source: Annotated[Path, typer.Argument(help="The folder of a finished search, or a genotype file.")],
    job: Annotated[str | None, typer.Option(help="Job to train a genotype file with.")] = None,
    settings: Settings = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; default: that of the search.")] = None,
    id: Annotated[str | None, typer.Option(help="Name of this retraining; default scheme and seed.")] = None,
    fresh: Fresh = False,
    device: Device = None,
    max_minutes: MaxMinutes = None,
) -> None:
    """Train the found architecture from its start, with binary weights and activations.

    Example: [bold]bnas retrain runs/first --set seed=1[/bold]
    """
    genotype, loaded, folder = _genotype_and_job(source, job, settings, device)
    done = api.retrain(
        loaded, genotype, run or folder, id=id, fresh=fresh, reporter=make_reporter("accuracy"), max_minutes=max_minutes
    )
    if done.outcome.status == "finished":
        console.print(f"{done.files.checkpoint}; next: bnas export {done.files.folder}", markup=False)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A retraining's folder or checkpoint (packed), or a run (genotype).")],
    what: Annotated[str, typer.Option(help="packed or genotype.")] = "packed",
    to: Annotated[
        Path | None, typer.Option(help="File to write; of a genotype, its suffix may choose the format.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Of a genotype: json, yaml, darts, dot, svg, png.")] = None,
    round: Annotated[int | None, typer.Option(help="Genotype of this round instead of the last.")] = None,
) -> None:
    """Write the packed network, or the genotype.

    Example: [bold]bnas export runs/first --what genotype --to cell.svg[/bold]
    """
    check_choice("thing to export", what, ("packed", "genotype"))
    if what == "packed":
        if format is not None or round is not None:
            raise BnasError("--format and --round choose a genotype; add --what genotype")
        target, packed = deployment.export_packed(source, to)
        weights = packed.binary_weight_bytes
        console.print(
            f"wrote {target}: {size(target.stat().st_size)}, of it {size(weights())} of binary weights; "
            f"next: bnas verify {target}",
            markup=False,
        )
        return
    genotype = api.genotype_of_round(RunDir(source).files_for_search(), round)
    chosen = format or (format_for(to) if to is not None else "json")
    content = write_genotype(space_of(genotype), genotype, chosen)
    if to is None:
        sys.stdout.buffer.write(content)
    else:
        atomic.write_bytes(to, content)
        console.print(f"wrote {to}", markup=False)


@app.command()
def verify(
    packed: Annotated[Path, typer.Argument(help="A model.bnas file.")],
    checkpoint: Annotated[Path | None, typer.Option(help="The trained network; default: beside the file.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Is the packed network the trained one? Bits and integer sums of every layer decide; exit code 1 if not.

    Example: [bold]bnas verify runs/first/retrain-bats-seed0/model.bnas[/bold]
    """
    report, what = deployment.verify_packed(packed, checkpoint)
    rows = [
        ("verified", "yes" if report.ok else "no"),
        ("layers equal", f"{sum(layer.equal for layer in report.layers)} of {len(report.layers)}"),
        ("compared on", what),
        ("backend", report.backend),
        ("end to end: equal argmax", f"{report.argmax_equal:.2%}"),
        ("end to end: flipped signs", f"{report.sign_flips:,} of {report.signs:,}"),
        ("end to end: largest logit error", f"{report.max_logit_error:.3g}"),
    ]
    table("", ("", "value"), rows)
    _write_json(json_file, {**report.to_dict(), "compared_on": what})
    if not report.ok:
        errors.print(f"first difference: {report.first_difference}", markup=False)
        raise typer.Exit(1)


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
    result = deployment.evaluate(network, read(data, path) if data else None, limit)
    rows = [
        ("accuracy", f"{result.accuracy:.4f}"),
        ("test images", f"{result.images:,}"),
        ("network", result.what),
        *([("note", result.note)] if result.note else []),
    ]
    table("", ("", "value"), rows)
    _write_json(json_file, result.to_dict())


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
    probabilities = deployment.predict(packed, image, resize=resize)
    table("", ("class", "probability"), [(name, f"{p:.4f}") for name, p in list(probabilities.items())[:10]])
    _write_json(json_file, dict(probabilities))


@app.command()
def summary(
    source: Annotated[str, typer.Argument(help="A job, a run folder, a retraining's folder, or a genotype file.")],
    job: Annotated[str | None, typer.Option(help="Job whose data and sizes a genotype file is shown with.")] = None,
    settings: Settings = None,
    json_file: JsonFile = None,
) -> None:
    """Costs of the network per layer, which layers stay real, and which settings are not the paper's.

    Example: [bold]bnas summary runs/first[/bold]
    """
    path = Path(source)
    card, loaded = _summarized(source, path, job, settings)
    if card is not None:
        genotype, spec = card
        model = space_of(genotype).build(genotype, spec)
        cost = measure(model, spec.input_shape)
        title = f"{genotype.space} under {spec.scheme}, {spec.num_classes} classes, " + " x ".join(
            map(str, spec.input_shape)
        )
        console.print(title, style="bold", markup=False)
        print_cost(cost)
        real = [layer.name for layer in cost.layers if layer.macs_real]
        console.print(f"real-valued: {', '.join(real) or 'nothing'}", markup=False)
        content: dict[str, Any] = {"spec": spec.to_dict(), "genotype": genotype.to_dict(), **cost.to_dict()}
    else:
        content = {}
    ours = _not_the_papers(loaded) if loaded is not None else []
    if ours:
        table("settings that are our defaults, not the paper's", ("key", "value"), ours)
    _write_json(json_file, {**content, "not_the_papers": dict(ours)})


def _summarized(
    source: str, path: Path, job: str | None, settings: list[str] | None
) -> tuple[tuple[Genotype, Any] | None, Job | None]:
    """What `summary` was asked for: (genotype, spec) where there is an architecture, and the job where there is one."""
    if path.name == "checkpoint.pt" or path.name.startswith("retrain-"):
        files = find_trained(path)
        card = load_trained(files).card
        return (card.genotype, card.spec), api.job_of(files)
    if path.is_dir() or path.suffix == ".json":
        genotype, loaded, _ = _genotype_and_job(path, job, settings, None)
        data = api.read_data(loaded)
        return (genotype, loaded.spec(loaded.retrain, data.input_shape, data.num_classes)), loaded
    loaded = load_job(source, settings or [])
    data = api.read_data(loaded)
    genotype = api.random_genotype(loaded)
    console.print("an architecture drawn at random stands for the one to be found", markup=False)
    return (genotype, loaded.spec(loaded.retrain, data.input_shape, data.num_classes)), loaded


def _not_the_papers(job: Job) -> list[tuple[str, Any]]:
    """Keys of the strategy, the sizes and the recipe whose value is our default."""
    tables = {
        "search.options": (STRATEGIES[job.search.strategy].options, job.search.options),
        "search.size": (job.make_space().size_class, job.search.size),
        "retrain.recipe": (type(job.retrain.recipe), vars(job.retrain.recipe)),
    }
    return [
        (f"{prefix}.{entry.name}", values[entry.name])
        for prefix, (cls, values) in tables.items()
        for entry in describe(cls)
        if entry.origin == "ours" and values[entry.name] == entry.default
    ]


@app.command()
def plot(
    source: Annotated[Path, typer.Argument(help="A run folder or a genotype file.")],
    to: Annotated[Path | None, typer.Option(help="PNG, SVG or PDF to write; default genotype.png beside it.")] = None,
    round: Annotated[int | None, typer.Option(help="Genotype of this round of a run instead of the last.")] = None,
) -> None:
    """Draw the cells of a genotype.

    Example: [bold]bnas plot runs/first --to cell.svg[/bold]
    """
    if source.is_dir():
        genotype = api.genotype_of_round(RunDir(source).files_for_search(), round)
        target = to or source / "genotype.png"
    else:
        genotype = read_genotype(source)
        target = to or source.with_suffix(".png")
    save_figure(draw_genotype(space_of(genotype), genotype), target)
    console.print(f"wrote {target}", markup=False)


@app.command()
def demo(
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    json_file: JsonFile = None,
) -> None:
    """The whole chain on 8x8 digits in minutes: search, picture, retrain, export, verify, test accuracy.

    Example: [bold]bnas demo[/bold]
    """
    from experiments.demo import run_demo

    _write_json(json_file, run_demo(run))


def main() -> None:
    """The console script: a `BnasError` is one message and exit code 2, without a traceback unless --debug."""
    _guarded(app)


def _guarded(command: Callable[[], Any]) -> None:
    try:
        command()
    except BnasError as error:
        if _debug:
            raise
        errors.print(f"[bold red]error:[/bold red] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(2)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
