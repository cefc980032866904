"""`bnas train`: a fixed network through the chain, its default recipe, and what is refused."""

import re
from pathlib import Path

import pytest

from experiments import api
from experiments.train_command import training_job
from search_spaces.published import about
from tests.jobs.tiny_chain import bnas

TINY = ("--set", "retrain.size.channels=4", "--set", "retrain.size.blocks=1", "--set", "retrain.recipe.epochs=1")


def job(name, *settings, scheme=None, data="digits"):
    return training_job(Path(name), api.load_genotype(name), scheme, data, None, settings)


def test_a_fixed_network_is_trained_exported_and_verified(capsys, tmp_path):
    said = bnas(capsys, "train", "binary_densenet28", "--data", "digits", *TINY, "--run", tmp_path)
    assert said.code == 0, said.err
    assert "channels=4, stem=cifar, blocks=1\n" in "\n".join(line.rstrip() for line in said.out.splitlines()) + "\n"
    folder = tmp_path / "retrain-binary-dense-net-seed0"
    assert bnas(capsys, "export", folder).code == 0
    assert bnas(capsys, "verify", folder / "model.bnas").code == 0


def test_the_recipe_is_adam_and_from_200_epochs_on_sgd():
    short, long = job("resnet18").retrain, job("resnet18", "retrain.recipe.epochs=200").retrain
    assert (short.recipe.optimizer, short.recipe.learning_rate, short.recipe.epochs) == ("adam", 2e-3, 50)
    assert (long.recipe.optimizer, long.recipe.learning_rate, long.recipe.epochs) == ("sgd", 0.1, 200)
    assert (short.recipe.warmup_fraction, short.recipe.batch_size, short.stages) == (0.05, 128, "one")
    assert (
        job("resnet18", "retrain.recipe.epochs=200", "retrain.recipe.learning_rate=0.2").retrain.recipe.learning_rate
        == 0.2
    )


def test_digits_are_not_mirrored():
    assert job("resnet18").retrain.augmentation.flip is False
    cifar = job("resnet18", data="cifar10").retrain.augmentation
    assert (cifar.crop_padding, cifar.flip) == (4, True)


def test_the_scheme_is_the_network_s_own_or_the_one_that_is_named():
    assert job("reactnet").retrain.scheme == "reactnet"
    assert job("reactnet", scheme="irnet").retrain.scheme == "irnet"
    found = job("bnas_a").retrain
    assert found.scheme_options == next(iter(about("bnas_a")["networks"].values())).get("scheme_options", {})
    assert job("bnas_a", scheme="irnet").retrain.scheme_options == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resnet2O", "--data", "digits"), "no network named 'resnet2O'; there are: .* Did you mean 'resnet20'"),
        (("resnet20",), "bnas train resnet20: say on which images, --data digits or cifar10"),
        (("resnet20", "--path", "x", "--set", "data.name=digits"), "--path x needs the kind of data set: --data"),
        (("resnet20", "--data", "digits", "--scheme", "irnt"), "no scheme named 'irnt'.* Did you mean 'irnet'"),
        (("resnet20", "--data", "cifar10"), "bnas train resnet20: data.path: data set 'cifar10' is read from disk"),
    ],
)
def test_what_is_refused(capsys, tmp_path, words, message):
    said = bnas(capsys, "train", *words, "--run", tmp_path / "run")
    assert said.code == 2
    assert re.search(message, " ".join(said.err.split()))
