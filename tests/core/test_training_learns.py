"""Tiny networks learn a few images by heart under every kind of scheme."""

import pytest

from bnas.binary import make_scheme
from bnas.data import Augmentation
from bnas.training.metrics import accuracy, share_of_plus_one
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer
from tests.core.tiny_training import Tiny, batches

# One of each kind of parts; others learn in tests/contracts/test_sanity.py, and test_schemes.py holds what is true of all.
LEARNING = ("real", "bnn", "xnor", "adabin", "self-binarizing", "cbcn", "eedn", "dorefa", "lqnet", "least-squares")


@pytest.mark.parametrize("scheme", LEARNING)
def test_it_overfits_a_few_images_under_every_scheme(scheme):
    source = batches(batch_size=32, augmentation=Augmentation())
    model = Tiny(scheme, channels=16)
    run = Trainer(model, source, Recipe(learning_rate=5e-3, epochs=60), seed=0)
    run.run_steps(120)
    assert accuracy(run.evaluation_model(), source) > 0.95
    shares = share_of_plus_one(model, source.batch(0)[0])
    assert all(0.2 < share < 0.8 for share in shares.values())
    assert len(shares) == (2 if make_scheme(scheme).activation(1).compares else 0)
