"""Binarity, squared hinge, clip levels and slopes against reference vectors (float64, 1e-5)."""

import numpy as np
import pytest
import torch
from torch import nn

from bnas.binary import make_scheme
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.training.extra_losses import make_losses
from bnas.training.regularizers import binarity, squared_hinge
from experiments.job_files import make_job
from tests.core.binary_vectors import VECTORS, W

NOTHING = torch.zeros(1, 3), torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize("power", [1, 2])
def test_binarity(power: int) -> None:
    known = VECTORS["BNNplus"]
    weight = W.clone().requires_grad_()
    alpha = torch.tensor(known["alpha"], dtype=torch.float64, requires_grad=True)
    value = binarity(weight, alpha, power)
    value.backward()
    assert value.item() == pytest.approx(known[f"R{power}"], abs=1e-5)
    np.testing.assert_allclose(weight.grad.numpy(), known[f"gradR{power}_W"], atol=1e-5)
    assert alpha.grad.item() == pytest.approx(known[f"gradR{power}_alpha"], abs=1e-5)


def test_squared_hinge() -> None:
    # One image: targets 1, -1, -1.
    outputs = torch.tensor([[0.5, -2.0, 0.25]], dtype=torch.float64)
    assert squared_hinge(outputs, torch.tensor([0])).item() == pytest.approx(
        VECTORS["BNN"]["sqhinge_loss_mean"], abs=1e-5
    )
    (loss,) = make_losses({"squared_hinge": {"weight": 2}})
    assert loss(nn.Identity(), outputs, torch.tensor([0])).item() == pytest.approx(2 * 0.604167, abs=1e-5)


class Net(nn.Module):
    def __init__(self, scheme: str) -> None:
        super().__init__()
        made = make_scheme(scheme)
        self.norm = NormBinarize(2, made)
        self.conv = BinaryConv2d(2, 2, (1, 2), made)
        self.after = nn.BatchNorm2d(5)


@pytest.mark.parametrize(("alpha", "shapes"), [("layer", [()]), ("filter", [(2, 1, 1, 1)])])
def test_binarity_of_a_network_learns_its_alphas(alpha: str, shapes: list) -> None:
    net = Net("bnn")
    with torch.no_grad():
        net.conv.weight.copy_(W)
    (loss,) = make_losses({"binarity": {"weight": 0.5, "power": 2, "alpha": alpha}})
    loss.attach(net)
    assert [tuple(p.shape) for p in loss.parameters()] == shapes
    start = W.abs().mean((1, 2, 3), keepdim=True) if alpha == "filter" else W.abs().mean()
    expected = 0.5 * float(((start - W.abs()) ** 2).sum())
    value = loss(net, *NOTHING)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert all(p.grad is not None for p in loss.parameters())


def test_binarity_without_binary_weights_is_nothing() -> None:
    (loss,) = make_losses({"binarity": None})
    loss.attach(Net("binary-activations"))
    assert loss(Net("binary-activations"), *NOTHING) == 0


def test_clip_levels_are_pacts() -> None:
    net = Net("pact")
    levels = [p for name, p in net.named_parameters() if name.endswith(".high")]
    with torch.no_grad():
        levels[0].fill_(VECTORS["PACT"]["alpha"])
    (loss,) = make_losses({"clip_level": {"weight": 0.1}})
    loss.attach(net)
    value = loss(net, *NOTHING)
    assert value.item() == pytest.approx(0.1 * 1.5**2, rel=1e-6)
    value.backward()
    assert levels[0].grad.item() == pytest.approx(0.1 * 2 * 1.5, rel=1e-6)
    with pytest.raises(BnasError, match="loss clip_level: the network has no learned clip level; scheme pact"):
        loss.attach(Net("bnn"))


def test_slimming_is_the_sum_of_all_slopes() -> None:
    net = Net("bnn")
    net.norm = NormBinarize(2, make_scheme("bnn"), affine=False)
    with torch.no_grad():
        net.after.weight.copy_(torch.tensor(VECTORS["WnS"]["bn_gamma"]))
    (loss,) = make_losses({"slimming": {"weight": 1}})
    loss.attach(net)
    assert loss(net, *NOTHING).item() == pytest.approx(VECTORS["WnS"]["l1_penalty_coef1"], abs=1e-5)
    with pytest.raises(BnasError, match="loss slimming: the network has no batch norm with slopes"):
        loss.attach(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"binarity": {"power": 3}}, "retrain.losses.binarity: power is 3; it must be 1"),
        ({"binarity": {"alpha": "channel"}}, "retrain.losses.binarity: no alpha named 'channel'"),
        ({"squared_hinge": {"weight": 0}}, "retrain.losses.squared_hinge: weight is 0"),
        ({"clip_level": {"weight": -1}}, "retrain.losses.clip_level: weight is -1"),
        ({"slimming": {"weight": "x"}}, "retrain.losses.slimming"),
        ({"clip": {}}, "no loss named 'clip'.*Did you mean 'clip_level'"),
    ],
)
def test_bad_options(losses: dict, message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_job({"retrain": {"losses": losses}})
