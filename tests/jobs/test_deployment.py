"""Export, verify, evaluate, predict from Python, and `bnas.load`: the trained network and the file of bits are one."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import bnas
from bnas.deploy import file
from bnas.errors import BnasError
from bnas.rundir import RunDir, RunFiles
from bnas.stopping import StopRequest
from bnas.training.recipe import Recipe
from experiments import api, deployment
from experiments.network import NetworkCard, find_trained, load_trained
from tests.jobs import tiny_chain


@pytest.fixture
def test_images(chain):
    return np.load(chain.images)["test_images"], np.load(chain.images)["test_labels"]


def test_a_packed_file_is_loaded_and_called_like_a_function(chain, test_images):
    network = bnas.load(chain.packed)
    images, labels = test_images
    logits = network.predict(images)
    assert type(logits) is np.ndarray
    assert logits.shape == (24, 3)
    assert network.classes == tiny_chain.CLASSES
    assert network.program.input_shape == (1, 8, 8)
    accuracy = float((logits.argmax(1) == labels).mean())
    assert deployment.evaluate(chain.packed).accuracy == accuracy
    assert "3 classes" in repr(bnas.load(str(chain.packed)))


def test_packed_and_trained_network_give_the_same_classes(chain, test_images):
    trained = load_trained(find_trained(chain.retraining))
    images = torch.from_numpy(test_images[0])
    with torch.no_grad():
        logits = trained.model(trained.card.normalization.apply(images))
    packed = bnas.load(chain.packed).predict(images)
    assert torch.equal(packed.argmax(1), logits.argmax(1))
    torch.testing.assert_close(packed, logits, atol=1e-4, rtol=1e-4)


def test_the_file_says_of_which_genotype_and_job_it_is(chain):
    about = bnas.load(chain.packed).program.about
    genotype = api.load_genotype(chain.run / "genotype.json")
    assert about["genotype"] == json.loads(json.dumps(genotype.to_dict()))
    assert about["spec"]["scheme"] == "bats"
    assert about["data"] == "npz"


def test_a_packed_file_is_not_packed_again(chain):
    with pytest.raises(BnasError, match=r"model.bnas is packed already: --to c and --to onnx write it in other forms"):
        deployment.export_packed(chain.packed)


def test_an_export_again_gives_the_same_bytes_and_goes_where_it_is_told(chain, tmp_path):
    target, packed = deployment.export_packed(chain.retraining, tmp_path / "mine.bnas")
    assert target == tmp_path / "mine.bnas"
    assert target.read_bytes() == chain.packed.read_bytes()
    assert packed.binary_weight_bytes() == file.load(target).binary_weight_bytes() > 0


def test_verify_says_on_which_images(chain, tmp_path, monkeypatch):
    report, what = deployment.verify_packed(chain.packed)
    assert (report.ok, report.images, what) == (True, 48, "48 training images")
    monkeypatch.setattr(deployment, "VERIFY_IMAGES", 5)
    assert deployment.verify_packed(chain.packed, chain.retraining / "checkpoint.pt")[1] == "5 training images"


def test_verify_takes_noise_where_the_images_are_gone_and_says_so(chain, tmp_path, monkeypatch):
    def gone(job):
        raise BnasError("the disk is away")

    monkeypatch.setattr(deployment, "read_data", gone)
    report, what = deployment.verify_packed(chain.packed)
    assert (report.ok, report.images) == (True, 64)
    assert what == "64 images of noise, because the data is not there (the disk is away)"


def test_every_flip_of_one_weight_bit_is_noticed(chain, tmp_path):
    packed = file.load(chain.packed)
    for op in [op for op in packed.program.ops if op.kind == "binary_conv2d"][::4]:
        name = op.tensors["weight"]
        flipped = {**packed.tensors, name: packed.tensors[name].copy()}
        flipped[name].flat[-1] ^= 1
        file.save(file.Packed(packed.program, flipped), tmp_path / "flipped.bnas")
        report, _ = deployment.verify_packed(tmp_path / "flipped.bnas", chain.retraining)
        assert not report.ok
        assert str(op) in str(report.first_difference)
        assert [layer.name for layer in report.layers if not layer.equal] == [op.name]


def test_evaluate_counts_the_images_it_is_told_to(chain, test_images):
    images, labels = test_images
    right = bnas.load(chain.packed).predict(images).argmax(1) == labels
    for limit in (1, 5, 24, 1000):
        for path in (chain.packed, chain.retraining):
            found = deployment.evaluate(path, limit=limit)
            assert found.images == min(limit, 24)
            assert found.accuracy == right[:limit].mean()


def test_evaluate_tells_how_far_it_is(chain, monkeypatch):
    monkeypatch.setattr(deployment, "EVALUATE_AT_ONCE", 10)
    told = []
    deployment.evaluate(chain.packed, progress=lambda done, total: told.append((done, total)))
    assert told == [(10, 24), (20, 24), (24, 24)]


def test_a_training_that_is_not_finished_is_noted(chain, tmp_path):
    stop = StopRequest()
    stop.request("the test")
    genotype = api.load_genotype(chain.run / "genotype.json")
    done = api.retrain(chain.job, genotype, tmp_path / "run", stop=stop)
    result = deployment.evaluate(done.files.folder)
    assert result.note == f"{done.files.checkpoint}: trained for 0 of {done.outcome.rounds_total} rounds"
    assert result.to_dict() == {
        "accuracy": result.accuracy,
        "images": 24,
        "classes": 3,
        "network": "trained, torch",
        "note": result.note,
    }


def test_the_moving_average_is_what_is_exported(chain, tmp_path):
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=0.05, ema_decay=0.9)
    job = dataclasses.replace(chain.job, retrain=dataclasses.replace(chain.job.retrain, recipe=recipe))
    done = api.retrain(job, api.load_genotype(chain.run / "genotype.json"), tmp_path / "run")
    model = load_trained(done.files).model
    state = api.saved.read(done.files, kind="retrain").state["trainer"]
    name = "classifier.weight"
    assert torch.equal(model.state_dict()[name], state["ema"][name])
    assert not torch.equal(state["ema"][name], state["model"][name])
    deployment.export_packed(done.files.folder)
    assert deployment.verify_packed(done.files.packed)[0].ok


def test_a_real_valued_network_is_evaluated_and_not_packed(chain, tmp_path):
    retrain = dataclasses.replace(chain.job.retrain, scheme="real", scheme_options={})
    job = dataclasses.replace(chain.job, retrain=retrain)
    done = api.retrain(job, api.load_genotype(chain.run / "genotype.json"), tmp_path / "run")
    assert deployment.evaluate(done.files.folder).images == 24
    with pytest.raises(BnasError, match=r"cells\.0\.preprocess\.0"):
        deployment.export_packed(done.files.folder)


def colours(path, size):
    image = Image.new("RGB", size, (10, 200, 30))
    image.putpixel((0, 1), (255, 0, 0))
    image.save(path)
    return path


def test_an_image_becomes_what_the_network_takes(tmp_path):
    path = colours(tmp_path / "a.png", (4, 3))
    image = deployment.read_image(path, (3, 3, 4), resize=False)
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (1, 3, 3, 4))
    assert image[0, :, 1, 0].tolist() == [255, 0, 0]
    assert image[0, :, 0, 1].tolist() == [10, 200, 30]
    grey = deployment.read_image(path, (1, 3, 4), resize=False)
    assert tuple(grey.shape) == (1, 1, 3, 4)
    assert grey[0, 0, 0, 1] == np.array(Image.open(path).convert("L"))[0, 1]
    assert tuple(deployment.read_image(path, (3, 9, 5), resize=True).shape) == (1, 3, 9, 5)


def test_an_image_of_another_size_names_height_and_width(tmp_path):
    path = colours(tmp_path / "a.png", (4, 3))
    with pytest.raises(BnasError) as caught:
        deployment.read_image(path, (3, 5, 6), resize=False)
    assert str(caught.value) == f"{path} is 3 pixels high and 4 wide, the network takes 5 x 6; --resize fits it"
    with pytest.raises(BnasError, match=r"^a network for 2 channels does not read image files$"):
        deployment.read_image(path, (2, 5, 6), resize=True)


def test_an_image_that_is_a_bomb_is_refused(tmp_path, monkeypatch):
    path = colours(tmp_path / "a.png", (40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BnasError, match=r"a\.png is not an image that can be read: Image size \(1200 pixels\) exceeds"):
        deployment.read_image(path, (3, 30, 40), resize=False)


def test_the_most_probable_class_comes_first(chain, tmp_path, test_images):
    images, _ = test_images
    Image.fromarray(images[2, 0]).save(tmp_path / "a.png")
    found = deployment.predict(chain.packed, tmp_path / "a.png").probabilities
    logits = bnas.load(chain.packed).predict(images[2:3])[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert found == pytest.approx(dict(zip(tiny_chain.CLASSES, expected, strict=True)))
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_network_card_comes_back_as_it_was(chain):
    card = load_trained(find_trained(chain.retraining)).card
    assert NetworkCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_a_retraining_is_found_by_folder_checkpoint_run_and_from_within(chain, monkeypatch, tmp_path):
    run = RunDir(chain.run)
    named = [chain.retraining, chain.retraining / "checkpoint.pt"]
    for path in named:
        assert find_trained(path).checkpoint == chain.retraining / "checkpoint.pt"
    assert len(run.retrainings()) >= 1
    copied = tmp_path / "final.pt"
    copied.write_bytes((chain.retraining / "checkpoint.pt").read_bytes())
    assert find_trained(copied) == RunFiles(tmp_path, copied)
    assert load_trained(find_trained(copied)).card.classes == tiny_chain.CLASSES
    monkeypatch.chdir(chain.retraining)
    for name in (".", "checkpoint.pt"):
        assert (
            find_trained(deployment.Path(name)).checkpoint.resolve() == (chain.retraining / "checkpoint.pt").resolve()
        )
