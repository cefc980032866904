"""`data.train_images`: some of the training images, the same ones whatever the seed, each class with its share."""

from pathlib import Path

import pytest
import torch

from bnas.binary import SCHEMES
from bnas.errors import BnasError
from experiments.assembly import read_data
from experiments.compare_entries import entries
from experiments.job_files import load_job, make_job
from tests.jobs import tiny_chain


def test_some_of_the_training_images(tmp_path: Path) -> None:
    content = tiny_chain.content(tiny_chain.write_images(tmp_path / "tiny.npz"))
    whole = read_data(make_job(content))
    content["data"]["train_images"] = 12
    some, other_seed = read_data(make_job(content)), read_data(make_job({**content, "seed": 5}))
    assert torch.bincount(some.train.labels).tolist() == [4, 4, 4]
    assert some.train.digest() == other_seed.train.digest() != whole.train.digest()
    assert len(some.test) == len(whole.test)


@pytest.mark.parametrize(
    ("count", "said"), [(49, "data.train_images: 49 of the 48 training images"), (0, "train_images is 0")]
)
def test_numbers_of_images_that_are_not_there(count: int, said: str, tmp_path: Path) -> None:
    content = tiny_chain.content(tiny_chain.write_images(tmp_path / "tiny.npz"))
    content["data"]["train_images"] = count
    with pytest.raises(BnasError, match=said):
        read_data(make_job(content))


def test_the_job_that_compares_schemes_has_them_all() -> None:
    job = load_job("compare_schemes")
    assert set(job.compare) == set(SCHEMES)
    assert len(entries(job)) == 2 * len(SCHEMES)
