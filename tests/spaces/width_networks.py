"""Small networks of the space `widths` for its tests: every form once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnas.genotype import Genotype
from bnas.space import NetSpec
from search_spaces.widths import Widths

# Every form of network once, small: (network, size, input shape).
FORMS: Mapping[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "vgg": ("vgg_small", {"channels": 4}, (2, 8, 8)),
    "vgg_oblong_prelu": ("vgg_small", {"channels": 4, "activation": "prelu"}, (1, 10, 17)),
    "vgg_imagenet": ("vgg_small", {"channels": 4, "stem": "imagenet", "activation": "relu"}, (3, 33, 40)),
    "resnet20": ("resnet20", {"channels": 4}, (2, 8, 8)),
    "resnet20_bireal": (
        "resnet20",
        {"channels": 4, "block": "bireal", "downsample": "real", "activation": "hardtanh"},
        (2, 7, 9),
    ),
    "resnet18_imagenet": (
        "resnet18",
        {"channels": 4, "stem": "imagenet", "block": "bireal", "activation": "prelu"},
        (3, 39, 33),
    ),
}


def spec_of(form: str, scheme: str = "bats") -> NetSpec:
    _, size, shape = FORMS[form]
    return NetSpec(shape, 3, scheme, {}, size)


def images(form: str, count: int = 4) -> Tensor:
    return torch.randn(count, *FORMS[form][2], generator=torch.Generator().manual_seed(1))


def drawn(space: Widths, seed: int) -> Genotype:
    return space.random(np.random.default_rng(seed))
