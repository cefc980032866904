"""What scored paths have in common runs once a batch, and nothing about the scores tells."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas.data import Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.layers import NormBinarize
from bnas.prefix import remembering
from bnas.scoring import PathScore
from bnas.space import Gates, NetSpec, SearchSpace, Supernet
from examples.own_space import OwnSpace
from search_spaces import make_space

CELLS = {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}
GROUPS = {"layers": [2, 2], "groups": [1, 2], "group_channels": 1, "channels": 4}
# Space, size, length of the prefix.
SPACES: dict[str, tuple[SearchSpace, dict[str, Any], int]] = {
    "cells": (make_space("bats", {"nodes": 1}), CELLS, 4),
    "chain": (make_space("group_mobilenet", GROUPS), {}, 1),
    "opened scales": (make_space("bats", {"nodes": 1, "open": ["scale"]}), CELLS, 4),
    "opened inputs": (make_space("bats", {"nodes": 1, "open": ["activation"]}), CELLS, 1),
    "own layers": (OwnSpace(), {}, 1),
    "opened stem": (make_space("widths", {"network": "vgg_small", "ratios": [0.5, 1]}), {"channels": 4}, 0),
}
# Of one score: 2 to recalibrate, 3 to validate.
FORWARDS = 5


def supernet(name: str) -> Supernet:
    torch.manual_seed(0)
    space, size, _ = SPACES[name]
    return space.supernet(NetSpec((1, 8, 8), 3, "xnor", {}, size))


def paths(name: str) -> list[Gates]:
    space, rng = SPACES[name][0], np.random.default_rng(0)
    return [space.gates(space.random(rng)) for _ in range(3)]


def batches(purpose: str) -> Batches:
    pixels = torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(24) % 3)
    return Batches(images, 8, seed=0, normalization=Normalization.of(images), purpose=purpose)


def score_of(net: Supernet, **options: Any) -> PathScore:
    options = {"norms": "recalibrated", "recalibration_batches": 2, **options}
    return PathScore(net, batches("train"), batches("val"), images=24, **options)


def watched(net: Supernet) -> list[list[Tensor]]:
    """What each forward gives, and the buffers that it leaves."""
    found: list[list[Tensor]] = []
    net.register_forward_hook(lambda m, x, out: found.append([out.clone(), *(b.clone() for b in m.buffers())]))
    return found


def runs(module: nn.Module) -> list[int]:
    """One entry for each time that the module's first layer runs."""
    found: list[int] = []
    layer = next(m for m in module.modules() if isinstance(m, nn.Conv2d | NormBinarize))
    layer.register_forward_pre_hook(lambda m, x: found.append(1))
    return found


def low_precision() -> AbstractContextManager[None]:
    return torch.autocast("cpu", dtype=torch.bfloat16)  # type: ignore[return-value]


# The bound falls within a score.
OPTIONS: list[dict[str, Any]] = [
    {"convolutions": "packed"},
    {"norms": "batch"},
    {"prefix_bytes": 20_000},
    {"autocast": low_precision},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
@pytest.mark.parametrize("name", SPACES)
def test_paths_scored_together_are_scored_as_one_by_one(name: str, options: dict[str, Any]) -> None:
    net = supernet(name)
    found, score = watched(net), score_of(net, **options)
    before = [buffer.clone() for buffer in net.buffers()]
    alone = [score(gates) for gates in paths(name)]
    expected = found.copy()
    found.clear()
    assert score.scores(paths(name)) == alone
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert all(map(torch.equal, net.buffers(), before))


@pytest.mark.parametrize("name", SPACES)
def test_the_prefix_runs_once_a_batch(name: str) -> None:
    net = supernet(name)
    score = score_of(net)
    assert score.forwards == FORWARDS
    assert len(net.prefix) == SPACES[name][2]
    counts = [runs(module) for module in net.prefix]
    score.scores(paths(name))
    assert [len(count) for count in counts] == [FORWARDS] * len(counts)
    score(paths(name)[0])
    assert [len(count) for count in counts] == [2 * FORWARDS] * len(counts)


# The stem's output: 8 images of 4 channels and 8 x 8 pixels in float32.
@pytest.mark.parametrize(("fit", "room"), [(0, 0), (0, 8191), (2, 2 * 8192), (5, 5 * 8192)])
def test_beyond_the_bound_the_prefix_runs_again(fit: int, room: int) -> None:
    net = supernet("chain")
    count = runs(net.prefix[0])
    score_of(net, prefix_bytes=room).scores(paths("chain"))
    assert len(count) == fit + 3 * (FORWARDS - fit)
    with pytest.raises(BnasError, match="prefix_bytes"):
        score_of(net, prefix_bytes=-1)


def test_nothing_is_remembered_behind_a_scoring() -> None:
    net = supernet("cells")
    found, score = watched(net), score_of(net)
    score.scores(paths("cells"))
    with torch.no_grad():
        next(net.stem.parameters()).neg_()
    old = found[-1][0]
    found.clear()
    score.scores(paths("cells"))
    fresh = found[-1][0]
    assert not torch.equal(fresh, old)
    score(paths("cells")[-1])
    assert torch.equal(found[-1][0], fresh)


def test_a_scoring_that_fails_leaves_the_prefix_as_it_was() -> None:
    net = supernet("cells")
    with pytest.raises(KeyError):
        score_of(net).scores([*paths("cells"), Gates({})])
    assert not any("forward" in vars(module) for module in net.modules())


def test_what_a_reader_changes_in_place_is_computed_again() -> None:
    layer, x = nn.Sequential(nn.BatchNorm1d(2)), torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    count: list[int] = []
    layer[0].register_forward_hook(lambda m, inputs, out: count.append(1))
    expected = nn.BatchNorm1d(2)(x).detach()
    with torch.no_grad(), remembering([layer], 16) as begin_pass:
        for changes, computed in ((True, 1), (False, 2), (False, 2), (True, 2), (False, 3)):
            begin_pass()
            output = layer(x)
            assert torch.equal(output, expected)
            assert len(count) == computed
            if changes:
                output.mul_(2)
