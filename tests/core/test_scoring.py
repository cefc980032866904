"""Scores of paths by fixed batches without a trace, and a training that takes a path a step."""

from contextlib import AbstractContextManager

import pytest
import torch

from bnas import scoring
from bnas.data import Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.layers.packed import packed_convolutions
from bnas.scoring import PathScore, path_trainer
from bnas.space import Gates, NetSpec, Supernet
from bnas.training.recipe import Recipe
from search_spaces import make_space

SPACE = make_space("bats", {"nodes": 1})
SIZE = {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}


def batches(count: int, purpose: str = "train") -> Batches:
    generator = torch.Generator().manual_seed(count)
    images = ImageSet(
        torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8), torch.arange(count) % 3
    )
    return Batches(images, 8, seed=0, normalization=Normalization.of(images), purpose=purpose)


def supernet(scheme: str = "binary-activations") -> Supernet:
    torch.manual_seed(0)
    return SPACE.supernet(NetSpec((1, 8, 8), 3, scheme, {}, SIZE))


def path(op: str) -> Gates:
    """The operation on both edges of the one node of each cell."""
    return SPACE.gates(SPACE.genotype({decision.name: op for decision in SPACE.decisions}))


@pytest.mark.parametrize("norms", ["batch", "recalibrated"])
def test_a_score_is_the_same_again_and_leaves_no_trace(norms: str) -> None:
    net = supernet().train()
    score = PathScore(net, batches(24), batches(40, "val"), images=32, norms=norms, recalibration_batches=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    numbers = torch.get_rng_state()
    first = score(path("group_conv_3x3"))
    assert score(path("max_pool_3x3")) != first
    assert score(path("group_conv_3x3")) == first
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("norms", ["batch", "recalibrated"])
def test_running_statistics_of_other_paths_do_not_count(norms: str) -> None:
    net = supernet()
    score = PathScore(net, batches(24), batches(40, "val"), images=40, norms=norms, recalibration_batches=2)
    first = score(path("group_conv_3x3"))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.fill_(1000.0)
    assert score(path("group_conv_3x3")) == first


def test_the_score_is_the_share_that_is_right() -> None:
    net, val = supernet(), batches(40, "val")
    gates = path("group_conv_3x3")
    score = PathScore(net, batches(24), val, images=16)
    assert score.forwards == 2
    right = 0
    net.train()
    for images, labels in list(val.fixed(16)):
        right += int((net(images, gates).argmax(1) == labels).sum())
    assert score(gates) == right / 16


def test_recalibration_counts_its_batches() -> None:
    score = PathScore(supernet(), batches(24), batches(40, "val"), 16, "recalibrated", 3)
    assert score.forwards == 2 + 3
    with pytest.raises(BnasError, match="no norms named 'own'"):
        PathScore(supernet(), batches(24), batches(40), norms="own")


def test_a_score_in_bits_is_that_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[str] = []

    def noted(net: Supernet, how: str) -> AbstractContextManager[None]:
        blocks.append(how)
        return packed_convolutions(net, how)

    monkeypatch.setattr(scoring, "packed_convolutions", noted)
    net = supernet("xnor")
    scores = {
        how: PathScore(net, batches(24), batches(40, "val"), 40, "recalibrated", 2, convolutions=how)(
            path("group_conv_3x3")
        )
        for how in ("auto", "packed", "float")
    }
    assert blocks == list(scores)
    assert len(set(scores.values())) == 1
    with pytest.raises(BnasError, match="no convolutions to score by named 'bits'"):
        PathScore(net, batches(24), batches(40), convolutions="bits")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_only_the_path_of_the_step_is_trained(optimizer: str) -> None:
    def sampler(step: int) -> Gates:
        return path("group_conv_3x3" if step < 3 else "group_conv_5x5")

    net = supernet()
    trainer = path_trainer(net, batches(24), Recipe(optimizer=optimizer, epochs=1), sampler, seed=0, total_steps=5)
    assert trainer.total_steps == 5

    def weights(size: int) -> list[torch.Tensor]:
        ending = (size, size)
        return [p.detach().clone() for p in net.parameters() if p.shape[2:] == ending and p.shape[1] == 2]

    def changed(before: list[torch.Tensor], size: int) -> list[bool]:
        return [not torch.equal(old, new) for old, new in zip(before, weights(size), strict=True)]

    threes, fives = weights(3), weights(5)
    trainer.run_steps(3)
    assert any(changed(threes, 3))
    assert not any(changed(fives, 5))
    threes = weights(3)
    trainer.run_steps(2)
    assert trainer.finished
    assert not any(changed(threes, 3)), "momentum must not move weights off the path"
    assert any(changed(fives, 5))
