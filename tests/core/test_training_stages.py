"""Stages of a retraining: their order, and layers that become binary from the deepest on."""

from typing import Any

import pytest
import torch
from torch import nn

from bnas.binary import make_scheme
from bnas.data import ImageSet, Normalization
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.training.recipe import Recipe
from bnas.training.retraining import Retraining
from bnas.training.stages import ListedStage, binarize_deepest, listed_stages, plan_stages
from tests.core.binary_vectors import VECTORS


class Chain(nn.Module):
    """Five binary convolutions l1 ... l5."""

    def __init__(self, scheme: str = "bats", options: Any = None) -> None:
        super().__init__()
        made = make_scheme(scheme, options)
        self.stem = nn.Conv2d(1, 4, 1)
        self.norms = nn.ModuleList([NormBinarize(4, made) for _ in range(5)])
        for number in range(1, 6):
            self.add_module(f"l{number}", BinaryConv2d(4, 4, 1, made))
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for number, norm in enumerate(self.norms, 1):
            x = x + self.get_submodule(f"l{number}")(norm(x))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits


def binary(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_children() if isinstance(m, BinaryConv2d) and m.binarizer.binarizes]


def test_the_deepest_layer_is_first_and_those_not_reached_multiply_their_real_weights() -> None:
    order: list[str] = []
    for portion in range(1, 6):
        model = Chain()
        binarize_deepest(model, portion / 5)
        order += [name for name in binary(model) if name not in order]
        for number in range(1, 6 - portion):
            layer = model.get_submodule(f"l{number}")
            assert isinstance(layer, BinaryConv2d)
            x = torch.ones(1, 4, 2, 2)
            assert torch.equal(layer.eval()(x), nn.functional.conv2d(x, layer.weight))
    assert order == VECTORS["FNB"]["binarize_order"]
    assert sorted(order) == VECTORS["FNB"]["layers_shallow_to_deep"]


def test_the_smallest_share_is_one_layer() -> None:
    model = Chain()
    binarize_deepest(model, 0.01)
    assert binary(model) == ["l5"]


def retraining(seed: int = 0) -> Retraining:
    pixels = torch.arange(16 * 16).reshape(16, 1, 4, 4).remainder(251).to(torch.uint8)
    images = ImageSet(pixels, torch.arange(16) % 2)
    recipe = Recipe(epochs=5, batch_size=8, learning_rate=1e-2)
    stages = plan_stages("bats", {}, 5, mode="layerwise")
    return Retraining(Chain, stages, recipe, train=images, normalization=Normalization.of(images), seed=seed)


def test_layerwise_stages_take_weights_over_and_continue_after_a_kill() -> None:
    whole = retraining()
    seen = []
    while not whole.finished:
        before = {n: t.clone() for n, t in whole.trainer.model.state_dict().items()}
        finished = whole.trainer.finished
        record = whole.run_round()
        seen.append((record["stage"], len(binary(whole.trainer.model))))
        if finished:
            assert not torch.equal(before["stem.weight"], whole.trainer.model.state_dict()["stem.weight"])
    assert [count for _, count in seen] == [1, 2, 4, 5, 5]
    assert seen[0][0] == "deepest 1 of 4"
    killed = retraining()
    for _ in range(2):
        killed.run_round()
    again = retraining()
    again.load_state_dict(killed.state_dict())
    while not again.finished:
        again.run_round()
    for name, tensor in whole.evaluation_model().state_dict().items():
        assert torch.equal(tensor, again.evaluation_model().state_dict()[name]), name


def test_listed_stages_are_those_of_the_list() -> None:
    listed = [ListedStage(1, "real"), ListedStage(2, "binary-activations", weight_decay=1e-4), ListedStage(3)]
    stages = listed_stages(listed, "irnet", {"t_start": 0.5}, 6)
    assert [(s.scheme, s.epochs, s.weight_decay) for s in stages] == [
        ("real", 1, None),
        ("binary-activations", 2, 1e-4),
        ("irnet", 3, None),
    ]
    assert stages[-1].scheme_options == {"t_start": 0.5}


@pytest.mark.parametrize(
    ("listed", "epochs", "message"),
    [
        (
            [ListedStage(1, "binary-activations"), ListedStage(1, "real")],
            2,
            "2: real has real activations, and stage 1",
        ),
        (
            [ListedStage(1, "binary-weights"), ListedStage(1, "binary-activations"), ListedStage(1)],
            3,
            "has real weights",
        ),
        (
            [ListedStage(1, binary_share=0.5), ListedStage(1, binary_share=0.25), ListedStage(1)],
            3,
            "binarizes 25% .* 50%",
        ),
        (
            [ListedStage(1, "binary-activations")],
            1,
            "the last stage is binary-activations on 100% .* retrained for, bnn",
        ),
        ([ListedStage(1, binary_share=0.5)], 1, "the last stage is bnn on 50% of the layers"),
        ([ListedStage(1, "binary-activations"), ListedStage(2)], 4, "last 3 epochs together; recipe.epochs is 4"),
        ([ListedStage(1, "bnnn"), ListedStage(2)], 3, "no scheme named 'bnnn'.*Did you mean 'bnn'"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(listed: list[ListedStage], epochs: int, message: str) -> None:
    with pytest.raises(BnasError, match=message):
        listed_stages(listed, "bnn", {}, epochs)


def test_layerwise_needs_epochs_and_binary_weights() -> None:
    with pytest.raises(BnasError, match="layerwise stages need at least 4 epochs, one a portion; found 3"):
        plan_stages("bnn", {}, 3, mode="layerwise")
    with pytest.raises(BnasError, match="layerwise stages binarize weights, which scheme real does not"):
        plan_stages("real", {}, 8, mode="layerwise")
    with pytest.raises(BnasError, match="binary_share is 0; it must be a finite number above 0 and at most 1"):
        ListedStage(1, binary_share=0)
