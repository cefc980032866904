import pytest
import torch
from torch import nn

from bnas.binary import Binarizer, Scheme, make_scheme
from bnas.binary.estimators import Box, Identity, Polynomial
from bnas.binary.scales import Learned
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from bnas.training.recipe import Recipe
from bnas.training.updates import clip_latent, clip_limit, latent_weights, make_optimizer, parameter_groups


class Mixed(nn.Module):
    """One of each kind of parameter."""

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.norm = NormBinarize(4, scheme)
        self.conv = BinaryConv2d(4, 4, 3, scheme)
        self.activation = nn.PReLU(4)
        self.shift = nn.Parameter(torch.zeros(1, 4, 1, 1))
        self.table = nn.Parameter(torch.zeros(2, 3))
        self.linear = BinaryLinear(4, 3, scheme)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def names(model, parameters):
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return {by_id[id(parameter)] for parameter in parameters}


REAL_WEIGHTS = {"stem.weight", "table"}
PLAIN = {"stem.bias", "norm.norm.weight", "norm.norm.bias", "activation.weight", "shift"}


def test_binary_weights_are_latent_and_their_scales_are_never_decayed():
    model = Mixed(make_scheme("bats"))
    groups = parameter_groups(model)
    assert names(model, groups.latent) == {"conv.weight", "linear.weight"}
    assert names(model, groups.decayed) == REAL_WEIGHTS
    assert names(model, groups.plain) == PLAIN | {"conv.binarizer.scale.scale", "linear.binarizer.scale.scale"}


@pytest.mark.parametrize("scheme", ["real", "binary-activations"])
def test_real_weights_of_binary_layers_are_decayed(scheme):
    model = Mixed(make_scheme(scheme))
    groups = parameter_groups(model)
    assert not groups.latent
    assert not latent_weights(model)
    assert names(model, groups.decayed) == REAL_WEIGHTS | {"conv.weight", "linear.weight"}
    assert names(model, groups.plain) == PLAIN


def test_a_scale_with_two_long_axes_is_not_decayed():
    scale = Learned(torch.ones(4, 4, 3, 3))
    scale.scale = nn.Parameter(torch.ones(4, 1, 3, 3))
    scheme = Scheme(lambda weight: Binarizer(Box(), scale=scale), lambda channels: Binarizer(Box()))
    model = nn.Sequential(BinaryConv2d(4, 4, 3, scheme))
    assert names(model, parameter_groups(model).plain) == {"0.binarizer.scale.scale"}


def test_a_real_convolution_with_one_weight_a_filter_is_decayed():
    model = nn.Sequential(nn.Conv2d(1, 4, 1))
    assert names(model, parameter_groups(model).decayed) == {"0.weight"}


def test_a_model_that_is_a_binary_layer_itself():
    layer = BinaryLinear(4, 3, make_scheme("bnn"))
    assert [entry.name for entry in latent_weights(layer)] == ["weight"]


def test_every_trained_parameter_is_in_one_group():
    model = Mixed(make_scheme("bats"))
    groups = parameter_groups(model)
    listed = [id(parameter) for group in groups for parameter in group]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_the_optimizer_decays_what_the_recipe_says(name, kind):
    recipe = Recipe(
        optimizer=name,
        learning_rate=0.3,
        momentum=0.8,
        betas=(0.5, 0.99),
        weight_decay=1e-3,
        latent_weight_decay=1e-5,
    )
    optimizer = make_optimizer(Mixed(make_scheme("bnn")), recipe)
    assert type(optimizer) is kind
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "latent": 1e-5,
        "decayed": 1e-3,
        "plain": 0.0,
    }
    for group in groups.values():
        assert group["lr"] == 0.3
        assert group.get("momentum", 0.8) == 0.8
        assert group.get("betas", (0.5, 0.99)) == (0.5, 0.99)


def test_decay_moves_only_the_decayed_weights():
    model = Mixed(make_scheme("bats"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = make_optimizer(model, Recipe(optimizer="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, torch.ones(()).expand_as(parameter))
    }
    assert moved == REAL_WEIGHTS


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="no parameter to train"):
        make_optimizer(nn.ReLU(), Recipe())


def filled(scheme, value):
    model = Mixed(scheme)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def with_estimator(estimator):
    return Scheme(lambda weight: Binarizer(estimator), lambda channels: Binarizer(Box()))


def test_latent_weights_are_clipped_to_the_window_and_nothing_else_is():
    model = filled(with_estimator(Box(limit=1.25)), 3.0)
    clip_latent(model)
    for name, parameter in model.named_parameters():
        expected = 1.25 if name in ("conv.weight", "linear.weight") else 3.0
        assert torch.equal(parameter, torch.full_like(parameter, expected)), name
    model = filled(with_estimator(Box(limit=1.25)), -3.0)
    clip_latent(model)
    assert model.conv.weight.max().item() == -1.25


def test_without_a_window_nothing_is_clipped():
    for scheme in (with_estimator(Identity()), make_scheme("real")):
        model = filled(scheme, 3.0)
        clip_latent(model)
        assert model.conv.weight.min().item() == 3.0


@pytest.mark.parametrize(
    "estimator", [Box(strict=True), Box(limit=1.3, strict=True), Polynomial(), Identity(window=1.0)]
)
def test_a_clipped_weight_still_gets_a_gradient(estimator):
    model = filled(with_estimator(estimator), 3.0)
    clip_latent(model)
    clipped = model.conv.weight.detach()
    assert clipped.max().item() <= estimator.window
    assert clipped.max().item() == pytest.approx(estimator.window, abs=1e-6)
    assert bool((estimator.derivative(clipped) > 0).all())


def test_the_limit_is_the_window_where_the_gradient_reaches_it():
    assert clip_limit(Box(), 1.0) == 1.0
    assert clip_limit(Identity(window=1.0), 1.0) == 1.0
    assert clip_limit(Box(strict=True), 1.0) < 1.0
