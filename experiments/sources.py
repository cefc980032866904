"""What a command is given: the folder of a run, a genotype file, the name of a published genotype; and the job to it."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bnas import atomic
from bnas.errors import BnasError, nearest
from bnas.genotype import FORMAT, LARGEST_FILE_BYTES, Genotype
from bnas.rundir import RunDir, retraining_at
from experiments import api
from experiments.config import Job, JobError
from experiments.job_files import load_job, set_up, shipped_jobs
from search_spaces.published import about, names


@contextlib.contextmanager
def naming(job: str) -> Iterator[None]:
    """Put the job's file in front of what is wrong with one of its keys."""
    try:
        yield
    except JobError as error:
        raise error.within(job) from None


def genotype_job_folder(source: Path, job: str | None, settings: Sequence[str]) -> tuple[Genotype, Job, str, Path]:
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
    """The genotype of a run (of that round; null: the last), of a file, or of a published name."""
    if not source.is_file() and not (round is None and api.is_published(source)):
        if not source.exists():
            close = nearest(str(source), names())
            raise BnasError(f"there is no file or folder {source}, and no published genotype of that name.{close}")
        return api.genotype_of_round(RunDir(source).files_for_search(), round)
    if round is not None:
        raise BnasError(f"--round chooses a round of a run; {source} is a file with one genotype")
    return api.load_genotype(source)


def is_genotype(path: Path) -> bool:
    """Whether a file is meant as a genotype and not as a job: both may be YAML."""
    if not path.is_file():
        return api.is_published(path)
    with atomic.explaining("read", path), path.open("rb") as file:
        return path.suffix == ".json" or FORMAT.encode() in file.read(LARGEST_FILE_BYTES)
