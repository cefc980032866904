"""A step of the trainer: the update, its figures, clipping, averages, what may look at it and join it."""

import copy
import re

import pytest
import torch
from torch import nn

from bnas.errors import BnasError
from bnas.training.losses import classification_loss
from bnas.training.recipe import Recipe
from bnas.training.schedules import learning_rate
from bnas.training.trainer import Trainer
from tests.core.tiny_training import FULL, Tiny, batches, trainer


def test_steps_and_figures_of_a_slice():
    run = trainer(FULL)
    assert (run.total_steps, run.step, run.finished) == (12, 0, False)
    figures = run.run_steps(5)
    assert run.step == 5
    assert figures["samples"] == 5 * 16
    assert figures["learning_rate"] == learning_rate(FULL, 4, 12)
    assert 0 < figures["loss"] < 20
    assert figures["accuracy"] * 80 == pytest.approx(round(figures["accuracy"] * 80))
    assert run.run_steps(100)["samples"] == 7 * 16
    assert run.finished
    with pytest.raises(ValueError, match="no step to run: 12 of 12 are done"):
        run.run_steps(1)


def test_one_step_is_the_update_by_hand():
    recipe = Recipe(epochs=1, learning_rate=0.05, schedule="constant", label_smoothing=0.1, auxiliary_weight=0.3)
    model, source = Tiny("real"), batches()
    # In the trainer's order of memory, as Adam makes whole steps of what is left of a gradient of 0 by rounding.
    mine = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
    x, y = source.batch(0)
    outputs = mine(x)
    loss = classification_loss(outputs, y, label_smoothing=0.1, auxiliary_weight=0.3)
    optimizer = torch.optim.Adam(mine.parameters(), lr=0.05)
    loss.backward()
    optimizer.step()
    run = Trainer(model, source, recipe, seed=0)
    figures = run.run_steps(1)
    assert figures["loss"] == pytest.approx(loss.item())
    assert figures["accuracy"] == (outputs[0].argmax(dim=1) == y).float().mean().item()
    torch.testing.assert_close(dict(model.state_dict()), dict(mine.state_dict()))


def test_latent_weights_stay_within_the_window():
    model = Tiny("bnn")
    run = trainer(Recipe(optimizer="sgd", learning_rate=20.0, epochs=3, schedule="constant"), model)
    run.run_steps(12)
    sizes = torch.cat([model.conv1.weight.flatten(), model.conv2.weight.flatten()]).abs()
    assert sizes.max().item() == 1.0
    # The same step size does leave the window where nothing is binarized, so the clip above had work to do.
    real = Tiny("binary-activations")
    trainer(Recipe(optimizer="sgd", learning_rate=20.0, epochs=3, schedule="constant"), real).run_steps(2)
    assert real.conv1.weight.abs().max().item() > 1.0


def test_drop_path_follows_the_schedule():
    model = Tiny()
    run = trainer(Recipe(epochs=3, drop_path=0.6), model)
    run.run_steps(1)
    assert model.path.probability == 0
    run.run_steps(6)
    assert model.path.probability == pytest.approx(0.3)
    trainer(Recipe(epochs=3), model).run_steps(1)
    assert model.path.probability == 0


def test_drop_path_on_a_network_without_paths_is_refused():
    with pytest.raises(BnasError, match=re.escape("recipe.drop_path is 0.2, but this network has no paths to drop")):
        trainer(Recipe(drop_path=0.2), nn.Linear(1, 4))


def test_float16_without_cuda_is_refused():
    with pytest.raises(BnasError, match="float16 needs a CUDA device; on cpu take bfloat16 or float32"):
        trainer(Recipe(precision="float16"))


def test_bfloat16_computes_in_bfloat16():
    seen = []
    model = Tiny()
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer(Recipe(epochs=1, precision="bfloat16"), model).run_steps(1)
    trainer(Recipe(epochs=1), model).run_steps(1)
    assert seen == [torch.bfloat16, torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_gradient_is_clipped_to_its_norm():
    def moved(clip):
        model = Tiny("real")
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        recipe = Recipe(optimizer="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", epochs=1, grad_clip=clip)
        trainer(recipe, model).run_steps(1)
        return (torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm().item()

    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(0.0) > 0.1


def test_the_share_of_clipped_steps_is_told():
    def share(clip):
        return trainer(Recipe(epochs=1, grad_clip=clip), Tiny("real")).run_steps(2).get("clipped_steps")

    assert [share(0.0), share(1e-6), share(1e6)] == [None, 1.0, 0.0]


def test_the_moving_average_is_the_formula():
    recipe = Recipe(epochs=3, learning_rate=1e-2, ema_decay=0.3)
    model = Tiny()
    run = trainer(recipe, model)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(4):
        run.run_steps(1)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            old = expected[name]
            expected[name] = decay * old + (1 - decay) * tensor if tensor.is_floating_point() else tensor.clone()
    average = run.evaluation_model()
    assert average is not model
    assert not average.training
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert not torch.equal(average.stem.weight, model.stem.weight)


def test_without_an_average_the_network_itself_is_evaluated():
    model = Tiny()
    run = trainer(Recipe(epochs=1), model)
    run.run_steps(1)
    assert model.training
    assert run.evaluation_model() is model
    assert not model.training


def test_extra_losses_and_an_own_forward():
    model = Tiny()
    calls = []

    def forward(x):
        calls.append(len(x))
        return model(x)

    def extra(given, logits, labels):
        assert given is model
        assert logits.shape == (16, 4)
        return 1000.0 + 0 * logits.sum()

    figures = trainer(Recipe(epochs=1), model, forward=forward, extra_losses=(extra,)).run_steps(2)
    assert calls == [16, 16]
    assert 1000 < figures["loss"] < 1010


def test_before_step_sees_the_step_as_the_weights_will():
    model = Tiny()
    seen = []

    def before_step(step):
        assert model.training
        seen.append((step, model.path.probability, torch.rand(()).item()))

    recipe = Recipe(epochs=3, drop_path=0.6)
    run = trainer(recipe, model, before_step=before_step)
    run.run_steps(2)
    run.run_steps(2)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert [probability for _, probability, _ in seen] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert len({number for _, _, number in seen}) == 4
    again, seen = seen, []
    trainer(recipe, model, before_step=before_step).run_steps(4)
    assert seen == again
