"""The gradient through one step of the weights, against losses whose gradient is known."""

import copy

import pytest
import torch

from strategies.unrolled import unrolled_gradient


def problem(*, momentum: float = 0.0, decay: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.optim.SGD]:
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    alpha = torch.tensor([0.5, 0.25], requires_grad=True)
    return weight, alpha, torch.optim.SGD([weight], lr=99.0, momentum=momentum, weight_decay=decay)


def test_a_quadratic_has_the_gradient_worked_out_by_hand() -> None:
    """L_train = |w - a|^2 / 2, L_val = |w'|^2 / 2 + a_0: w' = w - r (w - a), so dL_val/da = r w' + (1, 0)."""
    weight, alpha, optimizer = problem()
    loss, (gradient,) = unrolled_gradient(
        optimizer, 0.1, [alpha], lambda: ((weight - alpha) ** 2).sum() / 2, lambda: (weight**2).sum() / 2 + alpha[0]
    )
    ahead = torch.tensor([1.0, -2.0]) - 0.1 * (torch.tensor([1.0, -2.0]) - torch.tensor([0.5, 0.25]))
    assert loss.item() == pytest.approx((ahead**2).sum().item() / 2 + 0.5)
    assert gradient.tolist() == pytest.approx((0.1 * ahead + torch.tensor([1.0, 0.0])).tolist(), abs=1e-4)


def test_momentum_and_decay_are_those_of_the_optimizer() -> None:
    weight, alpha, optimizer = problem(momentum=0.9, decay=0.3)
    weight.grad = torch.tensor([2.0, 1.0])
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()

    def train_loss() -> torch.Tensor:
        return (weight * alpha.detach()).sum()

    twin = weight.detach().clone().requires_grad_()
    after = torch.optim.SGD([twin], lr=0.01, momentum=0.9, weight_decay=0.3)
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.grad = alpha.detach().clone()
    after.step()
    expected = (twin**2).sum()
    loss, _ = unrolled_gradient(optimizer, 0.01, [alpha], train_loss, lambda: (weight**2).sum() + 0 * alpha.sum())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_weights_are_put_back_bit_for_bit_also_after_an_error() -> None:
    weight, alpha, optimizer = problem()
    with torch.no_grad():
        weight.copy_(torch.tensor([1e-3, 12345.678]))
    before = weight.detach().clone()
    unrolled_gradient(optimizer, 0.1, [alpha], lambda: ((weight - alpha) ** 4).sum(), lambda: (weight**2 * alpha).sum())
    assert torch.equal(weight, before)

    def fails() -> torch.Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        unrolled_gradient(optimizer, 0.1, [alpha], lambda: ((weight - alpha) ** 2).sum(), fails)
    assert torch.equal(weight, before)


def test_what_a_loss_does_not_use_has_no_gradient() -> None:
    weight, alpha, optimizer = problem()
    idle = torch.tensor([1.0], requires_grad=True)
    optimizer.add_param_group({"params": [torch.tensor([3.0], requires_grad=True)]})
    _, gradients = unrolled_gradient(
        optimizer, 0.1, [alpha, idle], lambda: ((weight - alpha) ** 2).sum(), lambda: (weight**2).sum()
    )
    assert gradients[1].tolist() == [0.0]
    assert gradients[0].abs().min() > 0
