"""Programs of single operations with odd sizes, for every target that is not our own runtime."""

import numpy as np
import torch

from bnas.deploy.file import Packed
from bnas.deploy.ir import Op, Program
from bnas.kernels.packing import pack_matrix, pack_weights
from bnas.seeding import borrowed

INPUT = (6, 7, 5)
_CONV = {"stride": [2, 1], "dilation": [1, 2], "groups": 2}


def _draw(*shape):
    return torch.randn(*shape).numpy()


def _signs(*shape):
    return np.where(_draw(*shape) >= 0, np.float32(1), np.float32(-1))


def _threshold(groups=1, source="x", output="bits", channels=6):
    """Thresholds in both directions, at infinity, and at 0, which `images` holds."""
    value, flip = _draw(channels), (_draw(channels) > 0).astype(np.uint8)
    value[:3], flip[:3] = [np.inf, -np.inf, 0], [1, 1, 0]
    tensors = {f"{output}.value": value, f"{output}.flip": flip}
    roles = {"value": f"{output}.value", "flip": f"{output}.flip"}
    return Op("threshold", output, (source,), output, {"groups": groups}, roles), tensors


def _parity(groups):
    """Three comparisons a channel, in both directions, some at infinity or at 0."""
    value, flip = _draw(3, 6), (_draw(6) > 0).astype(np.uint8)
    value[0, :3], value[1, 1:3] = [np.inf, -np.inf, 0], [0, np.inf]
    roles = {"value": "v", "flip": "f"}
    op = Op("parity_threshold", "bits", ("x",), "bits", {"groups": groups}, roles)
    return [op, Op("unpack", "u", ("bits",), "y")], {"v": value, "f": flip}


def _binary_conv(pad_value, padding, groups=2, scale=True):
    threshold, tensors = _threshold(groups)
    attributes = {**_CONV, "groups": groups, "padding": padding, "pad_value": pad_value, "in_channels": 6}
    tensors["w"] = pack_weights(_signs(4, 6 // groups, 3, 2))
    roles = {"weight": "w"}
    if scale:
        tensors["s"], roles["scale"] = _draw(4), "s"
    return [threshold, Op("binary_conv2d", "conv", ("bits",), "y", attributes, roles)], tensors


def _binary_linear(groups):
    """Bits that lie in groups are flattened, channels outermost: 210 features, which fill no whole word."""
    threshold, tensors = _threshold(groups)
    tensors |= {"w": pack_matrix(_signs(9, 210)), "s": _draw(9)}
    flat = Op("flatten", "flat", ("bits",), "flat")
    return [
        threshold,
        flat,
        Op("binary_linear", "l", ("flat",), "y", {"in_features": 210}, {"weight": "w", "scale": "s"}),
    ], tensors


def _conv(pad_value, padding):
    attributes = {**_CONV, "padding": padding, "pad_value": pad_value}
    op = Op("conv2d", "conv", ("x",), "y", attributes, {"weight": "w", "bias": "b"})
    return [op], {"w": _draw(4, 3, 3, 2), "b": _draw(4)}


def _one(kind, attributes=None, inputs=("x",), **tensors):
    return [Op(kind, kind, inputs, "y", attributes or {}, {role: role for role in tensors})], tensors


def _pool(kind, kernel, stride, padding, ceil, **more):
    sizes = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
    return _one(kind, {**sizes, **more})


def _in_place():
    """The first input of a sum read again within it, and after it: neither may be overwritten too early."""
    relu, norm = Op("relu", "r", ("x",), "r"), Op("batch_norm", "n", ("x",), "n", {}, {"scale": "s", "shift": "t"})
    add = Op("add", "a", ("r", "n", "r"), "a")
    return [relu, norm, add, Op("concat", "y", ("a", "n"), "y")], {"s": _draw(6), "t": _draw(6)}


def _flat_and_after():
    """A flattened value shares memory with its image, which is read once more later."""
    ops = [Op("relu", "r", ("x",), "r"), Op("flatten", "f", ("r",), "f"), Op("relu", "g", ("f",), "g")]
    return [
        *ops,
        Op("linear", "l", ("g",), "l", {}, {"weight": "w"}),
        Op("hardtanh", "y", ("r",), "y", {"min": 0, "max": 1}),
    ], {"w": _draw(3, 210)}


CASES = {
    "binary_conv2d padded by 0": lambda: _binary_conv(0, [1, 2, 0, 1]),
    "binary_conv2d padded by +1": lambda: _binary_conv(1, [1, 2, 0, 1], groups=1),
    "binary_conv2d padded by -1": lambda: _binary_conv(-1, [1, 2, 2, 1], scale=False),
    "binary_conv2d cropped": lambda: _binary_conv(0, [-1, 1, -2, 0]),
    "binary_linear": lambda: _binary_linear(1),
    "binary_linear after groups": lambda: _binary_linear(3),
    "parity_threshold": lambda: _parity(1),
    "parity_threshold in groups": lambda: _parity(2),
    "unpack": lambda: ([_threshold(3)[0], Op("unpack", "u", ("bits",), "y")], _threshold(3)[1]),
    "conv2d padded by 0": lambda: _conv(0, [1, 1, 2, 0]),
    "conv2d padded by -1": lambda: _conv(-1, [1, 1, 2, 0]),
    "conv2d cropped": lambda: _conv(0, [-1, 0, -1, 1]),
    "batch_norm": lambda: _one("batch_norm", scale=_draw(6), shift=_draw(6)),
    "prelu": lambda: _one("prelu", slope=_draw(6)),
    "prelu of one slope": lambda: _one("prelu", slope=_draw(1)),
    "relu": lambda: _one("relu"),
    "hardtanh": lambda: _one("hardtanh", {"min": -0.3, "max": 0.7}),
    "add": lambda: _one("add", inputs=("x", "x", "x")),
    "concat": lambda: _one("concat", inputs=("x", "x")),
    "in place": _in_place,
    "flat and after": _flat_and_after,
    "max_pool2d": lambda: _pool("max_pool2d", [3, 2], [2, 2], [1, 1], True, dilation=[1, 1]),
    "max_pool2d dilated": lambda: _pool("max_pool2d", [3, 2], [3, 1], [1, 0], True, dilation=[2, 3]),
    "avg_pool2d": lambda: _pool("avg_pool2d", [3, 2], [2, 2], [1, 1], True, count_include_pad=True),
    "avg_pool2d of the image": lambda: _pool("avg_pool2d", [3, 2], [2, 3], [1, 1], True, count_include_pad=False),
    "avg_pool2d hanging over": lambda: _pool("avg_pool2d", [2, 2], [3, 3], [0, 0], True, count_include_pad=True),
    "global_avg_pool": lambda: _one("global_avg_pool"),
    "channel_shuffle": lambda: _one("channel_shuffle", {"groups": 3}),
    "zeros_like": lambda: _one("zeros_like", {"stride": [2, 3]}),
}


def program(case: str) -> Packed:
    """That case, followed by a mean over the map and one logit a channel."""
    with borrowed(7, case):
        ops, tensors = CASES[case]()
    if case != "binary_linear" and case != "binary_linear after groups":
        ops = [*ops, Op("global_avg_pool", "pool", ("y",), "pooled"), Op("flatten", "flatten", ("pooled",), "logits")]
    last = ops[-1].output
    classes = {"binary_conv2d": 4, "conv2d": 4, "binary_linear": 9, "concat": 12, "in": 12}.get(case.split()[0], 6)
    return Packed(
        Program(tuple(ops), "x", INPUT, last, tuple(map(str, range(classes))), (0.5,) * 6, (0.25,) * 6), tensors
    )


def images(count: int = 5) -> torch.Tensor:
    """With exact zeros, as many a threshold is one."""
    with borrowed(8, "images"):
        x = torch.randn(count, *INPUT)
    x[:, :, ::2, 1] = 0
    return x
