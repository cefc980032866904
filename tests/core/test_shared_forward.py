"""What scored paths have in common runs once a batch, and nothing about the scores tells."""

import weakref
from contextlib import AbstractContextManager
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas import scoring
from bnas.data import Batches, ImageSet, Normalization
from bnas.scoring import PathScore
from bnas.shared_forward import SharedForward
from bnas.space import Gates, NetSpec, SearchSpace, Segment, Supernet
from bnas.training.metrics import recalibrate
from examples.own_space import OwnSpace
from search_spaces import make_space

CELLS = {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}
GROUPS = {"layers": [2, 2, 2], "groups": [1, 2], "group_channels": 1, "channels": 4}
SPACES: dict[str, tuple[SearchSpace, dict[str, Any]]] = {
    "cells": (make_space("bats", {"nodes": 1}), CELLS),
    "chain": (make_space("group_mobilenet", GROUPS), {}),
    "own layers": (OwnSpace(), {}),
}


def supernet(name: str) -> Supernet:
    torch.manual_seed(0)
    space, size = SPACES[name]
    return space.supernet(NetSpec((1, 8, 8), 3, "xnor", {}, size))


def paths(name: str) -> list[Gates]:
    """A parent and two mutants."""
    space, rng = SPACES[name][0], np.random.default_rng(0)
    parent = space.random(rng)
    return [space.gates(genotype) for genotype in (parent, space.mutate(parent, rng), space.mutate(parent, rng))]


def batches(purpose: str) -> Batches:
    pixels = torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(24) % 3)
    return Batches(images, 8, seed=0, normalization=Normalization.of(images), purpose=purpose)


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Of all forwards, [paths, N, classes]."""
    found: list[Tensor] = []
    call = SharedForward.__call__
    monkeypatch.setattr(scoring.SharedForward, "__call__", lambda s, x: found.append(call(s, x)) or found[-1])
    return found


def low_precision() -> AbstractContextManager[None]:
    return torch.autocast("cpu", dtype=torch.bfloat16)  # type: ignore[return-value]


OPTIONS: list[dict[str, Any]] = [
    {"convolutions": "packed"},
    {"convolutions": "float"},
    {"norms": "batch"},
    {"autocast": low_precision},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["packed", "float", "norms of batches", "autocast"])
@pytest.mark.parametrize("name", SPACES)
def test_paths_scored_together_are_scored_as_one_by_one(
    name: str, options: dict[str, Any], logits: list[Tensor]
) -> None:
    net = supernet(name)
    options = {"norms": "recalibrated", "recalibration_batches": 2, **options}
    score = PathScore(net, batches("train"), batches("val"), images=24, **options)
    before = [buffer.clone() for buffer in net.buffers()]
    alone = [score(gates) for gates in paths(name)]
    expected = torch.cat(logits).unflatten(0, (3, score.forwards))
    logits.clear()
    assert score.scores(paths(name)) == alone
    assert torch.equal(torch.stack(logits, dim=1), expected)
    assert all(map(torch.equal, net.buffers(), before))


class Steps(nn.Module):
    """Three segments that multiply by what their decision says, and norms behind them; `changes` its input in place."""

    def __init__(self, changes: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(2) for _ in range(3))
        self.changes, self.ran = changes, [0, 0, 0]
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    @property
    def segments(self) -> list[Segment]:
        def run(index: int, x: Tensor, gates: Gates) -> Tensor:
            self.ran[index] += 1
            self.most = max(self.most, sum(ref() is not None for ref in self.alive))
            out: Tensor = self.norms[index](x * float(gates.active[f"d{index}"][0])) + x.square()
            if index < 2:
                self.alive.append(weakref.ref(out))
            if self.changes:
                x.add_(1)
            return out

        return [Segment(lambda x, g, i=i: run(i, x, g), (self.norms[i],), (f"d{i}",)) for i in range(3)]

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        x = x.clone()
        for segment in self.segments:
            x = segment.run(x, gates)
        return x


def all_of(*choices: str) -> list[Gates]:
    return [Gates({f"d{i}": (c,) for i, c in enumerate(chosen)}) for chosen in product(choices, repeat=3)]


@pytest.mark.parametrize("changes", [False, True], ids=["", "in place"])
@pytest.mark.parametrize("count", [4, 8], ids=["one first node", "two"])
def test_each_path_has_its_own_statistics_whatever_is_changed_in_place(count: int, changes: bool) -> None:
    class Source:
        def batch(self, step: int) -> tuple[Tensor, None]:
            return torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.5, 9.0]]) + step, None

    net, gates, x = Steps(changes).eval(), all_of("1", "2")[:count], Source().batch(5)[0]
    with torch.no_grad():
        together = SharedForward(net.segments, gates, estimates=True)
        recalibrate(net, together, Source(), 3)  # type: ignore[arg-type]
        found = together(x)
        assert all(int(norm.num_batches_tracked) == 3 for norm in net.norms)
        for index, each in enumerate(gates):
            recalibrate(net, lambda images, each=each: net(images, each), Source(), 3)  # type: ignore
            assert torch.equal(found[index], net(x, each))
    assert torch.equal(x, Source().batch(5)[0])


def test_each_node_runs_once_and_the_walk_is_depth_first() -> None:
    net, gates = Steps().eval(), all_of("1", "2", "3")
    with torch.no_grad():
        SharedForward(net.segments, gates)(torch.ones(4, 2))
    assert net.ran == [3, 9, 27]
    # Behind the first segment and behind the second.
    assert net.most == 2


def test_a_single_path_holds_one_state() -> None:
    net = Steps().eval()
    with torch.no_grad():
        SharedForward(net.segments, all_of("1"))(torch.ones(4, 2))
    assert net.most == 1
