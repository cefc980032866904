"""Figures that tell of a collapse: against counts made by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from bnas.binary import make_scheme
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.panel import NetworkPanel, gate_figures, mean_entropy


class Net(nn.Module):
    """norm + sign, 1x1 convolution of 2 channels, norm + sign."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        made = make_scheme(scheme)
        self.first = NormBinarize(2, made, affine=False)
        self.conv = BinaryConv2d(2, 2, 1, made)
        self.second = NormBinarize(2, made, affine=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[0.5, -0.5], [0.25, 2.0]]).view(2, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(x)))


# Channel 0 after its norm: -3^.5 once, 3^-.5 three times; channel 1: -1 and 1 twice each.
IMAGES = torch.tensor([[0.0, 4.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]]).view(1, 2, 2, 2)


def test_entropy_and_gap() -> None:
    even = {"a": torch.full((8,), 1 / 8), "b": torch.full((8,), 1 / 8)}
    assert mean_entropy(even).item() == pytest.approx(2.0794415)
    assert gate_figures(even) == {"entropy": pytest.approx(2.0794415), "top2_gap": 0.0}
    uneven = {"a": torch.tensor([0.2, 0.7, 0.1]), "b": torch.tensor([1.0, 0.0]), "closed": torch.tensor([1.0])}
    assert gate_figures(uneven) == {"entropy": pytest.approx(0.400909), "top2_gap": pytest.approx((0.5 + 1) / 2)}
    assert gate_figures({"closed": torch.tensor([1.0])}) == {}


def test_flips_balance_and_clipping() -> None:
    net = Net("bats")
    panel = NetworkPanel(net, IMAGES)
    panel.begin()
    with torch.no_grad():
        net.conv.weight[0, 0] = -0.5
    seen: list[Any] = []
    net.second.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = panel.figures()
    assert found["sign_flips"] == 1 / 4
    second = (seen[0] > 0).float().mean().item()
    assert found["plus_one"] == pytest.approx((5 / 8 + second) / 2)
    assert [found["plus_one_lowest"], found["plus_one_highest"]] == pytest.approx(sorted([5 / 8, second]))
    assert found["clipped_weights"] == 1 / 4
    assert 0 < found["clipped_activations"] < 1


def test_clipped_activations_are_those_beyond_the_window() -> None:
    """Of the first layer 3^.5 lies beyond 1; +-1 / sqrt(1 + eps) does not."""
    net = Net("bats")
    net.second = nn.Identity()  # type: ignore[assignment]
    assert NetworkPanel(net, IMAGES).figures()["clipped_activations"] == 1 / 8


@pytest.mark.parametrize(
    ("scheme", "keys"),
    [
        ("real", set()),
        ("binary-activations", {"plus_one", "plus_one_lowest", "plus_one_highest", "clipped_activations"}),
        ("binary-weights", {"sign_flips", "clipped_weights"}),
    ],
)
def test_figures_without_anything_binary_are_left_out(scheme: str, keys: set[str]) -> None:
    panel = NetworkPanel(Net(scheme), IMAGES)
    panel.begin()
    assert set(panel.figures()) == keys


def test_measuring_changes_nothing() -> None:
    net = Net("bats").train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    panel = NetworkPanel(net, IMAGES)
    panel.begin()
    first = panel.figures(lambda x: net(x))
    assert panel.figures() == first
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not net.first.binarizer._forward_hooks
