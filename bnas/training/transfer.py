"""Weights from one network to another one of the same names: between two stages, or from a super-network."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bnas.training.updates import binary_layers


@torch.no_grad()
def transfer(source: nn.Module | Mapping[str, Tensor], target: nn.Module) -> tuple[str, ...]:
    """Copy every tensor of equal name and shape into `target`; return the names left at their start values.

    What a binarizer of `target` learns or follows and `source` does not have starts anew from the weight just copied:
    after a stage of real weights, mean |W| of the trained weight and not of the random one.
    """
    given = source.state_dict() if isinstance(source, nn.Module) else source
    left = []
    copied = set()
    for name, tensor in target.state_dict().items():
        if name in given and given[name].shape == tensor.shape:
            tensor.copy_(given[name])
            copied.add(name)
        else:
            left.append(name)
    for layer, _, weight, binarizer in binary_layers(target):
        prefix = f"{layer}." if layer else ""
        learned = {f"{prefix}binarizer.{name}" for name in binarizer.state_dict()}
        if f"{prefix}weight" in copied and learned and not learned & copied:
            binarizer.reset(weight)
            left = [name for name in left if name not in learned]
    return tuple(left)
