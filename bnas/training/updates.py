"""Parameter groups, the optimizer, and the clipping of latent weights."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from bnas.binary import Binarizer
from bnas.binary.pre import keeps_sign
from bnas.errors import BnasError
from bnas.training.bop import Bop
from bnas.training.recipe import Recipe

# Modules whose `weight` is a slope or a gain per channel, not a matrix.
_PER_CHANNEL = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.PReLU,
)
_MATRIX = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)


class Latent(NamedTuple):
    """The real-valued weight behind a binary one, its name in the model and its binarizer."""

    name: str
    weight: nn.Parameter
    binarizer: Binarizer


class Groups(NamedTuple):
    """Every parameter of a model that is trained, once."""

    latent: list[nn.Parameter]
    decayed: list[nn.Parameter]
    plain: list[nn.Parameter]


def binary_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter, Binarizer]]:
    """(name, layer, weight, binarizer) of each layer that has a weight with a binarizer, also one of real weights."""
    for name, module in model.named_modules():
        weight, binarizer = getattr(module, "weight", None), getattr(module, "binarizer", None)
        if isinstance(weight, nn.Parameter) and isinstance(binarizer, Binarizer):
            yield name, module, weight, binarizer


def latent_weights(model: nn.Module) -> list[Latent]:
    """The latent weights of a model: those whose binarizer binarizes."""
    return [
        Latent(f"{name}.weight".removeprefix("."), weight, binarizer)
        for name, _, weight, binarizer in binary_layers(model)
        if binarizer.binarizes
    ]


def parameter_groups(model: nn.Module) -> Groups:
    """Sort the parameters: latent weights; those that are decayed; those that never are.

    Never decayed: norm parameters, biases, PReLU slopes, everything a binarizer learns (scales, windows), and any
    other parameter with at most one axis longer than 1. Decayed: the other weights, such as those of real layers.
    """
    latent = {id(entry.weight) for entry in latent_weights(model)}
    matrices = {id(weight) for _, _, weight, _ in binary_layers(model)}
    never: set[int] = set()
    for module in model.modules():
        own = module.parameters(recurse=isinstance(module, Binarizer))
        if isinstance(module, (*_PER_CHANNEL, Binarizer)):
            never.update(id(parameter) for parameter in own)
        elif isinstance(module, _MATRIX):
            matrices.add(id(module.weight))
    groups = Groups([], [], [])
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        key = id(parameter)
        if key in latent:
            groups.latent.append(parameter)
        elif key in matrices or (key not in never and sum(length > 1 for length in parameter.shape) > 1):
            groups.decayed.append(parameter)
        else:
            groups.plain.append(parameter)
    return groups


def make_optimizer(model: nn.Module, recipe: Recipe, beside: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """Adam, SGD or Bop over the groups "latent", "decayed", "plain" and "beside" (empty ones left out).

    `beside`: what is trained with the model and is none of its parameters, such as what a loss learns.

    Weight decay is the L2 form that the papers' code uses. The fused form is taken where there is one: a cell network
    has hundreds of small parameters, and on CUDA it keeps the loss scaler from waiting for the device in every step.
    """
    groups = parameter_groups(model)
    decays = {"latent": recipe.latent_weight_decay, "decayed": recipe.weight_decay, "plain": 0.0}
    settings: list[dict[str, Any]] = [
        {"name": name, "params": parameters, "weight_decay": decays[name]}
        for name, parameters in groups._asdict().items()
        if parameters
    ]
    if not settings:
        raise ValueError("the model has no parameter to train")
    if beside:
        settings.append({"name": "beside", "params": list(beside), "weight_decay": 0.0})
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    if recipe.optimizer == "sgd":
        sgd = torch.optim.SGD(settings, lr=recipe.learning_rate, momentum=recipe.momentum, fused=fused)
        if recipe.momentum:
            # The same mathematics as none. The fused step cannot start some averages after others, as it would have
            # to where a step reaches a part of the weights only (a path of a super-network).
            for weight in (weight for group in sgd.param_groups for weight in group["params"]):
                sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight, requires_grad=False)
        return sgd
    if recipe.optimizer == "bop":
        check_flippable(latent_weights(model))
        return Bop(settings, recipe, fused=fused)
    return torch.optim.Adam(settings, lr=recipe.learning_rate, betas=recipe.betas, fused=fused)


def check_flippable(latents: Sequence[Latent]) -> None:
    """`BnasError` unless each weight is binarized by its sign alone, with a gradient at -1 and +1, which stay themselves."""
    for entry in latents:
        if not (entry.binarizer.packs and keeps_sign(entry.binarizer.pre)):
            raise BnasError(
                f"optimizer bop flips weights of -1 and +1, and {entry.name} is binarized as "
                f"{entry.binarizer.value_text()}; take a scheme of signs, such as bnn, or another optimizer"
            )
        if not entry.binarizer.estimator.derivative(torch.ones(1)).item():
            raise BnasError(
                f"optimizer bop flips weights of -1 and +1, where {entry.name} has no gradient: "
                f"{entry.binarizer.gradient_text()}; take scheme bnn, or a window that holds 1 (strict: false)"
            )


@lru_cache(maxsize=256)
def clip_limit(estimator: Any, window: float) -> float:
    """Where a latent weight is clipped: at the window, or just inside it where the estimator's gradient is 0 on it.

    `estimator`: a `bnas.binary.estimators.Estimator` (which mypy does not take for hashable, as the cache needs).
    With a strict box, a weight clipped to exactly the window would never receive a gradient again.
    """
    if estimator.derivative(torch.tensor([window])).item() != 0:
        return window
    return window * (1 - torch.finfo(torch.float32).eps)


@torch.no_grad()
def clip_to_windows(latents: Sequence[Latent]) -> None:
    """w <- clip(w, -window, window), where the binarizer has a window: beyond it the estimator's gradient is 0."""
    for entry in latents:
        window = entry.binarizer.window
        if window is not None:
            estimator: Any = entry.binarizer.estimator
            limit = clip_limit(estimator, window)
            entry.weight.clamp_(-limit, limit)


def clip_latent(model: nn.Module) -> None:
    """`clip_to_windows` of all latent weights of a model."""
    clip_to_windows(latent_weights(model))
