"""How much each layer of a trained network matters: its accuracy with one layer real instead of binary, or binary
instead of real; and filters that are there twice."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnas.layers import BinaryConv2d, BinaryLinear
from bnas.operands import Layer, RealInputs, kind, layers, other_input, other_weight, product, running
from bnas.training.metrics import accuracy, recalibrate
from bnas.training.source import BatchSource

PARTS = ("weights", "input", "both")


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer: what it `was`, and the change of the accuracy with its weights, its input, or both the other kind.

    None where that part was of the other kind already. `duplicates`: filters that equal an earlier one up to the sign,
    of `filters`; None for real weights.
    """

    name: str
    kind: str
    was: str
    weights: float | None
    input: float | None
    both: float | None
    duplicates: int | None
    filters: int


@dataclass(frozen=True)
class Sensitivity:
    """`trained`: accuracy as the network is; `baseline`: with norms calibrated anew, which the changes are from."""

    trained: float
    baseline: float
    images: int
    layers: tuple[LayerSensitivity, ...]

    @property
    def standard_error(self) -> float:
        """Of the baseline, as a share of so many images."""
        return math.sqrt(self.baseline * (1 - self.baseline) / self.images)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "standard_error": self.standard_error}


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    images: BatchSource,
    calibration: BatchSource,
    *,
    calibration_batches: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Change one layer at a time and measure on `images` in order; the model is as before afterwards.

    After each change the running statistics of the batch norms are estimated anew on `calibration` batches, as is the
    baseline's: a product of another spread behind old statistics would be measured as the norm's fault. Stand-ins have the
    size of what they stand for (`bnas.operands`).
    """
    state = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = RealInputs()

    def measured() -> float:
        recalibrate(model, model, calibration, calibration_batches)
        return accuracy(model.eval(), images)

    model.eval()
    trained = accuracy(model, images)
    found = []
    try:
        with inputs.watching(model):
            baseline = measured()
            reads_bits = _reads_bits(model, images, inputs)
            todo = layers(model)
            for done, (name, layer) in enumerate(todo.items()):
                changes: dict[str, float | None] = {}
                for part in PARTS:
                    changes[part] = None
                    if _has(layer, part, reads_bits[name]):
                        with _changed(layer, part, inputs):
                            changes[part] = measured() - baseline
                was = "binary" if isinstance(layer, BinaryConv2d | BinaryLinear) else "real"
                found.append(
                    LayerSensitivity(
                        name, kind(layer), was, **changes, duplicates=duplicates(layer), filters=len(layer.weight)
                    )
                )
                progress(done + 1, len(todo))
    finally:
        model.load_state_dict(state)
    return Sensitivity(trained, baseline, len(images), tuple(found))


def _reads_bits(model: nn.Module, images: BatchSource, inputs: RealInputs) -> dict[str, bool]:
    """Of each layer that runs, whether what it reads was binarized; False for one that does not run."""
    found = dict.fromkeys(layers(model), False)
    handles = []
    for name, layer in layers(model).items():

        def look(module: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
            found[name] = inputs.of(given[0]) is not None

        handles.append(layer.register_forward_pre_hook(look))
    model(next(images.in_order())[0][:2])
    for handle in handles:
        handle.remove()
    return found


def _has(layer: Layer, part: str, reads_bits: bool) -> bool:
    """Whether that part of a layer has another kind to be of."""
    if not isinstance(layer, BinaryConv2d | BinaryLinear):
        return True
    has = {"weights": layer.binarizer.binarizes, "input": reads_bits}
    return all(has.values()) if part == "both" else has[part]


@contextmanager
def _changed(layer: Layer, part: str, inputs: RealInputs) -> Iterator[None]:
    """The layer with that part (one of PARTS) of the other kind."""
    weight = other_weight(layer) if part != "input" else None
    if weight is None:
        binary = isinstance(layer, BinaryConv2d | BinaryLinear)
        weight = layer.binarizer(layer.weight) if binary else layer.weight  # type: ignore[operator]

    def forward(x: Tensor) -> Tensor:
        given = other_input(layer, x, inputs) if part != "weights" else None
        return product(layer, x if given is None else given, weight, real_input=given is not None)

    with running(layer, forward):
        yield


def duplicates(layer: Layer) -> int | None:
    """How many filters have the bits of an earlier one, or all of them turned; None where weights are no signs.

    Two filters of different groups read different inputs, so each group is looked at by itself.
    """
    if not isinstance(layer, BinaryConv2d | BinaryLinear) or not layer.binarizer.packing.terms:
        return None
    with torch.no_grad():
        terms = [term.sign_pm1.flatten(1) for term in layer.binarizer.terms(layer.weight) if not term.constant]
    signs = torch.cat(terms, dim=1)
    canonical = (signs * signs[:, :1]).to(torch.int8)
    groups = layer.groups if isinstance(layer, BinaryConv2d) else 1
    return sum(len(group) - len(torch.unique(group, dim=0)) for group in canonical.chunk(groups))
