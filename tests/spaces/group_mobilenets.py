"""Small networks of the space `group_mobilenet` for its tests: every module in both forms."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnas.genotype import Genotype
from bnas.space import NetSpec
from search_spaces.group_mobilenet import GroupMobileNet

SMALL: Mapping[str, Any] = {"layers": (2, 4, 4), "groups": (1, 2, 4), "group_channels": 1, "channels": 4}

# Every module in both forms, small: (size, input shape).
FORMS: Mapping[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "M1": ({"module": "M1", "stem": "imagenet", "activation": "prelu"}, (3, 9, 14)),
    "M2": ({"module": "M2", "stem": "imagenet"}, (3, 8, 8)),
    "M2_cifar": ({"module": "M2", "stem": "cifar", "activation": "relu"}, (1, 5, 4)),
    "M3": ({"module": "M3", "stem": "imagenet", "activation": "hardtanh"}, (2, 7, 9)),
    "M3_cifar": ({"module": "M3", "stem": "cifar", "channels": 8}, (2, 4, 6)),
}


def spec_of(form: str, scheme: str = "bats") -> NetSpec:
    size, shape = FORMS[form]
    return NetSpec(shape, 3, scheme, {}, size)


def images(form: str, count: int = 4) -> Tensor:
    return torch.randn(count, *FORMS[form][1], generator=torch.Generator().manual_seed(1))


def drawn(space: GroupMobileNet, seed: int) -> Genotype:
    return space.random(np.random.default_rng(seed))


def every(space: GroupMobileNet, pick: int) -> Genotype:
    """The first (0) or the last (-1) group number of every layer."""
    return space.genotype({d.name: d.choices[pick] for d in space.decisions})
