"""One finished run for all tests that only read it."""

from pathlib import Path
from typing import NamedTuple

import pytest

from experiments import api, deployment
from experiments.config import Job
from tests.jobs import tiny_chain


class Chain(NamedTuple):
    """A search that is finished, its retraining and its packed network; nobody changes them."""

    job: Job
    job_file: Path
    images: Path
    run: Path
    retraining: Path
    packed: Path


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    images = tiny_chain.write_images(folder / "tiny.npz")
    job = tiny_chain.job(images)
    job_file = tiny_chain.write_job(folder / "tiny.yaml", tiny_chain.content(images))
    found = api.search(job, folder / "run")
    assert found.genotype is not None
    trained = api.retrain(job, found.genotype, folder / "run")
    packed, _ = deployment.export_packed(trained.files.folder)
    return Chain(job, job_file, images, folder / "run", trained.files.folder, packed)
