"""The binary layers of a trained network as operations: comparisons, and products of their bits with packed weights.

An operand that is a sum of several +-1 terms becomes as many bits; a layer that multiplies two such sums becomes one
product for each two of their terms, added up in the order of `Multiplying.pairs`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnas.binary.outputs import Output
from bnas.binary.terms import BitTerm
from bnas.binary.threshold import Threshold
from bnas.deploy.draft import Array, Draft, Node, Term
from bnas.errors import BnasError
from bnas.kernels.packing import pack_matrix, pack_weights
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from bnas.layers.products import product_scale


def float32(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float32).numpy().copy()


def norm_binarize(draft: Draft, node: Node, module: NormBinarize) -> str:
    binarizer = module.binarizer
    if not binarizer.binarizes:
        raise BnasError(f"its activations are {binarizer.packing.why}: retrain with a scheme that binarizes them")
    if binarizer.compares:
        return _compare(draft, node, node.output, module.threshold())
    steps = module.steps()
    if steps is None:
        why = f" {binarizer.packing.why}" if not binarizer.packing.terms else ""
        raise BnasError(f"its activations do not pack:{why}: {binarizer.value_text()}")
    terms = []
    for place, (threshold, stair) in enumerate(steps):
        # One comparison is that of a single sign.
        value = threshold.value[0] if len(threshold.value) == 1 else threshold.value
        bits = _compare(draft, node, f"{node.output}.{place}", Threshold(value, threshold.flip), f".{place}")
        terms.append(Term(bits, None if stair.scale is None else float32(stair.scale)))
    return draft.add_sum(node.output, terms, module.channels)


def _compare(draft: Draft, node: Node, output: str, threshold: Threshold, part: str = "") -> str:
    tensors = {"value": float32(threshold.value), "flip": threshold.flip.cpu().numpy().astype(np.uint8)}
    kind = "threshold" if threshold.value.dim() == 1 else "parity_threshold"
    return draft.add(kind, node.name, node.inputs, output, {"groups": 1}, tensors, dict.fromkeys(tensors, part))


def binary_conv2d(draft: Draft, node: Node, module: BinaryConv2d) -> str:
    terms = _input_terms(draft, node)
    attributes = {
        "stride": list(module.stride),
        "padding": list(module.padding),
        "dilation": list(module.dilation),
        "groups": module.groups,
        "pad_value": int(module.pad_value),
    }
    if not module.binarizer.binarizes:
        weight = float32(module.binarizer(module.weight))
        return draft.add("conv2d", node.name, node.inputs, node.output, attributes, {"weight": weight})
    weights = _weight_terms(module)
    if len(terms) * len(weights) > 1 and module.pads_values:
        raise BnasError(
            f"it pads with {int(module.pad_value)}, and its operands are sums of several signs: padded with 0 it packs"
        )
    attributes["in_channels"] = module.in_channels
    make = _Products("binary_conv2d", attributes, pack_weights, module.output)
    return make(draft, node, terms, weights)


def binary_linear(draft: Draft, node: Node, module: BinaryLinear) -> str:
    terms = _input_terms(draft, node)
    if not module.binarizer.binarizes:
        weight = float32(module.binarizer(module.weight))
        return draft.add("linear", node.name, node.inputs, node.output, {}, {"weight": weight})
    make = _Products("binary_linear", {"in_features": module.in_features}, pack_matrix, module.output)
    return make(draft, node, terms, _weight_terms(module))


def _input_terms(draft: Draft, node: Node) -> list[Term]:
    terms = draft.terms(node.inputs[0])
    if terms is None:
        raise BnasError("its input is real-valued: a binary layer that is packed reads the output of a NormBinarize")
    return terms


def _weight_terms(module: BinaryConv2d | BinaryLinear) -> tuple[BitTerm, ...]:
    if module.output.packing is not None:
        raise BnasError(f"it does not pack: {module.output.packing}")
    if not module.binarizer.packing.terms:
        raise BnasError(f"its weights do not pack: {module.binarizer.packing.why}: {module.binarizer.value_text()}")
    return module.binarizer.terms(module.weight)


class _Products:
    """Adds the products of a layer to a draft, and their sum."""

    def __init__(
        self, kind: str, attributes: Mapping[str, Any], pack: Callable[[Array], Array], output: Output
    ) -> None:
        self.kind, self.attributes, self.pack, self.output = kind, attributes, pack, output

    def __call__(self, draft: Draft, node: Node, terms: list[Term], weights: tuple[BitTerm, ...]) -> str:
        pairs = [(i, j) for i in range(len(terms)) for j in range(len(weights))]
        several, total = len(pairs) > 1, ""
        for count, (i, j) in enumerate(pairs, 1):
            tensors = {"weight": self.pack(float32(weights[j].sign_pm1)), "scale": self._scale(terms[i], weights[j])}
            parts = {"weight": f".{j}", "scale": f".{i}.{j}"} if several else {}
            output = f"{node.output}.{i}.{j}" if several else node.output
            part = draft.add(self.kind, node.name, (terms[i].bits,), output, self.attributes, tensors, parts)
            # Two at a time, so that each product is added where it is stored.
            sum_of = node.output if count == len(pairs) else f"{node.output}.sum{count}"
            total = draft.add("add", node.name, (total, part), sum_of) if total else part
        return total

    def _scale(self, term: Term, weight: BitTerm) -> Array | None:
        """One scale per filter, [O], with what multiplies the output's channels; None for a scale of 1."""
        filters, own, outer = len(weight.sign_pm1), weight.scale, self.output.channel_scale()
        if own is not None and (own.numel() not in (1, filters) or own.numel() != max(own.shape[:1], default=1)):
            raise BnasError(f"its scale has the shape {list(own.shape)}; only one scale per filter is packed")
        of_term = None if term.scale is None else torch.from_numpy(term.scale).to(weight.sign_pm1.device)
        scale = product_scale(of_term, own)
        if scale is None:
            return None if outer is None else float32(outer)
        scale = scale.reshape(-1).expand(filters)
        return float32(scale if outer is None else scale * outer)
