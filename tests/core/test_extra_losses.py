"""Kernel loss and intra-class compactness against NumPy; their state; their place in a job and in a retraining."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas.binary import make_scheme
from bnas.data import Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.training.extra_losses import EXTRA_LOSSES, make_losses
from bnas.training.recipe import Recipe
from bnas.training.retraining import Retraining, plan_stages
from bnas.training.teacher import Teacher
from bnas.training.trainer import Trainer
from experiments.job_files import make_job


class Small(nn.Module):
    """Norm and sign, a binary convolution, a classifier over 2 channels."""

    def __init__(self, scheme: str = "xnor") -> None:
        super().__init__()
        made = make_scheme(scheme)
        self.norm = NormBinarize(1, made)
        self.conv = BinaryConv2d(1, 2, 3, made, padding=1)
        self.classifier = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.conv(self.norm(x)).mean(dim=(2, 3)))
        return logits


def images(count: int = 24) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3)


def trainer(losses: dict, scheme: str = "xnor", **recipe) -> Trainer:
    torch.manual_seed(1)
    taught = any(EXTRA_LOSSES[name].is_taught for name in losses)
    teacher = Teacher(Small("real")) if taught else None
    torch.manual_seed(0)
    batches = Batches(images(), 6, seed=0, normalization=Normalization.of(images()))
    made = make_losses(losses, teacher)
    return Trainer(Small(scheme), batches, Recipe(epochs=3, **recipe), seed=0, extra_losses=made)


def test_kernel_loss_is_what_numpy_says() -> None:
    model = Small()
    (loss,) = make_losses({"kernel": {"weight": 0.5}})
    w = model.conv.weight.detach().numpy().astype(np.float64)
    expected = 0.0
    for kernel in w:
        alpha = np.abs(kernel).mean()
        expected += ((kernel - alpha * np.where(kernel >= 0, 1, -1)) ** 2).mean()
    value = loss(model, torch.zeros(1, 3), torch.zeros(1).long())
    assert value.item() == pytest.approx(0.5 * expected, rel=1e-5)
    # As alpha is the best scale of the signs, its own gradient adds nothing: 2 (w - alpha sign w) / n.
    value.backward()
    alphas = np.abs(w).mean(axis=(1, 2, 3), keepdims=True)
    gradient = 0.5 * 2 * (w - alphas * np.where(w >= 0, 1, -1)) / w[0].size
    np.testing.assert_allclose(model.conv.weight.grad.numpy(), gradient, atol=1e-6)


def test_kernel_loss_without_binary_weights_is_nothing() -> None:
    (loss,) = make_losses({"kernel": None})
    assert loss(Small("binary-activations"), torch.zeros(1, 3), torch.zeros(1).long()) == 0


def test_kernel_loss_draws_latent_weights_to_their_binary_ones() -> None:
    def distance(losses: dict) -> float:
        run = trainer(losses, learning_rate=0.02)
        run.run_steps(12)
        w = run.model.conv.weight.detach()
        return float((w.abs() - w.abs().mean(dim=(1, 2, 3), keepdim=True)).abs().mean())

    assert distance({"kernel": {"weight": 10.0}}) < 0.5 * distance({})


def test_centre_loss_is_what_numpy_says() -> None:
    model = Small()
    (loss,) = make_losses({"centre": {"weight": 0.5, "momentum": 0.75}})
    loss.attach(model)
    centres: dict[int, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for labels in ([0, 0, 1], [1, 2, 1], [0, 2, 2]):
        x = torch.tensor(rng.random((3, 1, 4, 4)), dtype=torch.float32)
        seen: list[Tensor] = []
        handle = model.classifier.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        logits = model(x)
        handle.remove()
        f = seen[0].detach().numpy().astype(np.float64)
        means = {k: f[np.array(labels) == k].mean(axis=0) for k in set(labels)}
        old = {k: centres.get(k, mean) for k, mean in means.items()}
        expected = 0.5 / 2 * np.mean([((row - old[k]) ** 2).sum() for row, k in zip(f, labels, strict=True)])
        value = loss(model, logits, torch.tensor(labels))
        assert value.item() == pytest.approx(expected, rel=1e-4)
        assert value.requires_grad
        centres |= {k: 0.75 * old[k] + 0.25 * mean for k, mean in means.items()}
    np.testing.assert_allclose(loss.centres.numpy(), [centres[k] for k in range(3)], rtol=1e-5)
    assert not loss.centres.requires_grad


def test_centre_loss_makes_classes_compact() -> None:
    def spread(losses: dict) -> float:
        run = trainer(losses, learning_rate=0.02)
        run.run_steps(12)
        seen: list[Tensor] = []
        run.model.eval()
        run.model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        (batch,) = list(run.batches.in_order(24))
        run.model(batch[0])
        return float(torch.stack([seen[0].detach()[batch[1] == k].var(dim=0).sum() for k in range(3)]).sum())

    assert spread({"centre": {"weight": 100.0}}) < 0.5 * spread({})


def test_continued_with_its_centres() -> None:
    losses = {"kernel": {"weight": 0.1}, "centre": {"weight": 1.0}}
    whole, part = trainer(losses, ema_decay=0.5), trainer(losses, ema_decay=0.5)
    whole.run_steps(9)
    part.run_steps(4)
    fresh = trainer(losses, ema_decay=0.5)
    fresh.load_state_dict(part.state_dict())
    fresh.run_steps(5)
    assert torch.equal(fresh._stateful[1].centres, whole._stateful[1].centres)
    assert all(torch.equal(a, b) for a, b in zip(fresh.model.parameters(), whole.model.parameters(), strict=True))
    assert whole.run_steps(1)["loss"] != trainer({}, ema_decay=0.5).run_steps(1)["loss"]


def test_a_look_at_the_network_leaves_no_features_behind() -> None:
    run = trainer({"centre": None})
    run.run_steps(1)
    run.evaluation_model()(images().images[:2].float())
    assert run._stateful[0]._features is None


def test_retraining_takes_the_losses_of_a_job() -> None:
    retraining = {"scheme": "xnor", "losses": {"kernel": {"weight": 1e-2}, "centre": None}}
    job = make_job({"retrain": retraining})
    assert job.retrain.losses == {"kernel": {"weight": 1e-2}, "centre": {"weight": 1e-3, "momentum": 0.9}}

    def first_loss(losses: dict) -> float:
        work = Retraining(
            lambda scheme, options: Small(scheme),
            plan_stages("xnor", {}, 2, mode="two"),
            Recipe(epochs=2, batch_size=6),
            train=images(),
            normalization=Normalization.of(images()),
            seed=0,
            losses=losses,
        )
        return [work.run_round()["loss"] for _ in range(work.rounds_total)][-1]

    assert first_loss({"kernel": {"weight": 10.0}}) > first_loss({}) + 0.01


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"kernl": {}}, "retrain.losses: no loss named 'kernl'.*Did you mean 'kernel'"),
        ({"kernel": {"wieght": 1}}, "retrain.losses.kernel: unknown key 'wieght'"),
        ({"kernel": {"weight": 0}}, "retrain.losses.kernel: weight is 0"),
        ({"centre": {"momentum": 1}}, "retrain.losses.centre: momentum is 1"),
        ({"centre": 1e-3}, "retrain.losses.centre: expected a table of its options, found 0.001"),
    ],
)
def test_bad_losses_in_a_job(losses: dict, message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_job({"retrain": {"losses": losses}})


def test_centre_loss_needs_a_classifier() -> None:
    (loss,) = make_losses({"centre": None})
    with pytest.raises(BnasError, match="loss centre: the network has no linear layer named classifier"):
        loss.attach(nn.Linear(2, 2))


# What a loss needs that has no default, and a scheme that has what it is about.
NEEDED = {"hint": {"layers": ["conv"]}}
SCHEMES = {"clip_level": "pact"}


@pytest.mark.parametrize("name", EXTRA_LOSSES)
def test_every_loss_changes_a_training_that_resumes_exactly(name: str) -> None:
    """A training of 3 and 3 steps with the saved state between is one of 6; without the loss it is another one."""
    losses, scheme = {name: NEEDED.get(name)}, SCHEMES.get(name, "xnor")
    losses[name] = {
        **(losses[name] or {}),
        **({"weight": 0.1} if name in ("binarity", "clip_level", "slimming") else {}),
    }

    def weights(run: Trainer) -> list[Tensor]:
        return [p.detach().clone() for p in run.model.parameters()]

    whole, first, second = (trainer(losses, scheme) for _ in range(3))
    whole.run_steps(6)
    first.run_steps(3)
    second.load_state_dict(first.state_dict())
    second.run_steps(3)
    assert all(map(torch.equal, weights(whole), weights(second)))
    without = trainer({}, scheme)
    without.run_steps(6)
    assert not all(map(torch.equal, weights(whole), weights(without)))
