"""`bnas bench train`, and the plain layers that it and `bnas bench supernet` compare with."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from typer.testing import CliRunner

from bnas import seeding
from bnas.binary import make_scheme
from bnas.layers import BinaryConv2d
from bnas.space import NetSpec
from experiments import bench_forms, bench_train, plain_layers
from experiments.bench_timing import Timing
from experiments.cli import app
from experiments.plain_layers import plainly
from search_spaces import make_space

SMALL = ["--batch", "2", "--cells", "3", "--channels", "4", "--rounds", "3", "--threads", "1"]


def run(*more: str) -> Any:
    return CliRunner().invoke(app, ["bench", "train", *SMALL, *more])


def test_forms_that_differ_get_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plain_layers._activation
    monkeypatch.setitem(plain_layers._PLAIN, plain_layers.Activation, lambda *given: plain(*given) * 1.001)
    result = run()
    assert result.exit_code == 1
    assert "results differ" in result.output
    assert "NCHW  " not in result.output


def test_each_form_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turn(candidates: Any, rounds: int) -> Any:
        return {name: Timing(2e5 / (1 + index), 1e3) for index, name in enumerate(candidates)}

    monkeypatch.setattr(bench_forms, "in_turn", in_turn)
    monkeypatch.setattr(bench_forms, "_peak", lambda step, device: 3 * 2**20)
    result = run()
    assert result.exit_code == 0, result.output
    said = result.output
    assert "200 ± 1" in said
    assert "3 MiB" in said
    assert "3.00x" in said
    assert "convolution, backward" in said


@pytest.mark.parametrize("command", ["train", "supernet"])
def test_a_batch_that_does_not_fit_names_the_options_that_shrink_it(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    monkeypatch.setattr(bench_forms, "_peak", short)
    monkeypatch.setattr("experiments.bench_supernet.SPACES", ("bnas_gist",))
    found = str(CliRunner().invoke(app, ["bench", command, *SMALL]).exception)
    assert f"bench {command}: out of memory. 3.00 GiB more were asked for" in found
    assert "--batch (now 2), --cells (now 3), --channels (now 4)" in found


def test_bad_input_says_what_there_is() -> None:
    assert "no precision named 'half'" in str(run("--precision", "half").exception)


@pytest.mark.parametrize("scheme", ["bats", "binary-activations", "real"])
def test_plain_layers_are_the_same_network(scheme: str) -> None:
    space = make_space("bats")
    with seeding.borrowed(0, "plain layers"):
        genotype = space.random(seeding.numpy_generator(0, "plain layers"))
        size = {"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}
        net = space.build(genotype, NetSpec((3, 16, 16), 3, scheme, {}, size))
    assert bench_train._same(net)


def test_plain_layers_take_torchs_own_operations() -> None:
    """A dilated convolution of stride 2 runs as it is; ours is a plain one of every second pixel."""
    conv = BinaryConv2d(2, 2, 3, make_scheme("bats"), stride=2, padding=2, dilation=2).train()
    x = torch.randn(1, 2, 8, 8).sign()
    seen = []
    for layer in (conv, plainly(conv)):
        with _Dilations() as dilations:
            layer(x)
        seen += dilations.found
    assert seen == [1, (2, 2)]


class _Dilations(TorchFunctionMode):
    """Of the convolutions that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.conv2d:
            self.found.append(args[5])
        return func(*args, **(kwargs or {}))
