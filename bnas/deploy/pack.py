"""From a trained network to a packed one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bnas.deploy.file import Packed
from bnas.deploy.ir import Program
from bnas.deploy.trace import trace


@torch.no_grad()
def export(
    model: nn.Module,
    *,
    input_shape: Sequence[int],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    about: Mapping[str, Any] | None = None,
) -> Packed:
    """The packed network that computes what `model` computes in evaluation. `model` is left as it is.

    `input_shape` is (C, H, W); `mean` and `std` normalize images of 0..1 per channel; `about` is any JSON that tells
    where the network comes from. `BnasError` names the layer that cannot be packed, and the reason.
    """
    channels, height, width = input_shape
    draft, start, result = trace(model)
    program = Program(
        ops=tuple(draft.ops),
        input=start,
        input_shape=(int(channels), int(height), int(width)),
        output=result,
        classes=tuple(classes),
        mean=tuple(float(number) for number in mean),
        std=tuple(float(number) for number in std),
        # As it will be read back: lists for tuples.
        about=json.loads(json.dumps(dict(about or {}))),
    )
    return Packed(program, draft.tensors)
