"""`bnas bench score`: paths of a super-network scored with convolutions of numbers and of packed bits, apart and sharing.

Paths are children of a few parents as `evolution` breeds them. First the logits of every path on one batch, and the
scores, are compared to the last bit; where they differ there is no time. Images are noise: what a score costs does not
depend on what they show.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnas import memory, seeding
from bnas.data import Batches, ImageSet, Normalization
from bnas.genotype import Genotype
from bnas.layers.packed import packed_convolutions
from bnas.scoring import PathScore
from bnas.shared_forward import SharedForward
from bnas.space import Gates, NetSpec, SearchSpace, Supernet
from bnas.training.metrics import batch_statistics, evaluating
from experiments.bench_forms import Row, differ, show, timed
from experiments.bench_timing import on_threads, ratio_text, where
from experiments.console import say, write_json
from search_spaces import SPACES, make_space
from strategies.evolution import TRIES
from strategies.evolution_options import EvolutionOptions
from strategies.population import mutant

IMAGE = (3, 32, 32)
CLASSES = 10
KEYS = ("--batch", "--cells", "--channels")
# Spaces of chains have sizes of their own.
OF_CELLS = ("bats", "bnas_gist", "cp_nas", "bnas_beihang", "darts")
DEFAULT = ("bats", "bnas_gist", "cp_nas", "widths", "group_mobilenet")
# By form: convolutions, and whether paths share what they have in common. The first is what the others are compared with.
FORMS = {"float": ("float", False), "packed": ("packed", False), "auto": ("auto", False), "shared": ("auto", True)}


@dataclass(frozen=True)
class Setup:
    """What is scored: sizes, scheme, and the norms of `PathScore`."""

    batch: int
    cells: int
    channels: int
    images: int
    paths: int
    parents: int
    scheme: str
    norms: str

    def values(self) -> dict[str, object]:
        return dict(zip(KEYS, (self.batch, self.cells, self.channels), strict=True))

    def supernet(self, space: SearchSpace) -> Supernet:
        size: dict[str, Any] = {"cells": self.cells, "channels": self.channels} if space.name in OF_CELLS else {}
        if space.name == "bats" and self.channels % 12:
            # Twelve channels a group do not divide these.
            size["groups"] = self.channels // 2
        with seeding.borrowed(0, "bench score"):
            net: Any = space.supernet(NetSpec(IMAGE, CLASSES, self.scheme, {}, size))
        # As a trainer lays it out.
        laid_out: Supernet = net.to(memory_format=torch.channels_last)
        return laid_out

    def batches(self, purpose: str) -> Batches:
        generator = seeding.torch_generator(0, "bench score", purpose)
        count = max(self.images, self.batch)
        pixels = torch.randint(0, 256, (count, *IMAGE), generator=generator, dtype=torch.uint8)
        images = ImageSet(pixels, torch.arange(count) % CLASSES)
        return Batches(images, self.batch, seed=0, normalization=Normalization.of(images), purpose=purpose)


def run(spaces: Sequence[str] | None, setup: Setup, threads: int | None, rounds: int, json_file: Path | None) -> int:
    """The command; exit code 1 where results differ."""
    for name in spaces or ():
        SPACES[name]
    with on_threads(threads), memory.explaining("bench score", KEYS, setup.values()):
        here = where()
        say(f"{here['device']}, {here['threads']} threads, {here['clock']}; {setup}")
        rows: list[Row] = []
        for name in spaces or DEFAULT:
            rows += measure(name, setup, rounds)
    show(f"{setup.paths} paths, children of {setup.parents}, scored by {setup.images} images", rows)
    if json_file is not None:
        write_json(json_file, {**here, **asdict(setup), "rows": [asdict(row) for row in rows]})
    return 0 if all(row.exact for row in rows) else 1


def measure(name: str, setup: Setup, rounds: int) -> list[Row]:
    """A row for each form of scoring."""
    space = make_space(name)
    net = setup.supernet(space)
    paths = [space.gates(genotype) for genotype in children(space, setup.parents, setup.paths)]
    train, val = setup.batches("train"), setup.batches("val")
    forms = {}
    for form, (convolutions, shares) in FORMS.items():
        scored = net if shares else Uncut(net)
        score = PathScore(scored, train, val, setup.images, setup.norms, 2, convolutions=convolutions)
        forms[form] = partial(score.scores, paths)
    expected = logits(net, paths, val, "float"), forms["float"]()
    for form in list(FORMS)[1:]:
        if forms[form]() != expected[1] or not torch.equal(logits(net, paths, val, form), expected[0]):
            return differ(name, form)
    rows = timed(name, forms, rounds, "cpu", parts_of=("float", "shared"))
    its = {row.form: row.ms or 0.0 for row in rows}
    say(f"{name}: {len(paths)} paths that share are scored {ratio_text(its['auto'] / its['shared'])} as quick as apart")
    return rows


def children(space: SearchSpace, parents: int, count: int) -> list[Genotype]:
    """Different children of random parents, mutants and crossovers as `evolution` makes them by default.

    Fewer where there are no more within the first tries.
    """
    rng, method = seeding.numpy_generator(0, "bench score", "paths"), EvolutionOptions()
    first = [space.random(rng) for _ in range(parents)]
    found: dict[Genotype, None] = {}
    for _ in range(TRIES * count):
        mother, father = (first[int(rng.integers(parents))] for _ in range(2))
        crosses = rng.random() < method.crossover
        found[space.crossover(mother, father, rng) if crosses else mutant(space, mother, method.mutation, rng)] = None
        if len(found) == count:
            break
    return list(found)


class Uncut(Supernet):
    """A super-network in one segment: different paths share nothing."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        logits: Tensor = self.net(x, gates)
        return logits

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        return self.net.features(x, gates)

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        return self.net.expected_cost(gates)

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        return self.net.state_for(genotype)


@torch.no_grad()
def logits(net: Supernet, paths: Sequence[Gates], val: Batches, form: str) -> Tensor:
    """Of the first batch, by its statistics: [paths, N, classes]."""
    images, _ = next(val.fixed(1))
    convolutions, shares = FORMS[form]
    with evaluating(net), packed_convolutions(net, convolutions), batch_statistics(net):
        if shares:
            return SharedForward(net.segments, paths)(images)
        return torch.stack([net(images, gates) for gates in paths])
