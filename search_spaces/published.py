"""Architectures that papers published, by name: genotype files with their source, and the networks of space `fixed`.

NASNet and AmoebaNet, which the DARTS code lists too, are none of a space here: their cells read one node twice, leave
nodes out of the output and have 7x7 convolutions.
"""

import json
from pathlib import Path
from typing import Any

from bnas.errors import unknown
from bnas.genotype import Genotype
from bnas.registry import Registry
from search_spaces import make_space, space_of
from search_spaces.fixed import DECISION
from search_spaces.fixed_networks import NETWORKS

FOLDER = Path(__file__).parent / "genotypes"

PUBLISHED: Registry[str] = Registry(
    "published genotype",
    {
        "darts_v1": "darts_v1.json",
        "darts_v2": "darts_v2.json",
        "pcdarts_cifar": "pcdarts_cifar.json",
        "pcdarts_imagenet": "pcdarts_imagenet.json",
        "bnas_a": "bnas_a.json",
        "bnas_imagenet": "bnas_imagenet.json",
        "ebnas": "ebnas.json",
        "dcp_nas_l": "dcp_nas_l.json",
        "vgg_auto_a": "vgg_auto_a.json",
        "vgg_auto_b": "vgg_auto_b.json",
        "res18_auto_a": "res18_auto_a.json",
        "res18_auto_b": "res18_auto_b.json",
        "resnet20": "resnet20.json",
    },
)


def names() -> tuple[str, ...]:
    """All that `published` knows. `resnet20` is the file: ratio 1 of everything that space `widths` can widen."""
    return (*PUBLISHED, *(name for name in NETWORKS if name not in PUBLISHED))


def _is_file(name: str) -> bool:
    """Whether a file holds it, or else the table of fixed networks; `BnasError` where neither does."""
    if name not in names():
        raise unknown("published genotype", name, names())
    return name in PUBLISHED


def published(name: str) -> Genotype:
    """The genotype of that name, checked against its space; `BnasError` lists the names where there is none."""
    if not _is_file(name):
        return make_space("fixed", {"networks": [name]}).genotype({DECISION: name})
    genotype = Genotype.from_json(_text(name))
    space_of(genotype)
    return genotype


def about(name: str) -> dict[str, Any]:
    """Where a published genotype comes from and how large its networks were.

    `what` it is, `paper`, `called` (its name there), `repository` and `file` where code has it, and `networks`: name ->
    `dataset`, `size` (as in `NetSpec.size`) and, where known, `scheme` with `scheme_options`, `parameters_millions` (as
    built here, without an auxiliary head) and `accuracy_percent` (top-1, as its authors report it). The first network is
    the one to build where none is named.
    """
    if not _is_file(name):
        network = NETWORKS[name]
        return {
            "what": f"A fixed network: {sum(network.stages)} {network.unit}",
            "paper": network.paper,
            "called": name,
            "networks": {
                "cifar10": {"dataset": "CIFAR-10", "scheme": network.scheme, "size": {}},
                "imagenet": {"dataset": "ImageNet", "scheme": network.scheme, "size": {"stem": "imagenet"}},
            },
        }
    described: dict[str, Any] = json.loads(_text(name))["about"]
    return described


def _text(name: str) -> str:
    return (FOLDER / PUBLISHED[name]).read_text(encoding="utf-8")
