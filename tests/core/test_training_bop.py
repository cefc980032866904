"""Bop flips binary weights, and leaves the rest to Adam."""

import pytest
import torch
from torch import nn

from bnas.binary import make_scheme
from bnas.data import Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.nonfinite import NonFiniteLoss
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer
from bnas.training.updates import make_optimizer
from tests.core.binary_vectors import VECTORS

V = VECTORS["Bop"]


def conv_of(weights: list[float], scheme: str = "bnn") -> BinaryConv2d:
    layer = BinaryConv2d(len(weights), 1, 1, make_scheme(scheme))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).view_as(layer.weight))
    return layer


def test_flips_are_those_of_the_vectors() -> None:
    layer = conv_of([0.3 * w for w in V["w0"]])
    bop = make_optimizer(layer, Recipe(optimizer="bop", bop_gamma=V["gamma"], bop_threshold=V["tau"]))
    assert layer.weight.flatten().tolist() == V["w0"]
    for gradient, expected in zip(V["grads"], V["steps"], strict=True):
        layer.weight.grad = torch.tensor(gradient).float().view_as(layer.weight)
        bop.step()
        assert layer.weight.flatten().tolist() == expected["w"]
        average = bop.state[layer.weight]["flip_average"].flatten()
        torch.testing.assert_close(average, torch.tensor(expected["m"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("flip", "expected"), [("paper", [-1.0, 1.0, 1.0, 1.0]), ("larq", [1.0, 1.0, 1.0, 1.0])])
def test_a_weight_at_the_threshold_flips_by_the_paper_and_not_by_its_code(flip: str, expected: list[float]) -> None:
    layer = conv_of([1.0, -1.0, 1.0, 1.0])
    bop = make_optimizer(layer, Recipe(optimizer="bop", bop_gamma=1.0, bop_threshold=0.5, bop_flip=flip))
    layer.weight.grad = torch.tensor([0.5, -0.75, 0.25, -0.5]).view_as(layer.weight)
    bop.step()
    assert layer.weight.flatten().tolist() == expected


def test_gamma_follows_the_schedule_of_the_learning_rate() -> None:
    layer = conv_of([1.0, -1.0])
    bop = make_optimizer(layer, Recipe(optimizer="bop", bop_gamma=0.5, bop_threshold=9.0, learning_rate=0.1))
    bop.param_groups[0]["lr"] = 0.1 / 4
    layer.weight.grad = torch.tensor([1.0, -2.0]).view_as(layer.weight)
    bop.step()
    average = bop.state[layer.weight]["flip_average"].flatten()
    torch.testing.assert_close(average, torch.tensor([0.125, -0.25]))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        scheme = make_scheme("bats", {"strict": False})
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm, self.conv = NormBinarize(4, scheme), BinaryConv2d(4, 8, 3, scheme)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.conv(self.norm(self.stem(x))).mean((2, 3)))
        return logits


def trainer() -> Trainer:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    pixels = torch.randint(0, 80, (24, 1, 6, 6), generator=generator, dtype=torch.uint8) + (80 * labels).view(
        -1, 1, 1, 1
    )
    images = ImageSet(pixels.to(torch.uint8), labels)
    torch.manual_seed(0)
    recipe = Recipe(optimizer="bop", bop_gamma=0.1, bop_threshold=1e-8, epochs=4, batch_size=8, learning_rate=1e-2)
    return Trainer(Net(), Batches(images, 8, seed=0, normalization=Normalization.of(images)), recipe, seed=0)


def test_weights_stay_plus_minus_one_some_flip_and_a_continued_run_equals_an_uninterrupted_one() -> None:
    whole = trainer()
    assert isinstance(whole.model, Net)
    start = whole.model.conv.weight.detach().clone()
    head = whole.model.classifier.weight.detach().clone()
    whole.run_steps(12)
    weight = whole.model.conv.weight
    assert set(weight.unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(weight, start)
    assert not torch.equal(whole.model.classifier.weight, head)
    first = trainer()
    first.run_steps(5)
    second = trainer()
    second.load_state_dict(first.state_dict())
    second.run_steps(7)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_what_bop_cannot_flip_is_refused() -> None:
    with pytest.raises(BnasError, match=r"flips weights of -1 and \+1, and weight is binarized as .*std_o"):
        make_optimizer(conv_of([1.0, -1.0], "irnet"), Recipe(optimizer="bop"))
    with pytest.raises(BnasError, match=r"weight is binarized as .*ternary"):
        make_optimizer(conv_of([1.0, -1.0], "twn"), Recipe(optimizer="bop"))
    with pytest.raises(BnasError, match=r"where weight has no gradient: 1\[\|u\| < 1\]"):
        make_optimizer(conv_of([1.0, -1.0], "bats"), Recipe(optimizer="bop"))
    with pytest.raises(BnasError, match="nothing to decay under optimizer bop"):
        Recipe(optimizer="bop", latent_weight_decay=1e-4)
    with pytest.raises(BnasError, match="loss scaling moves: take bfloat16"):
        Recipe(optimizer="bop", precision="float16")
    with pytest.raises(BnasError, match=r"no recipe\.bop_flip named 'code'"):
        Recipe(bop_flip="code")
    with pytest.raises(BnasError, match=r"recipe.bop_threshold is 0; it must be a finite number above 0"):
        Recipe(bop_threshold=0)


def test_a_weight_that_is_lost_is_named_with_its_step() -> None:
    run = trainer()
    run.run_steps(3)
    with torch.no_grad():
        run.model.conv.weight[0, 0, 0, 0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(NonFiniteLoss, match=r"step 4: conv.weight is not a finite number where it is binarized"):
        run.run_steps(1)
    again = trainer()
    with torch.no_grad():
        again.model.conv.weight[0, 0, 0, 0] = float("inf")  # type: ignore[union-attr]
    with pytest.raises(NonFiniteLoss, match=r"step 0: conv.weight is not"):
        again.run_steps(1)


def test_what_a_sign_would_hide_is_named_with_its_step() -> None:
    run = trainer()
    run.run_steps(2)
    with torch.no_grad():
        run.model.norm.norm.running_mean[1] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(NonFiniteLoss, match=r"step 3: norm.norm.running_mean is not a finite number and a sign behind"):
        run.run_steps(1)


def test_annealed_parts_follow_the_global_step() -> None:
    class Annealed(Net):
        def __init__(self) -> None:
            super().__init__()
            scheme = make_scheme("irnet")
            self.norm, self.conv = NormBinarize(4, scheme), BinaryConv2d(4, 8, 3, scheme)

    images = ImageSet(torch.zeros(8, 1, 6, 6, dtype=torch.uint8) + 1, torch.arange(8) % 3)
    batches = Batches(images, 4, seed=0, normalization=Normalization((0.0,), (1.0,)))
    run = Trainer(Annealed(), batches, Recipe(epochs=5, batch_size=4), seed=0)
    run.run_steps(6)
    assert float(run.model.conv.binarizer.estimator.share) == 5 / 10  # type: ignore[union-attr]
    saved = run.state_dict()
    other = Trainer(Annealed(), batches, Recipe(epochs=5, batch_size=4), seed=0)
    other.load_state_dict(saved)
    assert float(other.model.norm.binarizer.estimator.share) == 5 / 10  # type: ignore[union-attr]
