"""How a search or a retraining starts: on other images, with another job, as a longer one, without memory or device."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnas import checkpoint, tensorboard
from bnas.data import Dataset, Normalization, needs_path, read
from bnas.errors import BnasError
from bnas.progress import SilentReporter
from bnas.training.trainer import Trainer
from experiments import api, assembly
from tests.core.engine_toy import equal
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas


class Listening(SilentReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return tiny_chain.write_job(
        tmp_path / "tiny.yaml", tiny_chain.content(tiny_chain.write_images(tmp_path / "tiny.npz"))
    )


def test_a_job_without_the_path_of_its_images_says_how_to_give_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = bnas(capsys, "search", "cifar10_bats", "--run", tmp_path / "run")
    assert said.code == 2
    assert (
        "data.path: data set 'cifar10' is read from disk, and the job does not say where it lies: "
        "add --set data.path=PATH, its folder or file"
    ) in said.err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
    assert [name for name in ("digits", "cifar10", "npz") if needs_path(name)] == ["cifar10", "npz"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "there is no folder"),
        (lambda folder: folder.mkdir(), "no cifar10 in"),
        (lambda folder: (folder.mkdir(), (folder / "data_batch_1.bin").touch()), "is not complete"),
    ],
)
def test_mistakes_with_the_folder_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str
) -> None:
    make(tmp_path / "images")
    ended = bnas(
        capsys, "search", "cifar10_bats_small", "--set", f"data.path={tmp_path / 'images'}", "--run", tmp_path / "run"
    )
    assert ended.code == 2
    assert said in ended.err
    assert "data: " in ended.err
    assert not (tmp_path / "run").exists()


def test_images_may_move_but_not_change(tmp_path: Path, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ("search", job_file, "--run", run, "--set")
    assert bnas(capsys, *words, "search.options.epochs=2").code == 0
    (tmp_path / "tiny.npz").rename(tmp_path / "moved.npz")
    said = bnas(capsys, *words, f"data.path={tmp_path / 'moved.npz'}")
    assert (said.code, "nothing was left to do" in said.out) == (0, True)
    with np.load(tmp_path / "moved.npz") as file:
        arrays = dict(file)
    arrays["train_images"][7, 0, 2, 3] ^= 1
    np.savez(tmp_path / "moved.npz", **arrays)
    said = bnas(capsys, *words, f"data.path={tmp_path / 'moved.npz'}")
    assert said.code == 2
    assert "data.images: was" in said.err
    assert "those in data.path are not the ones that the run began with" in said.err
    assert "--fresh" in said.err


def test_a_digest_stands_for_every_image_and_label(tmp_path: Path) -> None:
    train = read("npz", tiny_chain.write_images(tmp_path / "tiny.npz")).train
    assert train.digest() == read("npz", tmp_path / "tiny.npz").train.digest()
    others = [train.take(torch.arange(47)), train.take(torch.arange(47, -1, -1))]
    labels = train.labels.clone()
    labels[5] = (labels[5] + 1) % 3
    others.append(type(train)(train.images, labels))
    others.append(type(train)(train.images.reshape(48, 1, 4, 16), train.labels))
    assert len({train.digest(), *(other.digest() for other in others)}) == 5


def test_a_changed_job_is_refused_with_its_keys(
    tmp_path: Path, job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert bnas(capsys, "search", job_file, "--run", run).code == 0
    said = bnas(capsys, "search", job_file, "--run", run, "--set", "search.options.epochs=3", "--set", "seed=1")
    assert said.code == 2
    text = " ".join(said.err.split())
    assert "was started with another job" in text
    assert "seed: was 0, now 1" in text
    assert "search.options.epochs: was 2, now 3 (its schedules span all epochs" in text
    assert "To go on, give the old values" in text
    # What belongs to the retraining alone may change.
    assert bnas(capsys, "search", job_file, "--run", run, "--set", "retrain.recipe.epochs=2").code == 0


def test_a_checkpoint_of_another_kind(tmp_path: Path, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert bnas(capsys, "search", job_file, "--run", run).code == 0
    assert bnas(capsys, "retrain", run).code == 0
    trained = run / "retrain-bats-seed0" / "checkpoint.pt"
    trained.write_bytes((run / "search.ckpt").read_bytes())
    said = bnas(capsys, "retrain", run)
    assert said.code == 2
    assert "a checkpoint of kind 'search', where one of kind 'retrain' is needed" in " ".join(said.err.split())
    # Of the right kind, but of a network of another size, as a version of bnas with other layers would leave it.
    content = checkpoint.load(run / "search.ckpt", kind="search")
    content["state"]["trainer"]["model"] = {"weight": torch.zeros(3)}
    content["rounds_done"] -= 1
    checkpoint.save(run / "search.ckpt", content, kind="search")
    said = bnas(capsys, "search", job_file, "--run", run)
    assert said.code == 2
    assert "does not fit this job" in said.err


def test_a_retraining_is_extended_only_where_its_schedule_allows(tmp_path: Path) -> None:
    images = tiny_chain.write_images(tmp_path / "tiny.npz")
    values = tiny_chain.content(images)

    def trained(run: Path, epochs: int, schedule: str) -> dict[str, Any]:
        recipe = {"epochs": epochs, "batch_size": 8, "schedule": schedule}
        job = api.make_job(values | {"retrain": values["retrain"] | {"recipe": recipe}})
        files = api.retrain(job, api.random_genotype(job), run).files
        return checkpoint.load(files.checkpoint, kind="retrain")["state"]

    trained(tmp_path / "a", 1, "constant")
    assert equal(trained(tmp_path / "a", 2, "constant"), trained(tmp_path / "b", 2, "constant"))
    trained(tmp_path / "c", 1, "cosine")
    with pytest.raises(BnasError, match=r"retrain.recipe.epochs: was 1, now 2 \(its schedules span all epochs"):
        trained(tmp_path / "c", 2, "cosine")


@pytest.mark.parametrize("part", ["search", "retrain"])
def test_out_of_memory_names_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], job_file: Path, part: str
) -> None:
    run = tmp_path / "run"
    if part == "retrain":
        assert bnas(capsys, "search", job_file, "--run", run).code == 0
    words = ("search", job_file, "--run", run) if part == "search" else ("retrain", run)
    prefix = "search." if part == "search" else "retrain.recipe."

    def exhausted(*given: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of ..."
        )

    for target in ("run_steps", "__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, target, exhausted)
            said = bnas(capsys, *words)
        text = " ".join(said.err.split())
        assert said.code == 2
        assert "out of memory. 1.50 GiB more were asked for." in text
        assert f"{prefix}batch_size (now 8), {part}.size.channels (now 4), {part}.size.cells (now 3)" in text


def test_a_device_that_is_not_there(tmp_path: Path, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = bnas(capsys, "search", job_file, "--run", tmp_path / "run", "--device", "cuda:7")
    assert said.code == 2
    assert "there is no 'cuda:7' here; there is auto, cpu" in said.err
    assert not (tmp_path / "run").exists()


def test_images_too_small_for_the_reductions(
    tmp_path: Path, job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tiny_chain.write_images(tmp_path / "small.npz")
    with np.load(small) as file:
        arrays = dict(file)
    for split in ("train", "test"):
        arrays[f"{split}_images"] = arrays[f"{split}_images"][:, 0, :3, :3]
    np.savez(small, **arrays)
    said = bnas(capsys, "search", job_file, "--run", tmp_path / "run", "--set", f"data.path={small}")
    assert said.code == 2
    assert "an image of 3 x 3 is too small: the network halves it 2 times" in said.err
    assert not (tmp_path / "run").exists()


def test_channels_that_groups_do_not_divide(tmp_path: Path, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = bnas(capsys, "search", job_file, "--run", tmp_path / "run", "--set", "search.size.channels=6")
    assert said.code == 2
    assert "channels 6 cannot be divided by groups = 4" in said.err


def test_notes_on_the_images_are_said_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny_chain.write_images(tmp_path / "tiny.npz")
    data = read("npz", images)
    noted = Dataset(data.name, data.train, data.test, data.classes, ("a checksum differs",))
    monkeypatch.setattr(api, "read_data", lambda job: noted)
    job = tiny_chain.job(images)
    told = []
    for _ in range(2):
        reporter = Listening()
        api.search(job, tmp_path / "run", reporter=reporter)
        told.append([text for text in reporter.messages if text.startswith("data set")])
    assert told == [["data set tiny: a checksum differs"], []]
    reporter = Listening()
    api.search(job, tmp_path / "run", reporter=reporter, fresh=True)
    assert reporter.messages[1] == "data set tiny: a checksum differs"


class FakeTensorBoard(SilentReporter):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def round(self, record: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{record['round']}").touch()


def test_tensorboard_is_written_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_chain.job(tiny_chain.write_images(tmp_path / "tiny.npz"))
    monkeypatch.setattr(tensorboard, "is_installed", lambda: False)
    api.search(job, tmp_path / "without")
    assert not (tmp_path / "without" / "tensorboard").exists()
    monkeypatch.setattr(tensorboard, "is_installed", lambda: True)
    monkeypatch.setattr(tensorboard, "TensorBoardReporter", FakeTensorBoard)
    found = api.search(job, tmp_path / "run")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == found.outcome.rounds_total
    trained = api.retrain(job, api.random_genotype(job), tmp_path / "run")
    assert (trained.files.folder / "tensorboard" / "1").exists()


def test_a_normalization_that_is_given_is_the_one_that_is_used(tmp_path: Path) -> None:
    content = tiny_chain.content(tiny_chain.write_images(tmp_path / "tiny.npz"))

    def card(**data: Any) -> Any:
        job = api.make_job(content | {"data": content["data"] | data})
        return api.make_retraining(job, api.random_genotype(job), api.read_data(job), torch.device("cpu")).card

    given = card(mean=[0.25], std=[2])
    assert (given.normalization.mean, given.normalization.std) == ((0.25,), (2.0,))
    assert card().normalization == Normalization.of(read("npz", tmp_path / "tiny.npz").train)
    job = api.make_job(content | {"data": content["data"] | {"mean": [0.25], "std": [2]}})
    first = api.make_strategy(job, api.read_data(job), torch.device("cpu"))
    assert first._task.train.normalization == given.normalization  # type: ignore[attr-defined]
    with pytest.raises(BnasError, match="data: mean and std are given together"):
        card(mean=[0.25])
    with pytest.raises(BnasError, match="data: mean and std are for 3 channels; the images have 1"):
        card(mean=[0.1, 0.2, 0.3], std=[1, 1, 1])


def test_deterministic_on_cuda_sets_what_torch_and_cublas_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    images = tiny_chain.write_images(tmp_path / "tiny.npz")
    before = torch.backends.cudnn.benchmark
    try:
        assembly.prepare_torch(tiny_chain.job(images))
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        assert (torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()) == (True, False)
        assembly.prepare_torch(api.make_job({**tiny_chain.content(images), "deterministic": True}))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert (torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()) == (False, True)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before
