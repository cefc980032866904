"""Numbers that are not finite stop a training by name and step, before they change a weight."""

import pytest
import torch

from bnas.errors import BnasError
from bnas.nonfinite import NonFiniteLoss
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer
from tests.core.tiny_training import Tiny, batches, same, trainer


class Broken:
    """Batches with an image, the sixth, that is not of numbers from step `first` on."""

    def __init__(self, first):
        self.inner, self.first = batches(), first
        self.steps_per_epoch = self.inner.steps_per_epoch

    def batch(self, step):
        x, y = self.inner.batch(step)
        if step >= self.first:
            x[5, 0, 1, 1] = float("nan")
        return x, y

    def in_order(self, batch_size=None):
        return self.inner.in_order(batch_size)

    def fixed(self, count):
        return self.inner.fixed(count)

    def __len__(self):
        return len(self.inner)


def test_a_loss_that_is_not_a_number_stops_before_it_changes_a_weight():
    model = Tiny()

    def lost(model, logits, labels):
        return logits.sum() * (float("nan") if run.step >= 3 else 0.0)

    run = Trainer(model, batches(), Recipe(epochs=3), seed=0, extra_losses=[lost])
    run.run_steps(3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(NonFiniteLoss) as error:
        run.run_steps(3)
    assert (error.value.step, error.value.what) == (3, "the loss is nan")
    assert same(before, {name: p.detach() for name, p in model.named_parameters()})


def test_a_weight_that_took_the_loss_with_it_is_named():
    model = Tiny()
    run = trainer(Recipe(epochs=3), model)
    run.run_steps(1)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("inf")
    name = next(name for name, _ in model.named_parameters())
    with pytest.raises(NonFiniteLoss, match=rf"step 1: the loss is nan, and {name} is not a finite number"):
        run.run_steps(1)


def test_an_image_that_is_not_of_numbers_is_named_before_a_sign_hides_it():
    run = Trainer(Tiny(), Broken(3), Recipe(epochs=3), seed=0)
    with pytest.raises(
        BnasError, match=r"step 3: image 5 of the batch, .* holds NaN or an infinity \(1 of 16 images do"
    ):
        run.run_steps(5)


def test_a_device_that_is_not_waited_for_names_the_same_step():
    run = Trainer(Tiny(), Broken(3), Recipe(epochs=3), seed=0)
    run.waits_each_step = False
    run.run_steps(2)
    with pytest.raises(NonFiniteLoss) as error:
        run.run_steps(5)
    assert error.value.step == 3
