"""From modules and functions of a trained network to operations: a table class -> function, written out.

Each entry reads one leaf of the traced network and adds its operations to the draft.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnas.deploy.binary_layers import binary_conv2d, binary_linear, float32, norm_binarize
from bnas.deploy.draft import Draft, Node
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, BinaryLinear, ChannelShuffle, DropPath, NormBinarize, RPReLU
from bnas.layers.ops import Zero


def _pair(value: Any) -> list[int]:
    return [int(v) for v in value] if isinstance(value, tuple) else [int(value)] * 2


# Modules. Each takes (draft, node, module) and returns the name of the value that stands for the module's output.


def _conv2d(draft: Draft, node: Node, module: nn.Conv2d) -> str:
    if module.padding_mode != "zeros":
        raise BnasError(f"its padding_mode is '{module.padding_mode}'; only 'zeros' is packed")
    attributes = {
        "stride": list(module.stride),
        "padding": _sides(module),
        "dilation": list(module.dilation),
        "groups": module.groups,
        "pad_value": 0,
    }
    tensors = {"weight": float32(module.weight), "bias": None if module.bias is None else float32(module.bias)}
    return draft.add("conv2d", node.name, node.inputs, node.output, attributes, tensors)


def _sides(module: nn.Conv2d) -> list[int]:
    """[top, left, bottom, right]; 'same' pads the odd pixel at the bottom and right, as torch does."""
    if module.padding == "same":
        spare = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [*(s // 2 for s in spare), *(s - s // 2 for s in spare)]
    return [0, 0, 0, 0] if module.padding == "valid" else _pair(module.padding) * 2


def _linear(draft: Draft, node: Node, module: nn.Linear) -> str:
    tensors = {"weight": float32(module.weight), "bias": None if module.bias is None else float32(module.bias)}
    return draft.add("linear", node.name, node.inputs, node.output, {}, tensors)


def _batch_norm(draft: Draft, node: Node, module: nn.BatchNorm1d | nn.BatchNorm2d) -> str:
    """scale = gamma / sqrt(var + eps), shift = beta - mean scale: in float64, rounded once."""
    if module.running_mean is None or module.running_var is None:
        raise BnasError("it keeps no running statistics, so that its result depends on the batch")
    scale = (module.running_var.detach().double() + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.detach().double()
    shift = -module.running_mean.detach().double() * scale
    if module.bias is not None:
        shift = shift + module.bias.detach().double()
    tensors = {"scale": float32(scale), "shift": float32(shift)}
    return draft.add("batch_norm", node.name, node.inputs, node.output, {}, tensors)


def _prelu(draft: Draft, node: Node, module: nn.PReLU) -> str:
    return draft.add("prelu", node.name, node.inputs, node.output, {}, {"slope": float32(module.weight)})


def _rprelu(draft: Draft, node: Node, module: RPReLU) -> str:
    """Shift, PReLU, shift: a batch norm of scale 1 is a shift."""

    def shifted(inputs: tuple[str, ...], output: str, shift: Tensor, role: str) -> str:
        tensors = {"scale": float32(torch.ones_like(shift)), "shift": float32(shift)}
        return draft.add("batch_norm", f"{node.name}.{role}", inputs, output, {}, tensors)

    entering = shifted(node.inputs, f"{node.output}.shifted", module.before, "before")
    slope = {"slope": float32(module.slope)}
    bent = draft.add("prelu", node.name, (entering,), f"{node.output}.bent", {}, slope)
    return shifted((bent,), node.output, module.after, "after")


def _hardtanh(draft: Draft, node: Node, module: nn.Hardtanh) -> str:
    return draft.add(
        "hardtanh", node.name, node.inputs, node.output, {"min": float(module.min_val), "max": float(module.max_val)}
    )


def _max_pool2d(draft: Draft, node: Node, module: nn.MaxPool2d) -> str:
    if module.return_indices:
        raise BnasError("it returns indices, which are not packed")
    attributes = {**_pooling(module), "dilation": _pair(module.dilation)}
    return draft.add("max_pool2d", node.name, node.inputs, node.output, attributes)


def _avg_pool2d(draft: Draft, node: Node, module: nn.AvgPool2d) -> str:
    if module.divisor_override is not None:
        raise BnasError("it has a divisor_override, which is not packed")
    attributes = {**_pooling(module), "count_include_pad": module.count_include_pad}
    return draft.add("avg_pool2d", node.name, node.inputs, node.output, attributes)


def _pooling(module: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, Any]:
    return {
        "kernel_size": _pair(module.kernel_size),
        "stride": _pair(module.stride),
        "padding": _pair(module.padding),
        "ceil_mode": module.ceil_mode,
    }


def _adaptive_avg_pool2d(draft: Draft, node: Node, module: nn.AdaptiveAvgPool2d) -> str:
    return _global_avg_pool(draft, node, module.output_size)


def _channel_shuffle(draft: Draft, node: Node, module: ChannelShuffle) -> str:
    return draft.add("channel_shuffle", node.name, node.inputs, node.output, {"groups": module.groups})


def _zero(draft: Draft, node: Node, module: Zero) -> str:
    return draft.add("zeros_like", node.name, node.inputs, node.output, {"stride": [module.stride] * 2})


def _flatten_module(draft: Draft, node: Node, module: nn.Flatten) -> str:
    return _flatten(draft, node, module.start_dim, module.end_dim)


def _relu(draft: Draft, node: Node, *options: Any, inplace: bool = False) -> str:
    return draft.add("relu", node.name, node.inputs, node.output)


def _same(draft: Draft, node: Node, *options: Any, **named: Any) -> str:
    """Nothing in evaluation: the input stands for the output."""
    return node.inputs[0]


MODULES: Mapping[type[nn.Module], Callable[..., str]] = {
    NormBinarize: norm_binarize,
    BinaryConv2d: binary_conv2d,
    BinaryLinear: binary_linear,
    ChannelShuffle: _channel_shuffle,
    DropPath: _same,
    Zero: _zero,
    nn.Conv2d: _conv2d,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.PReLU: _prelu,
    RPReLU: _rprelu,
    nn.ReLU: _relu,
    nn.Hardtanh: _hardtanh,
    nn.MaxPool2d: _max_pool2d,
    nn.AvgPool2d: _avg_pool2d,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
    nn.Flatten: _flatten_module,
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout2d: _same,
}


# Functions and methods. Each takes (draft, node, *the arguments that are not values, **named arguments).


def _add(draft: Draft, node: Node, *numbers: Any, alpha: float = 1) -> str:
    if alpha != 1:
        raise BnasError(f"it adds with alpha={alpha}; only plain sums are packed")
    # Python's sum() starts from 0.
    if list(numbers) == [0]:
        return node.inputs[0]
    if numbers:
        raise BnasError(f"it adds the constant {numbers[0]!r}; only values of the network are added")
    return draft.add("add", node.name, node.inputs, node.output)


def _concat(draft: Draft, node: Node, axis: int = 0, *, dim: int | None = None) -> str:
    along = axis if dim is None else dim
    if along != 1:
        raise BnasError(f"it joins along dimension {along}; only channels, dimension 1, are joined")
    if len(node.inputs) == 1:
        return node.inputs[0]
    return draft.add("concat", node.name, node.inputs, node.output)


def _flatten(draft: Draft, node: Node, start_dim: int = 0, end_dim: int = -1) -> str:
    if (start_dim, end_dim) != (1, -1):
        raise BnasError(f"it flattens dimensions {start_dim} to {end_dim}; only 1 to -1, a whole image, is packed")
    return draft.add("flatten", node.name, node.inputs, node.output)


def _mean(draft: Draft, node: Node, dim: Any = None, keepdim: bool = False) -> str:
    if not isinstance(dim, (tuple, list)) or sorted(d % 4 for d in dim) != [2, 3]:
        raise BnasError(f"it averages over dimensions {dim}; only (2, 3), a whole map, is packed")
    if keepdim:
        return draft.add("global_avg_pool", node.name, node.inputs, node.output)
    pooled = draft.add("global_avg_pool", node.name, node.inputs, f"{node.output}.pooled")
    return draft.add("flatten", node.name, (pooled,), node.output)


def _dropout(draft: Draft, node: Node, p: float = 0.5, training: bool = True, inplace: bool = False) -> str:
    if training:
        raise BnasError("it drops values in evaluation too: pass training=self.training")
    return node.inputs[0]


def _global_avg_pool(draft: Draft, node: Node, output_size: Any) -> str:
    if output_size not in (1, (1, 1), [1, 1]):
        raise BnasError(f"it pools to {output_size}; only 1, a whole map, is packed")
    return draft.add("global_avg_pool", node.name, node.inputs, node.output)


FUNCTIONS: Mapping[Any, Callable[..., str]] = {
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    torch.cat: _concat,
    torch.concat: _concat,
    torch.flatten: _flatten,
    torch.relu: _relu,
    torch.mean: _mean,
    F.relu: _relu,
    F.adaptive_avg_pool2d: _global_avg_pool,
    F.dropout: _dropout,
}

METHODS: Mapping[str, Callable[..., str]] = {
    "add": _add,
    "add_": _add,
    "relu": _relu,
    "flatten": _flatten,
    "mean": _mean,
    "contiguous": _same,
}
