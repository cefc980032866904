"""Stages: what becomes binary when, from real weights to the scheme that is retrained for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from bnas.binary import Real, make_scheme
from bnas.errors import BnasError, check_choice
from bnas.layers.products import Operands
from bnas.options import check_number, option
from bnas.training.updates import binary_layers

STAGE_MODES = ("auto", "one", "two", "layerwise")
# Portions in which `layerwise` binarizes the layers. Ours: the paper takes one layer at a time.
PORTIONS = 4
FIRST_SCHEME = "binary-activations"
# With fewer epochs the binary half would be too short.
TWO_STAGE_EPOCHS = 100


@dataclass(frozen=True)
class Stage:
    """A part of the retraining with a schedule and an optimizer of its own.

    `weight_decay`: of the real weights in this stage; None takes the recipe's. `binary_share`: share of the layers whose
    weights are binary under the scheme, the deepest first; the others keep real ones (`binarize_deepest`).
    """

    name: str
    scheme: str
    scheme_options: Mapping[str, Any]
    epochs: int
    weight_decay: float | None = None
    binary_share: float = 1.0


def two_stages(epochs: int, mode: str = "auto") -> bool:
    """Whether real weights come first: `auto` says so from 100 epochs on."""
    check_choice("mode of stages", mode, STAGE_MODES)
    if mode == "two" and epochs < 2:
        raise BnasError(f"two stages need at least 2 epochs; found {epochs}")
    return mode == "two" or (mode == "auto" and epochs >= TWO_STAGE_EPOCHS)


def plan_stages(
    scheme: str,
    scheme_options: Mapping[str, Any],
    epochs: int,
    *,
    mode: str = "auto",
    first_weight_decay: float = 1e-5,
) -> tuple[Stage, ...]:
    """One stage under `scheme`, or real weights with binary activations for the first half of the epochs, then it.

    Bulat et al. 2019 (arXiv 1904.05868), Martinez et al. 2020 (arXiv 2003.11535). A scheme with real weights has no
    second stage to go to, and one with real activations no first: `auto` then means one, and `two` is an error.
    `layerwise`: the weights of the deepest quarter of the layers become binary first, then of half, and so on (Zhou et al.
    2017, arXiv 1709.04344).
    """
    if mode == "layerwise":
        return _layerwise(scheme, scheme_options, epochs)
    two = two_stages(epochs, mode)
    real = [what for what, binary in _binary(scheme, scheme_options)._asdict().items() if not binary]
    if real and mode == "two":
        raise BnasError(
            f"two stages go from binary activations to binary weights as well, and scheme {scheme} has real {real[0]}; "
            "take one stage"
        )
    if not two or real:
        return (Stage("joint", scheme, scheme_options, epochs),)
    first = epochs // 2
    return (
        Stage("real-weights", FIRST_SCHEME, {}, first, first_weight_decay),
        Stage("binary", scheme, scheme_options, epochs - first),
    )


def _layerwise(scheme: str, scheme_options: Mapping[str, Any], epochs: int) -> tuple[Stage, ...]:
    if epochs < PORTIONS:
        raise BnasError(f"layerwise stages need at least {PORTIONS} epochs, one a portion; found {epochs}")
    if not _binary(scheme, scheme_options).weights:
        raise BnasError(f"layerwise stages binarize weights, which scheme {scheme} does not")
    ends = [epochs * portion // PORTIONS for portion in range(PORTIONS + 1)]
    return tuple(
        Stage(f"deepest {portion} of {PORTIONS}", scheme, scheme_options, end - start, binary_share=portion / PORTIONS)
        for portion, (start, end) in enumerate(pairwise(ends), 1)
    )


@dataclass(frozen=True)
class ListedStage:
    """A stage as a job lists it. An empty scheme is the one that is retrained for, with its options."""

    epochs: int = option(1, "passes over the training images in this stage", "ours")
    scheme: str = option("", "what is binary in this stage; empty: the scheme that is retrained for", "ours")
    scheme_options: Mapping[str, Any] = field(default_factory=dict)
    binary_share: float = option(1.0, "share of the layers with binary weights, deepest first", "ours")
    weight_decay: float | None = option(None, "of the real weights; null: the recipe's", "ours")

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, at_least=1, whole=True)
        check_number("binary_share", self.binary_share, above=0, at_most=1)
        if self.weight_decay is not None:
            check_number("weight_decay", self.weight_decay, at_least=0)


def listed_stages(
    listed: Sequence[ListedStage], scheme: str, scheme_options: Mapping[str, Any], epochs: int
) -> tuple[Stage, ...]:
    """The stages of a list, checked: they never go back to real numbers, end with `scheme` and last `epochs` together."""
    stages = []
    for number, entry in enumerate(listed, 1):
        name, options = (entry.scheme, entry.scheme_options) if entry.scheme else (scheme, scheme_options)
        stages.append(
            Stage(f"{number}: {name}", name, options, entry.epochs, entry.weight_decay, binary_share=entry.binary_share)
        )
    check_order(stages)
    last = stages[-1]
    if (last.scheme, dict(last.scheme_options), last.binary_share) != (scheme, dict(scheme_options), 1.0):
        raise BnasError(
            f"the last stage is {last.scheme} on {last.binary_share:.0%} of the layers; it must be the scheme that is "
            f"retrained for, {scheme}, on all of them (leave out scheme and binary_share)"
        )
    total = sum(stage.epochs for stage in stages)
    if total != epochs:
        raise BnasError(f"the stages last {total} epochs together; recipe.epochs is {epochs}")
    return tuple(stages)


class _Binary(NamedTuple):
    weights: bool
    activations: bool


def _binary(scheme: str, options: Mapping[str, Any]) -> _Binary:
    """What is not real under a scheme."""
    made = make_scheme(scheme, options)
    weight = made.weight(torch.ones(made.weight_shape((8, 8, 1, 1))))
    return _Binary(weight.binarizes, made.activation(8).binarizes)


def check_order(stages: Sequence[Stage]) -> None:
    """`BnasError` for a stage that makes something real again that the one before has made binary."""
    for before, after in pairwise(stages):
        was, now = _binary(before.scheme, before.scheme_options), _binary(after.scheme, after.scheme_options)
        for what in _Binary._fields:
            if getattr(was, what) and not getattr(now, what):
                raise BnasError(
                    f"stage {after.name} has real {what}, and stage {before.name} before it binary ones: what was learnt "
                    "for binary ones would be lost; put the stages in the order in which more becomes binary"
                )
        if was.weights and after.binary_share < before.binary_share:
            raise BnasError(
                f"stage {after.name} binarizes {after.binary_share:.0%} of the layers, and stage {before.name} before it "
                f"{before.binary_share:.0%}; a share never falls"
            )


def binarize_deepest(model: nn.Module, share: float) -> None:
    """Give all but the deepest `share` of the layers with binary weights (at least one) real ones, in place.

    Depth is the order in which the network was put together. What such a layer reads stays as the scheme has it.
    """
    layers = [layer for _, layer, _, binarizer in binary_layers(model) if binarizer.binarizes]
    for layer in layers[: len(layers) - max(1, round(share * len(layers)))]:
        layer.binarizer = Real()
        setattr(layer, "operands", Operands.REAL)  # noqa: B010 (the kind of layer is not known here)
