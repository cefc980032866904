"""What the commands of the command line do. Each returns the exit code."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas import atomic
from bnas.cost import measure
from bnas.data import READERS, read
from bnas.deploy.verify import VerifyReport
from bnas.errors import BnasError, check_choice
from bnas.genotype import FORMAT, LARGEST_FILE_BYTES, Genotype
from bnas.rundir import RunDir, retraining_at
from bnas.space import NetSpec
from experiments import api, deployment, export_command, latency_report
from experiments.config import Job, JobError, load_job, make_job, set_up, shipped_jobs
from experiments.console import Counter, facts, fail, hint, make_reporter, print_cost, say, size, table, write_json
from experiments.export_targets import chosen_target
from experiments.genotype_formats import format_for, write_genotype
from experiments.job_text import job_text, our_defaults
from experiments.network import find_trained, load_trained
from experiments.plot import draw_genotype, graphs_of, save_figure
from experiments.yaml_file import scalar
from search_spaces import SPACES, space_of
from search_spaces.published import about
from strategies import STRATEGIES

DONE, DIFFERENT, STOPPED = 0, 1, 3
# Large enough for every stem; the size of images changes nothing in a drawing.
DRAWN_IMAGES = (3, 224, 224)
MOST_CLASSES_SHOWN = 10
BINARY_FORMATS = ("png",)


@contextlib.contextmanager
def _naming(job: str) -> Iterator[None]:
    """Put the job's file in front of what is wrong with one of its keys."""
    try:
        yield
    except JobError as error:
        raise error.within(job) from None


def _settings(settings: Sequence[str], device: str | None) -> list[str]:
    return [*settings, *([f"device={device}"] if device else [])]


def init(out: Path, space: str, strategy: str, data: str, path: str | None) -> int:
    if out.exists():
        raise BnasError(f"{out} exists; name another file, or remove it first")
    check_choice("search space", space, SPACES)
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("data set", data, READERS)
    content: dict[str, Any] = {
        "data": {"name": data, "path": path},
        "space": {"name": space},
        "search": {"strategy": strategy},
    }
    fields = {field.name for field in dataclasses.fields(SPACES[space]().size_class)}
    if data == "digits" and "auxiliary" in fields:
        # The auxiliary head does not fit on what is left of 8x8 pixels.
        content["retrain"] = {"size": {"auxiliary": False}}
    job = make_job(content, "bnas init")
    atomic.write_text(out, f"# A job of bnas. Run it with: bnas search {out}\n{job_text(job, explained=True)}")
    say(f"wrote {out}")
    hint("next", f"bnas search {out} --run runs/{out.stem}")
    return DONE


def search(
    job: str,
    settings: Sequence[str],
    run: Path | None,
    fresh: bool,
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    folder = run or Path("runs") / Path(job).stem
    loaded = load_job(job, _settings(settings, device))
    with _naming(job):
        done = api.search(loaded, folder, fresh=fresh, reporter=make_reporter("val_accuracy"), max_minutes=max_minutes)
    found: dict[str, Any] = {}
    if done.genotype is not None:
        found = _described(done.genotype)
        rows, latency = latency_report.of_winner(loaded, done.genotype)
        facts([("found", done.files.genotype), *found.items(), *rows])
        found |= latency
        hint("next", f"bnas retrain {folder}")
    content = {**_outcome(done), **found, "genotype": done.genotype and done.genotype.to_dict()}
    return _end(done, content, json_file, again)


def _described(genotype: Genotype) -> dict[str, Any]:
    space = space_of(genotype)
    facts_of_it = {key: round(value, 4) for key, value in space.facts(genotype).items()}
    return {"space": genotype.space, "digest": space.digest(genotype), **facts_of_it}


def _outcome(done: api.Run) -> dict[str, Any]:
    outcome = done.outcome
    return {"status": outcome.status, "rounds_done": outcome.rounds_done, "rounds_total": outcome.rounds_total}


def _end(done: api.Run, content: Mapping[str, Any], json_file: Path | None, again: str) -> int:
    """The last words of a search or a retraining, and its exit code."""
    if json_file is not None:
        write_json(json_file, content)
    if done.finished:
        return DONE
    hint("to go on", again)
    return STOPPED


def retrain(
    source: Path,
    job: str | None,
    settings: Sequence[str],
    run: Path | None,
    id: str | None,
    fresh: bool,
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    genotype, loaded, job_file, folder = _genotype_job_folder(source, job, _settings(settings, device))
    with _naming(job_file):
        done = api.retrain(
            loaded,
            genotype,
            run or folder,
            id=id,
            fresh=fresh,
            reporter=make_reporter("accuracy"),
            max_minutes=max_minutes,
        )
    return end_of_training(done, json_file, again)


def end_of_training(done: api.Run, json_file: Path | None, again: str) -> int:
    """The last words of a retraining, and the exit code."""
    history = done.history()
    content = {
        **_outcome(done),
        "last_round": history[-1] if history else None,
        "checkpoint": str(done.files.checkpoint),
    }
    if done.finished:
        say(f"wrote {done.files.checkpoint}")
        hint("next", f"bnas export {done.files.folder}")
    return _end(done, content, json_file, again)


def _genotype_job_folder(source: Path, job: str | None, settings: Sequence[str]) -> tuple[Genotype, Job, str, Path]:
    """The genotype of a run, a file or a published name, the job to train it with and its name, the run's folder."""
    if source.is_file() and source == RunDir(source.parent).files_for_search().genotype:
        # The genotype.json of a run stands for the run.
        source = source.parent if RunDir(source.parent).files_for_search().is_started() else source
    if source.is_dir():
        if retraining_at(source) is not None:
            run = Path(os.path.abspath(source)).parent
            raise BnasError(
                f"{source} is a retraining, not a search: name its run, {run}, or a genotype file with --job"
            )
        files = RunDir(source).files_for_search()
        genotype, job = api.genotype_of_round(files), job or str(files.job)
        return genotype, load_job(job, settings), job, source
    genotype = api.load_genotype(source)
    if job is None and api.is_published(source):
        return (
            genotype,
            _published_job(str(source), genotype, settings),
            f"bnas retrain {source}",
            Path("runs") / source,
        )
    if job is None:
        raise BnasError(
            f"{source} is a genotype without a job: say with which data and recipe to train it, "
            f"--job FILE or one of {', '.join(shipped_jobs())}"
        )
    return genotype, load_job(job, settings), job, Path("runs") / source.stem


def _published_job(name: str, genotype: Genotype, settings: Sequence[str]) -> Job:
    """The job of a published genotype: its space, the first of its published networks, our recipe, the user's images."""
    if not any(assignment.split("=")[0].strip() == "data.name" for assignment in settings):
        raise BnasError(
            f"{name} is a published genotype without images to train it on: add --set data.name=cifar10 "
            f"--set data.path=FOLDER, or --job FILE or one of {', '.join(shipped_jobs())}"
        )
    network = next(iter(about(name)["networks"].values()))
    retrain = {key: network[key] for key in ("size", "scheme", "scheme_options") if key in network}
    content = {"space": {"name": genotype.space, "args": dict(genotype.space_args)}, "retrain": retrain}
    return set_up(content, f"published genotype {name}", settings)


def read_genotype(source: Path, round: int | None) -> Genotype:
    if not source.is_file() and not (round is None and api.is_published(source)):
        if not source.exists():
            raise BnasError(f"there is no file or folder {source}")
        return api.genotype_of_round(RunDir(source).files_for_search(), round)
    if round is not None:
        raise BnasError(f"--round chooses a round of a run; {source} is a file with one genotype")
    return api.load_genotype(source)


def export(
    source: Path,
    what: str | None,
    to: Path | None,
    format: str | None,
    round: int | None,
    check: bool,
    json_file: Path | None,
) -> int:
    chosen, to = chosen_target(what, to)
    if chosen == "genotype":
        return _export_genotype(source, to, format, round, json_file)
    if format is not None or round is not None:
        raise BnasError("--format and --round choose a genotype; add --what genotype")
    if chosen in ("onnx", "c"):
        return export_command.other(chosen, source, to, check, json_file)
    target, packed = deployment.export_packed(source, to)
    total, binary = target.stat().st_size, packed.binary_weight_bytes()
    say(f"wrote {target}: {size(total)}, of it {size(binary)} of binary weights")
    hint("next", f"bnas verify {target}")
    if json_file is not None:
        write_json(json_file, {"file": str(target), "bytes": total, "binary_weight_bytes": binary})
    return DONE


def _export_genotype(
    source: Path, to: Path | None, format: str | None, round: int | None, json_file: Path | None
) -> int:
    genotype = read_genotype(source, round)
    chosen = format_for(format) if format else (format_for(to) if to is not None else "json")
    content = write_genotype(space_of(genotype), genotype, chosen)
    if to is not None:
        atomic.write_bytes(to, content)
        say(f"wrote {to}")
    elif chosen in BINARY_FORMATS and sys.stdout.isatty():
        raise BnasError(f"a terminal does not show {chosen}: name a file with --to")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    if json_file is not None:
        write_json(json_file, genotype.to_dict())
    return DONE


def verify(packed: Path, checkpoint: Path | None, json_file: Path | None) -> int:
    report, what = deployment.verify_packed(packed, checkpoint)
    first = [] if report.ok else [("first difference", report.first_difference)]
    facts(
        [
            ("verified", "yes" if report.ok else "no"),
            *first,
            ("layers equal", _layers_equal(report)),
            ("compared on", what),
            ("backend", report.backend),
            ("end to end: equal argmax", f"{report.argmax_equal:.2%}"),
            ("end to end: flipped signs", f"{report.sign_flips:,} of {report.signs:,}"),
            ("end to end: largest logit error", f"{report.max_logit_error:.3g}"),
        ]
    )
    if json_file is not None:
        write_json(json_file, {**report.to_dict(), "compared_on": what})
    if report.ok:
        return DONE
    fail(f"{packed} is not the trained network")
    return DIFFERENT


def _layers_equal(report: VerifyReport) -> str:
    if not report.layers:
        return "not compared, as the operations differ"
    return f"{sum(layer.equal for layer in report.layers)} of {len(report.layers)}"


def evaluate(
    networks: Sequence[Path],
    ensemble: bool,
    data: str | None,
    path: str | None,
    limit: int | None,
    json_file: Path | None,
) -> int:
    if path is not None and data is None:
        raise BnasError(f"--path {path} needs the kind of data set: --data, one of {', '.join(READERS)}")
    if len(networks) > 1 and not ensemble:
        raise BnasError(
            f"{len(networks)} networks are evaluated together only as an ensemble: add --ensemble, or name one"
        )
    if ensemble and len(networks) < 2:
        raise BnasError("--ensemble is the mean of several networks: name two or more")
    images = read(data, path) if data else None
    with Counter("images") as counter:
        if ensemble:
            result = deployment.evaluate_ensemble(networks, images, limit, progress=counter)
        else:
            result = deployment.evaluate(networks[0], images, limit, progress=counter)
    facts(
        [
            ("accuracy", f"{result.accuracy:.4f}"),
            ("test images", f"{result.images:,}"),
            ("network", result.what),
            *([("note", result.note)] if result.note else []),
        ]
    )
    if json_file is not None:
        write_json(json_file, result.to_dict())
    return DONE


def predict(packed: Path, image: Path, resize: bool, json_file: Path | None) -> int:
    probabilities = deployment.predict(packed, image, resize=resize)
    shown = list(probabilities.items())[:MOST_CLASSES_SHOWN]
    table("", ("class", "probability"), [(name, f"{p:.4f}") for name, p in shown])
    if len(shown) < len(probabilities):
        say(f"and {len(probabilities) - len(shown)} more classes")
    if json_file is not None:
        write_json(json_file, probabilities)
    return DONE


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
    if path.is_dir() or _is_genotype(path):
        genotype, loaded, job_file, _ = _genotype_job_folder(path, job, settings)
    else:
        job_file, loaded = source, load_job(source, settings)
        genotype = api.random_genotype(loaded)
        note = "an architecture drawn at random stands for the one to be found"
    with _naming(job_file):
        data = api.read_data(loaded)
    return genotype, loaded.spec(loaded.retrain, data.input_shape, data.num_classes), loaded, note


def _is_genotype(path: Path) -> bool:
    """Whether a file is meant as a genotype and not as a job: both may be YAML."""
    if not path.is_file():
        return api.is_published(path)
    with atomic.explaining("read", path), path.open("rb") as file:
        return path.suffix == ".json" or FORMAT.encode() in file.read(LARGEST_FILE_BYTES)


def plot(source: Path, to: Path | None, round: int | None, json_file: Path | None) -> int:
    genotype = read_genotype(source, round)
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


def demo(run: Path, json_file: Path | None, again: str) -> int:
    from experiments.demo import run_demo

    content = run_demo(run)
    if json_file is not None:
        write_json(json_file, content)
    if content:
        return DONE
    hint("to go on", again)
    return STOPPED
