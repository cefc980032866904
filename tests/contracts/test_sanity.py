"""Quick checks that training is sound under every scheme: it learns 256 images by heart, and its bits move, but not wildly.

A sign, an estimator, a scale, a schedule or an augmentation that is subtly wrong shows here before it costs a day.
"""

from typing import Any

import pytest
import torch
from torch import nn

from bnas.data import Batches, ImageSet, Normalization, read
from bnas.space import NetSpec
from bnas.training.metrics import accuracy, share_of_plus_one
from bnas.training.recipe import Recipe
from bnas.training.retraining import Retraining, Stage
from search_spaces import make_space

SIZE = {"cells": 3, "channels": 12, "groups": 6, "shuffle_groups": 2}
# Convolutions on most paths, so that it is the binary weights that learn.
CHOICES = {
    "normal.edge_0_2": "group_conv_3x3",
    "normal.edge_1_2": "identity",
    "normal.edge_0_3": "group_conv_3x3",
    "normal.edge_2_3": "dil_group_conv_3x3",
    "reduction.edge_0_2": "max_pool_3x3",
    "reduction.edge_1_2": "group_conv_3x3",
    "reduction.edge_1_3": "group_conv_5x5",
    "reduction.edge_2_3": "identity",
}
EPOCHS = 18  # of four steps


def trained(scheme: str, images: ImageSet) -> tuple[Retraining, list[dict[str, Any]]]:
    space = make_space("bats", {"nodes": 2})
    genotype = space.genotype(CHOICES)

    def build(name: str, options: Any) -> nn.Module:
        return space.build(genotype, NetSpec(images.shape, 10, name, dict(options), SIZE))

    recipe = Recipe(learning_rate=8e-3, epochs=EPOCHS, batch_size=64, auxiliary_weight=0.0)
    stages = [Stage("joint", scheme, {}, EPOCHS)]
    work = Retraining(build, stages, recipe, train=images, normalization=Normalization.of(images), seed=0)
    records = []
    while not work.finished:
        records.append(dict(work.run_round()))
    return work, records


# One of each family: each takes seconds, and tests/contracts/test_schemes.py holds what is true of all.
REPRESENTATIVE = ("real", "binary-activations", "bats", "bireal", "irnet", "twn", "rebnet")


@pytest.mark.parametrize("scheme", REPRESENTATIVE)
def test_256_images_are_learnt_by_heart(scheme: str) -> None:
    images = read("digits").train.take(torch.arange(256))
    work, records = trained(scheme, images)
    batches = Batches(images, 256, seed=0, normalization=Normalization.of(images))
    network = work.evaluation_model()
    assert accuracy(network, batches) > 0.95
    shares = share_of_plus_one(network, next(batches.in_order())[0])
    assert all(0.2 < share < 0.8 for share in shares.values()), shares
    # From the third epoch on; at the end of the cosine they come to rest.
    flips = [record["sign_flips"] for record in records[2:] if "sign_flips" in record]
    if flips:
        assert max(flips) < 0.2
        assert max(flips) > 1e-4
        assert flips[-1] < flips[0]
