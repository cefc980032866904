"""What `bnas summary` and `bnas plot` do. Each returns the exit code."""

from collections.abc import Sequence
from pathlib import Path

from bnas.cost import measure
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.rundir import RunDir, retraining_at
from bnas.space import NetSpec
from experiments import api, deployment, latency_report, sources
from experiments.commands import DONE
from experiments.config import Job
from experiments.console import facts, print_cost, say, table, write_json
from experiments.graph_words import graphs_of
from experiments.job_files import load_job, make_job
from experiments.job_text import our_defaults
from experiments.network import find_trained, load_trained
from experiments.yaml_file import scalar
from search_spaces import space_of

# Large enough for every stem; the size of images changes nothing in a drawing.
DRAWN_IMAGES = (3, 224, 224)


def summary(source: str, job: str | None, settings: Sequence[str], json_file: Path | None) -> int:
    genotype, spec, loaded, note = _summarized(source, job, settings)
    cost = measure(space_of(genotype).build(genotype, spec), spec.input_shape)
    shape = " x ".join(map(str, spec.input_shape))
    say(f"{genotype.space} under {spec.scheme}, {spec.num_classes} classes, images of {shape}")
    if note:
        say(note)
    print_cost(cost)
    real = [layer.name for layer in cost.layers if layer.macs_real]
    say(f"real-valued: {', '.join(real) or 'nothing'}")
    rows, latency = latency_report.of_winner(loaded, genotype)
    facts(rows)
    ours = our_defaults(loaded)
    if ours:
        table(
            "\nour defaults, which the papers do not give",
            ("key", "value"),
            [(key, scalar(value)) for key, value in ours.items()],
        )
    if json_file is not None:
        content = {"spec": spec.to_dict(), "genotype": genotype.to_dict(), "note": note, **cost.to_dict()}
        write_json(json_file, {**content, "real_valued": real, "our_defaults": ours, **latency})
    return DONE


def _summarized(source: str, job: str | None, settings: Sequence[str]) -> tuple[Genotype, NetSpec, Job, str | None]:
    """What `summary` was asked for: an architecture, what its network is for, the job, and a note."""
    path = Path(source)
    if deployment.is_packed_file(path):
        raise BnasError(f"{path} is a packed network: name the folder of the retraining that it was made from")
    if retraining_at(path) is not None:
        if settings or job:
            raise BnasError(f"{source} is trained: --set and --job change nothing about it")
        files = find_trained(path)
        card = load_trained(files).card
        return card.genotype, card.spec, api.job_of(files), None
    note = None
    if path.is_dir() or sources.is_genotype(path):
        genotype, loaded, job_file, _ = sources.genotype_job_folder(path, job, settings)
    else:
        job_file, loaded = source, load_job(source, settings)
        genotype = api.random_genotype(loaded)
        note = "an architecture drawn at random stands for the one to be found"
    with sources.naming(job_file):
        data = api.read_data(loaded)
    return genotype, loaded.spec(loaded.retrain, data.input_shape, data.num_classes), loaded, note


def plot(source: Path, to: Path | None, round: int | None, json_file: Path | None) -> int:
    from experiments.plot import draw_genotype, save_figure

    genotype = sources.read_genotype(source, round)
    space = space_of(genotype)
    target = to or (source / "genotype.png" if source.is_dir() else source.with_suffix(".png"))
    save_figure(draw_genotype(space, genotype, spec=_spec_to_draw(source, genotype)), target)
    say(f"wrote {target}")
    if json_file is not None:
        graphs = graphs_of(space, genotype).items()
        write_json(json_file, {name: [list(edge) for edge in graph.edges.data("choice")] for name, graph in graphs})
    return DONE


def _spec_to_draw(source: Path, genotype: Genotype) -> NetSpec:
    """The network that the source is retrained as: by the job of its run, else at the size of the papers."""
    files = RunDir(source if source.is_dir() else source.parent).files_for_search()
    of_run = files.is_started() and (source.is_dir() or source == files.genotype)
    space = {"name": genotype.space, "args": dict(genotype.space_args)}
    job = api.job_of(files) if of_run else make_job({"space": space})
    return job.spec(job.retrain, DRAWN_IMAGES, 10)
