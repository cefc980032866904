"""What stands under the name of an operation in a picture: its convolutions in a network of a given size and scheme."""

from typing import Any

import networkx as nx
import torch
from torch import nn

from bnas.binary import make_scheme
from bnas.genotype import Genotype
from bnas.layers import BinaryConv2d
from bnas.space import NetSpec, SearchSpace


def annotate(graphs: dict[str, nx.DiGraph], space: SearchSpace, genotype: Genotype, spec: NetSpec) -> None:
    """Give each searched edge with convolutions the attribute `note`, such as `dilation 2, 3 groups of 12, W1 A1`.

    Groups are those of the first cell or layer that the edge stands for; W and A are bits of weights and activations.
    """
    with torch.device("meta"):
        network = space.build(genotype, spec)
    for name, graph in graphs.items():
        for a, b, edge in graph.edges(data=True):
            layer = space.layer_of(network, name, (str(a), str(b))) if "choice" in edge else None
            note = "" if layer is None else describe(layer, spec, edge["choice"])
            if note:
                edge["note"] = note


def describe(layer: nn.Module, spec: NetSpec, name: str = "") -> str:
    """The convolutions of a layer in words; empty where it has none. A kernel that its name has is not said again."""
    convolutions = [m for m in layer.modules() if isinstance(m, nn.Conv2d | BinaryConv2d)]
    parts = list(dict.fromkeys((tuple(_shape(conv)), _bits(conv, spec)) for conv in convolutions))
    if len(parts) == 1:
        ((kernel, *more), bits) = parts[0]
        return ", ".join([*([] if kernel in name else [kernel]), *more, bits])
    shared = {bits for _, bits in parts}
    if len(shared) == 1:
        return ", ".join([" + ".join(" ".join(shape) for shape, _ in parts), *shared])
    return " + ".join(f"{' '.join(shape)} {bits}" for shape, bits in parts)


def _shape(conv: Any) -> list[str]:
    words = ["x".join(map(str, conv.kernel_size))]
    if conv.stride[0] > 1:
        words.append(f"stride {conv.stride[0]}")
    if conv.dilation[0] > 1:
        words.append(f"dilation {conv.dilation[0]}")
    if conv.groups > 1:
        per_group = conv.in_channels // conv.groups
        words.append("depthwise" if per_group == 1 else f"{conv.groups} groups of {per_group}")
    return words


def _bits(conv: Any, spec: NetSpec) -> str:
    if isinstance(conv, nn.Conv2d):
        return "W32 A32"
    reads_bits = make_scheme(spec.scheme, spec.scheme_options).activation(conv.in_channels).binarizes
    return f"W{1 if conv.binarizer.binarizes else 32} A{1 if reads_bits else 32}"
