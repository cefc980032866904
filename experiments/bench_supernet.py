"""`bnas bench supernet`: a step of a differentiable search in the plain form of the super-network and in the one that runs.

A step is forward, backward and update of the architecture weights, then of the network's. In the plain form every candidate
normalizes, takes the sign and convolves by itself (`plain_cells`), in torch's own operations (`plain_layers`). First logits
and the gradients of all gates are compared in float64; where they differ there is no time.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnas import memory, seeding
from bnas.errors import check_choice
from bnas.space import Gates, NetSpec, SearchSpace, Supernet, soft_gates
from experiments import bench_forms
from experiments.bench_forms import KEYS, Row, close, differ, show, timed
from experiments.bench_timing import on_threads, where
from experiments.console import say, write_json
from experiments.plain_cells import plain_forward
from experiments.plain_layers import plainly
from search_spaces import make_space

SPACES = ("bnas_gist", "bats", "cp_nas", "bnas_beihang", "darts")
IMAGE = (3, 32, 32)
CLASSES = 10
# The fast form's ratio to the plain form as torch lays it out by default, and where each is to be shown.
GOALS = {("cpu", "float32"): 1.8, ("cpu", "bfloat16"): 2.6, ("cuda", "float32"): 5.0}
GOAL_SIZES = (64, 8, 16)

Forward = Callable[[Supernet, Tensor, Gates], Tensor]


class Setup(bench_forms.Setup):
    """What is timed."""

    def spec(self, name: str) -> NetSpec:
        size: dict[str, Any] = {"cells": self.cells, "channels": self.channels}
        if name == "bats" and self.channels % 12:
            # Twelve channels a group do not divide these.
            size["groups"] = self.channels // 2
        return NetSpec(IMAGE, CLASSES, "binary-activations", {}, size)


def run(spaces: Sequence[str] | None, setup: Setup, threads: int | None, rounds: int, json_file: Path | None) -> int:
    """The command; exit code 1 where a form differs."""
    for name in spaces or ():
        check_choice("space with a super-network of cells", name, SPACES)
    with on_threads(threads), memory.explaining("bench supernet", KEYS, setup.values()):
        here = where()
        say(f"{here['device']}, {here['threads']} threads, {here['clock']}; {setup}")
        rows: list[Row] = []
        for name in spaces or SPACES:
            rows += measure(name, setup, rounds)
    show("one step: forward, backward, both updates", rows)
    _show_goals(rows, setup)
    if json_file is not None:
        write_json(json_file, {**here, **asdict(setup), "rows": [asdict(row) for row in rows]})
    return 0 if all(row.exact for row in rows) else 1


def measure(name: str, setup: Setup, rounds: int) -> list[Row]:
    """A row for each form: plain in both layouts, and fast."""
    space = make_space(name)
    with seeding.borrowed(0, "bench supernet"):
        net = space.supernet(setup.spec(name)).to(setup.device)
    if not _same(space, net):
        return differ(name, "fast")
    last: Any = {"memory_format": torch.channels_last}
    forms = {
        "plain, NCHW": Step(space, plainly(net), plain_forward, setup, {}),
        "plain, NHWC": Step(space, plainly(net).to(**last), plain_forward, setup, last),
        "fast": Step(space, net.to(**last), lambda net, x, gates: net(x, gates), setup, last),
    }
    return timed(name, forms, rounds, setup.device)


class Step:
    """One step of a search on fixed batches, called again and again."""

    def __init__(self, space: SearchSpace, net: Supernet, forward: Forward, setup: Setup, layout: Any) -> None:
        self._space, self._net, self._forward, self._setup = space, net.train(), forward, setup
        generator = seeding.torch_generator(0, "bench supernet", "images")
        images = torch.randn((2, setup.batch, *IMAGE), generator=generator).to(setup.device)
        self._val, self._train = (batch.contiguous(**layout) for batch in images)
        self._labels = (torch.arange(setup.batch) % CLASSES).to(setup.device)
        self._logits = {
            d.name: torch.zeros(len(d.choices), device=setup.device, requires_grad=True) for d in space.decisions
        }
        self._alphas = torch.optim.Adam(self._logits.values(), lr=1e-3)
        self._weights = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def _loss(self, images: Tensor, detached: bool) -> Tensor:
        gates = {name: logit.softmax(0) for name, logit in self._logits.items()}
        if detached:
            gates = {name: gate.detach() for name, gate in gates.items()}
        low = self._setup.precision != "float32"
        with torch.autocast(self._setup.device, dtype=torch.bfloat16, enabled=low):
            return F.cross_entropy(
                self._forward(self._net, images, soft_gates(self._space.decisions, gates)), self._labels
            )

    def __call__(self) -> None:
        logits = list(self._logits.values())
        for logit, gradient in zip(logits, torch.autograd.grad(self._loss(self._val, False), logits), strict=True):
            logit.grad = gradient
        self._alphas.step()
        self._weights.zero_grad(set_to_none=True)
        self._loss(self._train, True).backward()
        self._weights.step()
        if self._setup.device == "cuda":
            torch.cuda.synchronize()


def _same(space: SearchSpace, net: Supernet) -> bool:
    """Whether logits and gradients of gates are the plain form's, in float64 on two images."""
    generator = seeding.torch_generator(0, "bench supernet", "check")
    x = torch.randn((2, *IMAGE), generator=generator, dtype=torch.float64)
    found = []
    whole = copy.deepcopy(net).cpu().double().train()
    forms: tuple[tuple[Supernet, Forward], ...] = (
        (plainly(whole), plain_forward),
        (whole, lambda net, x, gates: net(x, gates)),
    )
    for twin, forward in forms:
        gates = {
            d.name: torch.full((len(d.choices),), 1 / len(d.choices), dtype=torch.float64, requires_grad=True)
            for d in space.decisions
        }
        logits = forward(twin, x, soft_gates(space.decisions, gates))
        gradients = torch.autograd.grad(logits.square().sum(), list(gates.values()))
        found.append([logits.detach(), *gradients])
    return all(close(a, b) for a, b in zip(*found, strict=True))


def _show_goals(rows: Sequence[Row], setup: Setup) -> None:
    best = [row.ratio for row in rows if row.form == "fast" and row.network == "bnas_gist" and row.ratio is not None]
    sizes = (setup.batch, setup.cells, setup.channels)
    for (device, precision), goal in GOALS.items():
        reached = "not measured"
        if best and (device, precision) == (setup.device, setup.precision):
            reached = f"{best[0]:.2f}x" if sizes == GOAL_SIZES else f"not measured at these sizes; {best[0]:.2f}x here"
        say(f"goal for bnas_gist on {device}, {precision}, batch 64, 8 cells, 16 channels: {goal}x; {reached}")
