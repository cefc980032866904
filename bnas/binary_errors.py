"""The two errors of binarization, layer by layer: of the forward pass, and of the gradient."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas import seeding
from bnas.layers import BinaryConv2d, BinaryLinear
from bnas.operands import RealInputs, kind, latent_weight, layers, product
from bnas.training.losses import main_logits
from bnas.training.updates import binary_layers

DIRECTIONS, STEP = 8, 0.1


@dataclass(frozen=True)
class LayerErrors:
    """One binary layer. `forward`, `forward_scaled`: see `forward_errors`; `delivered`, `cosine`: `gradient_errors`.

    None where there is no such thing: a forward error of a layer whose input was not binarized by a norm in front of it,
    a gradient error of real weights.
    """

    name: str
    kind: str
    forward: float | None = None
    forward_scaled: float | None = None
    delivered: float | None = None
    cosine: float | None = None

    @property
    def zero_is_nearer(self) -> bool | None:
        """Whether putting 0 for the layer's output would be nearer to the real output than the binary one is."""
        return None if self.forward is None else self.forward > 1

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "zero_is_nearer": self.zero_is_nearer}


@torch.no_grad()
def forward_errors(model: nn.Module, images: Tensor) -> dict[str, tuple[float, float]]:
    """Layer -> (error, error at the best scales) of each binary layer that reads what a norm in front of it binarized.

    y: the layer's output in the network, in evaluation; r: the product of what was binarized, that is PRE(BN(x)) and
    PRE(W), W the latent weights. Error: |y - r| / |r| over all images and positions, so that 1 is the error of an output
    of 0 (Zeroise).
    At the best scales: each channel of y times its least-squares factor, as a norm behind the layer would allow;
    sqrt(1 - cos^2) for one channel, at most 1. Each layer is given its input in the network, so that errors of earlier
    layers do not count again.
    """
    found: dict[str, tuple[float, float]] = {}
    inputs = RealInputs()

    def look(name: str, layer: BinaryConv2d | BinaryLinear) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], y: Tensor) -> None:
            real = inputs.of(given[0])
            if real is None:
                return
            r = product(layer, real, latent_weight(layer), real_input=True).double()
            y = y.double()
            dims = [d for d in range(y.dim()) if d != (1 if y.dim() == 4 else y.dim() - 1)]
            length = r.square().sum().clamp_min(torch.finfo(r.dtype).tiny)
            factor = (y * r).sum(dims, keepdim=True) / y.square().sum(dims, keepdim=True).clamp_min(1e-300)
            errors = [((part - r).square().sum() / length).sqrt().item() for part in (y, factor * y)]
            found[name] = errors[0], errors[1]

        return hook

    binary = [(n, m) for n, m in layers(model).items() if isinstance(m, BinaryConv2d | BinaryLinear)]
    handles = [layer.register_forward_hook(look(name, layer)) for name, layer in binary]
    try:
        with inputs.watching(model):
            model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def gradient_errors(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    directions: int = DIRECTIONS,
    step: float = STEP,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, tuple[float, float]]:
    """Layer -> (delivered, cosine) of each layer with binary weights.

    g: the surrogate gradient of the cross-entropy of one batch for the latent weight W, the network in training mode (a
    copy: statistics of the batch, no dropout). f(D) = (L(W + D) - L(W - D)) / 2: what the loss really does.
    Delivered: f(D) / <g, D> for D along g, the share of the promised change that comes about: 1 is right, below 0 the loss
    goes the other way. Cosine: between f(D) and <g, D> over `directions` directions of random signs; its own error is
    about 1 / sqrt(directions). All D have the root mean square `step` * mean |W|, so that some signs do change: this is no
    limit of small steps, in which the loss of a binary network does not change at all.
    """
    copied = copy.deepcopy(model).train()
    for module in copied.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.eval()
    set_drop_path = getattr(copied, "set_drop_path", None)
    if set_drop_path is not None:
        set_drop_path(0.0)

    def loss() -> Tensor:
        # The same drawn signs, where a scheme draws them.
        with seeding.borrowed(seed, "gradient-errors", "forward"):
            return F.cross_entropy(main_logits(copied(images)).double(), labels)

    todo = [(name, weight) for name, _, weight, binarizer in binary_layers(copied) if binarizer.binarizes]
    promised = torch.autograd.grad(loss(), [weight for _, weight in todo]) if todo else ()
    found = {}
    for done, ((name, weight), gradient) in enumerate(zip(todo, promised, strict=True)):
        size = step * weight.detach().abs().mean()
        generator = seeding.torch_generator(seed, "gradient-errors", name)
        signs = torch.randint(0, 2, (directions, *weight.shape), generator=generator).to(weight) * 2 - 1
        along = gradient * (size / gradient.square().mean().sqrt().clamp_min(1e-30))
        real = torch.tensor([_change(loss, weight, d) for d in (along, *(signs * size))], dtype=torch.float64)
        said = torch.stack([(gradient * d).sum() for d in (along, *(signs * size))]).double().cpu()
        delivered = float(real[0] / said[0]) if said[0] else 0.0
        cosine = float(F.cosine_similarity(real[1:], said[1:], dim=0, eps=1e-300))
        found[name] = delivered, cosine
        progress(done + 1, len(todo))
    return found


@torch.no_grad()
def _change(loss: Callable[[], Tensor], weight: nn.Parameter, direction: Tensor) -> float:
    """(L(W + D) - L(W - D)) / 2; the weight is as before afterwards."""
    before = weight.clone()
    values = []
    for sign in (1, -1):
        weight.copy_(before + sign * direction)
        values.append(loss().item())
    weight.copy_(before)
    return (values[0] - values[1]) / 2


def binary_errors(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[LayerErrors, ...]:
    """Both errors of every binary layer of a network, on one normalized batch; the model is as before afterwards."""
    forward = forward_errors(model, images)
    gradient = gradient_errors(model, images, labels, seed=seed, progress=progress)
    return tuple(
        LayerErrors(name, kind(layer), *forward.get(name, (None, None)), *gradient.get(name, (None, None)))
        for name, layer in layers(model).items()
        if isinstance(layer, BinaryConv2d | BinaryLinear) and (name in forward or name in gradient)
    )
