"""What tells that a search collapses, a round at a time: how decided the gates are, and whether the binary parts still learn.

A record of a round also has the histogram of the chosen operations and the space's facts (`strategy.describe_genotype`);
`bnas.collapse` judges it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnas.binary import Binarizer
from bnas.training.metrics import Forward, batch_statistics, evaluating, latent_signs, sign_flips
from bnas.training.updates import binary_layers, latent_weights


def mean_entropy(weights: Mapping[str, Tensor]) -> Tensor:
    """Entropy in nats of each decision's weights (a distribution), averaged over the decisions; a scalar with gradient."""
    return torch.stack([-(w * w.clamp_min(1e-12).log()).sum() for w in weights.values()]).mean()


@torch.no_grad()
def gate_figures(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """How decided distributions over choices are, averaged over the decisions with at least two choices.

    `entropy` in nats (log n when even, 0 when decided); `top2_gap`: largest minus second largest weight. Empty where
    nothing is open.
    """
    weights = {name: vector for name, vector in weights.items() if len(vector) > 1}
    if not weights:
        return {}
    best = torch.stack([vector.topk(2).values for vector in weights.values()])
    return {"entropy": mean_entropy(weights).item(), "top2_gap": (best[:, 0] - best[:, 1]).mean().item()}


class NetworkPanel:
    """Figures of the binary parts of a network that is trained, on one batch a round.

    net: a super-network (or any network). images: [N, C, H, W], the same ones in every round. Call `begin` before a
    round's first step and `figures` after its last; nothing is kept from round to round, so nothing has to be saved.
    """

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        self._net, self._images = net, images
        self._signs: dict[str, Tensor] = {}

    def begin(self) -> None:
        self._signs = latent_signs(self._net)

    @torch.no_grad()
    def figures(self, forward: Forward | None = None) -> dict[str, float]:
        """What the round did. `forward`: images -> logits, where the network needs more than images (gates).

        - `sign_flips`: share of the binary weights whose sign is another one than at `begin`;
        - `plus_one`: share of +1 among all binary activations; `plus_one_lowest`, `plus_one_highest`: of the layers
          with the smallest and the largest share (at 0 or 1 a layer says nothing about the image);
        - `clipped_activations`, `clipped_weights`: share of the elements whose gradient the estimator sets to 0,
          mostly because they lie beyond its window.

        Activations are those of the fixed images, normalized by their own statistics; running ones are left alone.
        A figure for which the network has nothing binary is left out.
        """
        found: dict[str, float] = {}
        if self._signs:
            found["sign_flips"] = sign_flips(self._signs, latent_signs(self._net))
        layers: list[tuple[Tensor, Tensor]] = []
        with evaluating(self._net), batch_statistics(self._net), _watched(self._net, layers):
            (forward or self._net)(self._images)
        if layers:
            plus_one, clipped = (torch.stack(column) for column in zip(*layers, strict=True))
            sizes = plus_one[:, 1]
            shares = plus_one[:, 0] / sizes
            found["plus_one"] = (plus_one[:, 0].sum() / sizes.sum()).item()
            found["plus_one_lowest"], found["plus_one_highest"] = shares.min().item(), shares.max().item()
            found["clipped_activations"] = (clipped[:, 0].sum() / sizes.sum()).item()
        return found | self._clipped_weights()

    def _clipped_weights(self) -> dict[str, float]:
        counts = [_clipped(entry.binarizer, entry.weight) for entry in latent_weights(self._net)]
        if not counts:
            return {}
        clipped, of = torch.stack(counts).sum(dim=0).tolist()
        return {"clipped_weights": clipped / of}


@contextmanager
def _watched(net: nn.Module, layers: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """In the block, each run of an activation binarizer adds (+1 elements, all) and (clipped elements, all)."""
    of_weights = {id(binarizer) for _, _, _, binarizer in binary_layers(net)}

    def hook(module: Binarizer, inputs: tuple[Tensor], output: Tensor) -> None:
        layers.append((_counted(output > 0), _clipped(module, inputs[0])))

    handles = [
        module.register_forward_hook(hook)
        for module in net.modules()
        if isinstance(module, Binarizer) and module.binarizes and id(module) not in of_weights
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clipped(binarizer: Binarizer, x: Tensor) -> Tensor:
    """[elements of x whose gradient is set to 0, elements]"""
    return _counted(binarizer.estimator.derivative(binarizer.pre(x.detach())) == 0)


def _counted(where: Tensor) -> Tensor:
    """[true elements, elements] as float64, so that no count is rounded."""
    return torch.stack([where.sum(), where.new_tensor(where.numel(), dtype=torch.int64)]).double()
