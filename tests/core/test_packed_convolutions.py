"""Networks in evaluation whose binary convolutions multiply packed bits: equal numbers, and bits where it is said."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.binary import make_scheme, sign_pm1
from bnas.binary.threshold import Threshold, compare, fold
from bnas.errors import BnasError
from bnas.kernels.cpu.layer import BinaryLayer
from bnas.layers import BinaryConv2d, NormBinarize, packed
from bnas.layers.comparison import Comparison
from bnas.layers.ops import BinaryConvOp
from bnas.layers.packed import packed_convolutions
from bnas.space import Gates, NetSpec, SearchSpace, Supernet
from bnas.training.metrics import batch_statistics, evaluating, recalibrate
from search_spaces import make_space

CELLS = {"cells": 3, "channels": 4}
SPACES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("bats", {"nodes": 2}, {**CELLS, "groups": 2, "shuffle_groups": 2}),
    ("bnas_gist", {"nodes": 2}, CELLS),
    ("cp_nas", {"nodes": 2}, CELLS),
    ("widths", {}, {"channels": 4}),
    (
        "group_mobilenet",
        {"layers": [2, 2], "groups": [1, 2, 4], "group_channels": 1, "channels": 4},
        {"stem": "imagenet"},
    ),
    ("bats", {"nodes": 2, "open": ("activation", "scale")}, {**CELLS, "groups": 2, "shuffle_groups": 2}),
]
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).contiguous(
    memory_format=torch.channels_last
)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[BinaryLayer]:
    """The layers that were planned for the kernels, and nothing known of what is quick."""
    found: list[BinaryLayer] = []
    plan = BinaryLayer.plan

    def noted(layer: BinaryLayer, *given: Any, **more: Any) -> Any:
        found.append(layer)
        return plan(layer, *given, **more)

    monkeypatch.setattr(BinaryLayer, "plan", noted)
    monkeypatch.setattr(packed, "_quicker", {})
    return found


def supernet(index: int, scheme: str = "xnor") -> tuple[SearchSpace, Supernet]:
    name, arguments, size = SPACES[index]
    space = make_space(name, arguments)
    torch.manual_seed(0)
    net: Any = space.supernet(NetSpec((3, 8, 8), 3, scheme, {}, size))
    return space, net.to(memory_format=torch.channels_last)


def scored(net: Supernet, gates: Gates, how: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits by the statistics of the batch, then the state after a recalibration and the logits that follow from it."""

    class Source:
        steps_per_epoch = 2

        def batch(self, step: int) -> tuple[Tensor, Tensor]:
            return IMAGES * (1 + step), torch.zeros(4)

    with torch.no_grad(), evaluating(net), packed_convolutions(net, how):
        with batch_statistics(net):
            by_batch = net(IMAGES, gates)
        recalibrate(net, lambda x: net(x, gates), Source(), 2)  # type: ignore[arg-type]
        after = net(IMAGES, gates)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    return torch.cat([by_batch, after]), state


@pytest.mark.parametrize("index", range(len(SPACES)))
def test_every_space_gives_the_same_numbers_in_bits(index: int, plans: list[BinaryLayer]) -> None:
    space, net = supernet(index)
    for seed in range(2):
        gates = space.gates(space.random(np.random.default_rng(seed)))
        expected, state = scored(net, gates, "float")
        assert not plans
        found, found_state = scored(net, gates, "packed")
        assert plans
        assert torch.equal(found, expected)
        assert all(torch.equal(value, state[name]) for name, value in found_state.items())
        plans.clear()


@pytest.mark.parametrize(
    ("scheme", "in_bits"),
    [("bnn", True), ("irnet", True), ("xnor-plus-plus", True), ("reactnet", True), ("dorefa", False),
     ("binary-activations", False), ("real", False)],
)  # fmt: skip
def test_schemes_of_one_sign_by_one_sign_run_in_bits(scheme: str, in_bits: bool, plans: list[BinaryLayer]) -> None:
    space, net = supernet(0, scheme)
    gates = space.gates(space.random(np.random.default_rng(0)))
    expected, _ = scored(net, gates, "float")
    found, _ = scored(net, gates, "packed")
    assert torch.equal(found, expected)
    assert bool(plans) == in_bits


def test_under_autocast_numbers_are_equal_too(plans: list[BinaryLayer]) -> None:
    space, net = supernet(1)
    gates = space.gates(space.random(np.random.default_rng(0)))
    with torch.autocast("cpu", torch.bfloat16):
        expected, state = scored(net, gates, "float")
        found, found_state = scored(net, gates, "packed")
    assert plans
    assert torch.equal(found, expected)
    assert all(torch.equal(value, state[name]) for name, value in found_state.items())


@pytest.mark.parametrize("quick", [True, False])
def test_auto_takes_what_was_quicker_and_measures_once(
    quick: bool, plans: list[BinaryLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []

    def is_quicker(*given: object) -> bool:
        measured.append(given)
        return quick

    monkeypatch.setattr(packed, "_is_quicker", is_quicker)
    space, net = supernet(0)
    gates = space.gates(space.random(np.random.default_rng(0)))
    scored(net, gates, "auto")
    shapes = len(measured)
    assert shapes == len(packed._quicker) > 1
    assert bool(plans) == quick
    scored(net, gates, "auto")
    assert len(measured) == shapes


def test_the_quicker_way_is_the_one_that_takes_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds: float) -> Callable[[], Tensor]:
        def way() -> Tensor:
            now[0] += seconds
            return IMAGES

        return way

    assert packed._is_quicker(takes(1.0), takes(2.0), IMAGES)
    assert not packed._is_quicker(takes(2.0), takes(1.0), IMAGES)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = NormBinarize(8, make_scheme("xnor"))
        self.conv = BinaryConv2d(8, 5, 3, make_scheme("xnor"), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(self.norm(x))
        return result


@torch.no_grad()
def test_weights_that_an_optimizer_changed_are_packed_again(plans: list[BinaryLayer]) -> None:
    net = Small().eval()
    x = torch.randn(2, 8, 6, 6)
    # The fused step changes a tensor without counting its version up.
    step = torch.optim.Adam(net.parameters(), lr=1.0, fused=True)
    with packed_convolutions(net, "packed"):
        before = net(x)
        assert torch.equal(net(x), before)
        assert len(plans) == 1
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        step.step()
        after = net(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, net(x))


@torch.no_grad()
@pytest.mark.parametrize("activation", ["none", "relu", "prelu", "rprelu", "hardtanh"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_what_follows_a_convolution_is_equal_too(
    activation: str, layout: torch.memory_format, plans: list[BinaryLayer]
) -> None:
    scheme = make_scheme("xnor")
    op = BinaryConvOp(
        12, 1, scheme, kernel_size=3, norm=NormBinarize(12, scheme), groups=3, shuffle_groups=3, activation=activation
    ).eval()
    for parameter in op.activation.parameters():
        parameter.copy_(torch.linspace(-1, 2, 12))
    x = torch.randn(2, 12, 5, 7).contiguous(memory_format=layout)
    expected = op(x)
    with packed_convolutions(op, "packed"):
        assert torch.equal(op(x), expected)
        for parameter in op.activation.parameters():
            parameter.mul_(2)
        after = op(x)
    assert plans
    assert torch.equal(op(x), after)
    followed = plans[-1].epilogue
    inside = activation != "rprelu" and layout is torch.channels_last
    assert (followed.source is not None) == inside


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(threads: int, plans: list[BinaryLayer]) -> None:
    net = Small().eval()
    x = torch.randn(64, 8, 32, 32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with packed_convolutions(net, "packed"):
            found = net(x)
    finally:
        torch.set_num_threads(before)
    assert plans
    assert torch.equal(found, net(x))


def test_training_gradients_and_other_devices_take_numbers(plans: list[BinaryLayer]) -> None:
    net = Small().eval()
    x = torch.randn(2, 8, 6, 6)
    with packed_convolutions(net, "packed"):
        net(x).sum().backward()
        assert net.conv.weight.grad is not None
        with torch.no_grad():
            net.train()(x)
    doubled = Small().double().eval()
    with torch.no_grad(), packed_convolutions(doubled, "packed"):
        doubled(x.double())
    elsewhere = Small().to("meta").eval()
    with torch.no_grad(), packed_convolutions(elsewhere, "packed"):
        assert elsewhere(x.to("meta")).shape == (2, 5, 6, 6)
    assert not plans
    with pytest.raises(BnasError, match="no way of convolving named 'bits'"), packed_convolutions(net, "bits"):
        pass


@torch.no_grad()
def test_a_block_leaves_nothing_behind(plans: list[BinaryLayer]) -> None:
    net = Small().eval()
    with pytest.raises(ZeroDivisionError), packed_convolutions(net, "packed"):
        1 / 0  # noqa: B018
    net(torch.randn(2, 8, 6, 6))
    assert not plans
    assert not net.norm.defers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_comparison_is_a_tensor_of_signs_and_is_made_once(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 3, 4).to(dtype)
    threshold = Threshold(torch.linspace(-1, 1, 5), torch.arange(5) % 2 == 0)
    made = Comparison(x, threshold)
    expected = compare(x, threshold)
    assert made.dtype == dtype
    assert torch.equal(made.numbers(), expected)
    assert made.numbers() is made.numbers()
    assert made.bits(5) is made.bits(5)
    assert torch.equal(F.pad(made, (1, 1)), F.pad(expected, (1, 1)))
    assert torch.equal(torch.cat([made, made]), torch.cat([expected, expected]))


def test_a_comparison_of_a_changed_input_is_refused() -> None:
    x = torch.randn(2, 3, 2, 2)
    made = Comparison(x, fold(None, 3))
    x.add_(1)
    with pytest.raises(RuntimeError, match="was changed before"):
        made.numbers()


@torch.no_grad()
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_comparison_by_the_statistics_of_the_batch_keeps_the_norms_books(momentum: float | None) -> None:
    layer = NormBinarize(6, make_scheme("bnn")).eval()
    twin = nn.BatchNorm2d(6, momentum=momentum)
    generator = torch.Generator().manual_seed(0)
    for part in (layer.norm, twin):
        part.weight.copy_(torch.tensor([1.0, -2.0, 0.5, -0.1, 3.0, 1.0]))
        part.bias.copy_(torch.linspace(-1, 1, 6))
    layer.norm.momentum = momentum
    layer.norm.train()
    for _ in range(3):
        x = torch.randn(8, 6, 5, 5, generator=generator) * 3 + 1
        normed = twin(x)
        signs = layer(x)
        clear = normed.abs() > 1e-5
        assert torch.equal(signs[clear], sign_pm1(normed)[clear])
    for name, value in twin.named_buffers():
        assert torch.equal(value, layer.norm.get_buffer(name)), name


@torch.no_grad()
def test_whoever_watches_a_binarizer_sees_what_it_is_given() -> None:
    layer = NormBinarize(3, make_scheme("bnn")).eval()
    layer.norm.train()
    seen: list[Tensor] = []
    handle = layer.binarizer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.randn(4, 3, 2, 2)
    watched = layer(x)
    handle.remove()
    assert len(seen) == 1
    assert torch.equal(watched, layer(x))
    assert len(seen) == 1
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 3, 1, 1))
