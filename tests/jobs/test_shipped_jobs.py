"""Every job that is shipped: it loads, says what is whose, and its networks are built at their true sizes."""

from pathlib import Path

import pytest
import torch

from bnas import seeding
from bnas.data import READERS, needs_path
from bnas.training.retraining import Stage
from experiments import api
from experiments.assembly import read_data
from experiments.config import JobError, plan_retraining
from experiments.job_files import load_job, shipped_jobs
from experiments.job_text import job_text
from search_spaces import SPACES

JOBS = shipped_jobs()
# (C, H, W) and classes of the data sets that jobs name, without reading them.
SHAPES = {"digits": ((1, 8, 8), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100)}


def head(path: Path) -> str:
    """The comment that the file begins with."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def test_the_jobs_that_this_page_knows() -> None:
    assert {"digits_bats", "cifar10_bats", "cifar10_bats_small"} <= set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_it_loads_and_is_its_own_text_again(name: str, tmp_path: Path) -> None:
    job = load_job(name)
    assert job.space.name in SPACES
    assert job.data.name in READERS
    again = tmp_path / "again.yaml"
    again.write_text(job_text(job))
    assert job_text(load_job(str(again))) == again.read_text()


@pytest.mark.parametrize("name", JOBS)
def test_its_head_says_what_it_is_and_whose_the_values_are(name: str) -> None:
    text = head(JOBS[name])
    assert len(text) > 200
    assert "urs" in text
    if needs_path(load_job(name).data.name):
        assert f"{name} --set data.path=FOLDER" in text


@pytest.mark.parametrize("name", [name for name in JOBS if needs_path(load_job(name).data.name)])
def test_it_names_no_folder_and_asks_for_one(name: str) -> None:
    job = load_job(name)
    assert job.data.path is None
    with pytest.raises(JobError, match=r"add --set data\.path=PATH, its folder or file"):
        read_data(job)


@pytest.mark.parametrize("name", JOBS)
def test_its_networks_are_built_and_run(name: str) -> None:
    job = load_job(name)
    shape, classes = SHAPES[job.data.name]
    space = job.make_space()
    images = torch.zeros(2, *shape, device="meta")
    genotype = api.random_genotype(job)
    # Without memory and without arithmetic: shapes only.
    with torch.device("meta"), seeding.borrowed(0, "shapes"):
        network = space.build(genotype, job.spec(job.retrain, shape, classes)).train()
        outputs = network(images)
        every = outputs if isinstance(outputs, tuple) else (outputs,)
        assert [tuple(output.shape) for output in every] == [(2, classes)] * len(every)
        assert len(every) == 1 + bool(job.retrain.size.get("auxiliary"))
        supernet = space.supernet(job.spec(job.search, shape, classes))
        assert supernet(images, space.gates(genotype)).shape == (2, classes)
    job.search.augmentation.check(*shape[1:])
    job.retrain.augmentation.check(*shape[1:])


def test_cifar10_bats_is_the_papers_recipe() -> None:
    job = load_job("cifar10_bats")
    retrain, recipe = job.retrain, job.retrain.recipe
    assert (retrain.scheme, job.search.scheme) == ("bats", "binary-activations")
    assert (retrain.size["cells"], retrain.size["channels"], retrain.size["auxiliary"]) == (20, 36, True)
    assert (retrain.size["groups"], retrain.size["groups_are"]) == (12, "channels_per_group")
    assert (recipe.optimizer, recipe.learning_rate, recipe.schedule, recipe.learning_rate_end) == (
        "adam",
        1e-3,
        "cosine",
        0,
    )
    assert (recipe.epochs, recipe.batch_size, recipe.auxiliary_weight) == (600, 256, 0.4)
    assert (recipe.weight_decay, recipe.drop_path, recipe.betas) == (0.0, 0.0, (0.9, 0.999))
    assert (retrain.augmentation.crop_padding, retrain.augmentation.flip, retrain.augmentation.cutout) == (4, True, 16)
    assert plan_retraining(job) == (
        Stage("real-weights", "binary-activations", {}, 300, 1e-5),
        Stage("binary", "bats", {}, 300),
    )
    assert (job.search.size["cells"], job.search.size["channels"]) == (8, 24)
    assert (job.search.options["epochs"], job.search.batch_size) == (50, 64)


def test_the_small_job_differs_in_sizes_and_lengths_only() -> None:
    small, whole = load_job("cifar10_bats_small"), load_job("cifar10_bats")
    assert small.make_space().decisions == whole.make_space().decisions
    assert (small.search.scheme, small.retrain.scheme) == (whole.search.scheme, whole.retrain.scheme)
    assert small.search.size["groups"] == whole.search.size["groups"]
    assert len(plan_retraining(small)) == 1
    assert small.search.options | {"epochs": 50, "round_steps": 0} == whole.search.options
