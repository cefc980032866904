"""`bnas bench train`: a step of retraining a BATS network as it runs and written plainly.

A step is forward, backward and update of the weights. The network is one drawn architecture; in the plain form all its
layers are torch's own operations (`plain_layers`). First logits and the gradients of all weights are compared in float64;
where they differ there is no time.
"""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnas import memory, seeding
from bnas.binary.scales import Learned
from bnas.space import NetSpec
from bnas.training.losses import classification_loss, main_logits
from bnas.training.recipe import Recipe
from bnas.training.updates import clip_latent, make_optimizer
from experiments import bench_forms
from experiments.bench_forms import KEYS, Row, close, differ, show, timed
from experiments.bench_timing import on_threads, where
from experiments.console import say, write_json
from experiments.plain_layers import plainly
from search_spaces import make_space

IMAGE = (3, 32, 32)
CLASSES = 10
AUXILIARY_WEIGHT = 0.4


class Setup(bench_forms.Setup):
    """What is timed."""

    def network(self) -> nn.Module:
        """A drawn architecture of `bats` under its own scheme."""
        size: dict[str, Any] = {"cells": self.cells, "channels": self.channels, "auxiliary": True}
        if self.channels % 12:
            # Twelve channels a group do not divide these.
            size["groups"] = self.channels // 2
        space = make_space("bats")
        genotype = space.random(seeding.numpy_generator(0, "bench train", "genotype"))
        with seeding.borrowed(0, "bench train"):
            return space.build(genotype, NetSpec(IMAGE, CLASSES, "bats", {}, size)).to(self.device)


def run(setup: Setup, threads: int | None, rounds: int, json_file: Path | None) -> int:
    """The command; exit code 1 where the forms differ."""
    with on_threads(threads), memory.explaining("bench train", KEYS, setup.values()):
        here = where()
        say(f"{here['device']}, {here['threads']} threads, {here['clock']}; {setup}")
        rows = measure(setup, rounds)
    show("one step: forward, backward, update", rows)
    if json_file is not None:
        write_json(json_file, {**here, **asdict(setup), "rows": [asdict(row) for row in rows]})
    return 0 if all(row.exact for row in rows) else 1


def measure(setup: Setup, rounds: int) -> list[Row]:
    """A row for each form: plain in both layouts, and as it runs."""
    net = setup.network()
    if not _same(net):
        return differ("bats", "as it runs")
    last: Any = {"memory_format": torch.channels_last}
    forms = {
        "plain, NCHW": Step(plainly(net), setup, {}),
        "plain, NHWC": Step(plainly(net).to(**last), setup, last),
        "as it runs": Step(net.to(**last), setup, last),
    }
    return timed("bats", forms, rounds, setup.device)


class Step:
    """One step of a retraining on a fixed batch, called again and again."""

    def __init__(self, net: nn.Module, setup: Setup, layout: Any) -> None:
        self._net, self._setup = net.train(), setup
        generator = seeding.torch_generator(0, "bench train", "images")
        images = torch.randn((setup.batch, *IMAGE), generator=generator)
        self._images = images.to(setup.device).contiguous(**layout)
        self._labels = (torch.arange(setup.batch) % CLASSES).to(setup.device)
        self._optimizer = make_optimizer(net, Recipe())

    def __call__(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        low = self._setup.precision != "float32"
        with torch.autocast(self._setup.device, dtype=torch.bfloat16, enabled=low):
            outputs = self._net(self._images)
            loss = classification_loss(outputs, self._labels, auxiliary_weight=AUXILIARY_WEIGHT)
        loss.backward()
        self._optimizer.step()
        clip_latent(self._net)
        if self._setup.device == "cuda":
            torch.cuda.synchronize()


def _same(net: nn.Module) -> bool:
    """Whether logits and gradients of all weights are the plain form's, in float64 on two images."""
    generator = seeding.torch_generator(0, "bench train", "check")
    x = torch.randn((2, *IMAGE), generator=generator, dtype=torch.float64)
    whole = copy.deepcopy(net).cpu().double().train()
    for module in whole.modules():
        if isinstance(module, Learned):
            # Sums of multiples of a power of two are exact in any order. Of another number, a sum that is 0 in one order is
            # not in another, and lies on the other side of the kink of PReLU.
            module.scale.data = module.scale.data.log2().round().exp2()
    plain, fast = (_results(form, x) for form in (plainly(whole), whole))
    return all(close(a, b) for a, b in zip(plain, fast, strict=True))


def _results(net: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = net(x)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    loss = main_logits(outputs).square().sum() + (outputs[1].square().sum() if isinstance(outputs, tuple) else 0)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return [main_logits(outputs).detach(), *gradients]
