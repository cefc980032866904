"""What a network costs: real and binary multiply-accumulates, weight bits, activation bytes, per layer and in total.

One MAC is one multiply and one add. Real and binary MACs are never added up bare: `macs_effective` = real + binary / 64, the
convention of Bi-Real net and of the binary NAS papers (64 one-bit products in one 64-bit word operation).
Element-wise work (norms, activations, pooling) is not counted as MACs.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from bnas.layers.activation import Activation

BINARY_MACS_PER_REAL = 64


@dataclass(frozen=True)
class LayerCost:
    """One leaf layer for one image. `weight_bits` as packed, `weight_bits_real` at 32 bits a parameter."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    macs_real: int
    macs_binary: int
    parameters: int
    weight_bits: int
    weight_bits_real: int
    activation_bytes: int


@dataclass(frozen=True)
class NetworkCost:
    """Costs of all leaf layers, in the order in which they run."""

    layers: tuple[LayerCost, ...]

    def _sum(self, field: str) -> int:
        return sum(getattr(layer, field) for layer in self.layers)

    @property
    def macs_real(self) -> int:
        return self._sum("macs_real")

    @property
    def macs_binary(self) -> int:
        return self._sum("macs_binary")

    @property
    def macs_effective(self) -> float:
        """real + binary / 64."""
        return self.macs_real + self.macs_binary / BINARY_MACS_PER_REAL

    @property
    def parameters(self) -> int:
        return self._sum("parameters")

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights with one bit per binary weight."""
        return self._sum("weight_bits") / 8

    @property
    def weight_bytes_real(self) -> float:
        """Bytes of the weights at 32 bits each."""
        return self._sum("weight_bits_real") / 8

    @property
    def activation_bytes(self) -> int:
        """Bytes of all layers' outputs, one bit per element where the output is +-1."""
        return self._sum("activation_bytes")

    def totals(self) -> dict[str, float]:
        names = (
            "macs_real",
            "macs_binary",
            "macs_effective",
            "parameters",
            "weight_bytes",
            "weight_bytes_real",
            "activation_bytes",
        )
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        return {"layers": [asdict(layer) for layer in self.layers], "totals": self.totals()}


def _macs(module: nn.Module, output: Tensor) -> int:
    positions = output[0].numel()
    if isinstance(module, nn.Conv2d | BinaryConv2d):
        return positions * module.weight[0].numel()
    if isinstance(module, nn.Linear | BinaryLinear):
        return positions * module.weight.shape[1]
    return 0


def _filters(module: BinaryConv2d | BinaryLinear) -> int:
    """Filters that run: a scheme may make several of each learned one."""
    return module.out_channels if isinstance(module, BinaryConv2d) else module.weight.shape[0]


def _products(module: nn.Module, as_deployed: bool) -> int:
    """Binary products that the layer is made of; 0 where it is one of real numbers."""
    if not isinstance(module, BinaryConv2d | BinaryLinear):
        return 0
    return max(module.products, int(as_deployed))


def _layer(name: str, module: nn.Module, output: Tensor, as_deployed: bool) -> LayerCost:
    macs = _macs(module, output)
    products = _products(module, as_deployed)
    parameters = sum(p.numel() for p in module.parameters())
    bits = 32 * parameters
    output_bits = 32 * output[0].numel()
    if isinstance(module, BinaryConv2d | BinaryLinear) and products:
        # One bit a weight for each of its terms, and for each product one float of scale per filter.
        terms = max(module.binarizer.packing.all_terms, 1)
        filters = _filters(module)
        bits = terms * filters * module.weight[0].numel() + products * 32 * filters
    elif isinstance(module, NormBinarize) and (as_deployed or module.binarizer.packing.terms):
        # For each sign a threshold and its direction per channel; the output is one bit an element.
        terms = max(module.binarizer.packing.all_terms, 1)
        bits, output_bits = terms * 33 * module.channels, terms * output[0].numel()
    return LayerCost(
        name,
        type(module.body if isinstance(module, Activation) else module).__name__,
        tuple(output.shape[1:]),
        0 if products else macs,
        products * macs,
        parameters,
        bits,
        32 * parameters,
        (output_bits + 7) // 8,
    )


def _leaves(model: nn.Module) -> dict[str, nn.Module]:
    whole = (BinaryConv2d, BinaryLinear, NormBinarize, Activation)
    found: dict[str, nn.Module] = {}
    # Modules come parents first; what lies inside a whole layer is passed over.
    outer = "."
    for name, module in model.named_modules():
        if name.startswith(outer):
            continue
        if isinstance(module, whole):
            outer = f"{name}."
        if isinstance(module, whole) or not list(module.children()):
            found[name] = module
    return found


def _only_shapes(module: nn.Module) -> None:
    """Binarizing, comparing and normalizing take most of the time without memory, and change no shape."""
    if type(module) is BinaryConv2d:
        filters = module.weight.new_empty(_filters(module), *module.weight.shape[1:])
        module.forward = lambda x: module.convolve(x, filters)  # type: ignore[method-assign]
    elif type(module) in (NormBinarize, nn.BatchNorm1d, nn.BatchNorm2d):
        module.forward = lambda x: torch.empty_like(x)


def measure(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    forward: Callable[[Any, Tensor], Any] | None = None,
    as_deployed: bool = False,
) -> NetworkCost:
    """Costs of one image of `input_shape` (C, H, W) through `model` in evaluation mode; nothing is computed (meta device).

    `forward(model, x)` runs a model that wants more than x (gates). `as_deployed` counts every binarizable layer as
    binary, whatever its scheme: what a searched network will cost, seen from a super-network with real weights.
    """
    return measure_made(copy.deepcopy(model).to("meta"), input_shape, forward=forward, as_deployed=as_deployed)


def measure_made(
    shadow: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    forward: Callable[[Any, Tensor], Any] | None = None,
    as_deployed: bool = False,
) -> NetworkCost:
    """`measure` of a network that was made on the meta device for nothing else: it is not copied, and of no use after."""
    shadow.eval()
    layers: list[LayerCost] = []
    for name, module in _leaves(shadow).items():

        def record(module: nn.Module, _inputs: Any, output: Tensor, name: str = name) -> None:
            layers.append(_layer(name, module, output, as_deployed))

        _only_shapes(module)
        module.register_forward_hook(record)
    with torch.no_grad():
        x = torch.empty(1, *input_shape, device="meta")
        if forward is None:
            shadow(x)
        else:
            forward(shadow, x)
    return NetworkCost(tuple(layers))
