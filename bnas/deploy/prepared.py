"""The fused steps of a packed network with their weights laid out, whatever the batch size."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.deploy.file import Packed
from bnas.deploy.fusion import JOINED, Step, fuse
from bnas.deploy.ir import Op, Program
from bnas.deploy.real_layers import REAL_LAYERS, RealLayer, real_layer
from bnas.deploy.rewrite import Rewritten, joins_for_comparisons, map_size, on_map, rewrite
from bnas.deploy.shapes import Value
from bnas.kernels.cpu.layer import BinaryLayer, Epilogue, Threshold
from bnas.kernels.packing import words_for

Array = NDArray[Any]
MakeLayer = Callable[..., BinaryLayer]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Steps of the program as `rewrite` made it.

    By output: the `layers` of binary products; the `real_layers` of sums and pools; what is done to joined values.
    """

    rewritten: Rewritten
    tensors: Mapping[str, Array]
    steps: tuple[Step, ...]
    layers: Mapping[str, BinaryLayer]
    real_layers: Mapping[str, RealLayer]
    joined: Mapping[str, Epilogue]

    @property
    def program(self) -> Program:
        return self.rewritten.program

    @property
    def values(self) -> Mapping[str, Value]:
        return self.rewritten.values

    def threshold(self, op: Op) -> Threshold:
        return Threshold(self.tensors[op.tensors["value"]], self.tensors[op.tensors["flip"]].astype(np.bool_))

    def is_pool_of_bits(self, step: Step) -> bool:
        return step.output in self.rewritten.falling

    def last_readers(self) -> dict[str, int]:
        """The place of the step behind which each value is read no more."""
        return {name: index for index, step in enumerate(self.steps) for name in step.reads}

    def place_of(self, name: str, N: int) -> tuple[tuple[int, ...], type]:
        """Shape and type of the memory for a value of N images."""
        value = self.values[name]
        C, H, W = map_size(value)
        if value.groups is None:
            return (N, H, W, C), np.float32
        return (N, H, W, value.groups, words_for(C // value.groups)), np.uint32

    def bytes_of_image(self) -> int:
        """The most that lies between the steps of one image at any time."""
        sizes = {name: 4 * math.prod(self.place_of(name, 1)[0]) for name in self.values}
        now = most = sizes[self.program.input]
        last = self.last_readers()
        for index, step in enumerate(self.steps):
            now += sizes[step.output]
            most = max(most, now)
            now -= sum(sizes[name] for name in step.reads if last[name] == index)
        return most


def prepare(packed: Packed, layer: MakeLayer) -> Prepared:
    """`layer` makes a `BinaryLayer` for the processor."""
    tensors = packed.tensors
    rewritten = joins_for_comparisons(rewrite(packed.program, tensors))
    steps = fuse(rewritten.program)
    layers = {step.output: _layer(step, rewritten.values, tensors, layer) for step in steps if step.conv is not None}
    real_layers, joined = dict[str, RealLayer](), dict[str, Epilogue]()
    for step in steps:
        op = step.ops[0]
        if op.kind in JOINED and step.threshold is None:
            joined[step.output] = _following(step, tensors, None)
        elif op.kind in REAL_LAYERS and step.output not in rewritten.falling:
            arrays = {role: tensors[name] for role, name in op.tensors.items()}
            real_layers[step.output] = real_layer(op, arrays, _following(step, tensors, None))
    return Prepared(rewritten, tensors, steps, layers, real_layers, joined)


def _layer(step: Step, values: Mapping[str, Value], tensors: Mapping[str, Array], layer: MakeLayer) -> BinaryLayer:
    conv = step.conv
    assert conv is not None
    weight = tensors[conv.tensors["weight"]]
    source = None
    if step.shuffle is not None:
        source = np.arange(len(weight)).reshape(step.shuffle.attributes["groups"], -1).T.reshape(-1)
    following = _following(step, tensors, source)
    if conv.kind == "binary_linear":
        # All images lie on top of each other, as one; the kernel covers an image, and the stride leads to the next.
        channels, height, _ = map_size(values[conv.inputs[0]])
        kernel = on_map(weight, values[conv.inputs[0]])
        return layer(kernel, channels=channels, stride=(height, 1), epilogue=following)
    return layer(
        weight,
        channels=conv.attributes["in_channels"],
        stride=conv.pair("stride"),
        padding=conv.sides("padding"),
        dilation=conv.pair("dilation"),
        groups=conv.attributes["groups"],
        pad_value=conv.attributes["pad_value"],
        epilogue=following,
    )


def _following(step: Step, tensors: Mapping[str, Array], source: Array | None) -> Epilogue:
    """What follows the sums of a step, or the values of a real operation; parameters in the order of `source`."""

    def tensor(op: Op | None, role: str) -> Array | None:
        return None if op is None or role not in op.tensors else tensors[op.tensors[role]]

    def shuffled(values: Array | None) -> Array | None:
        return values if values is None or source is None or len(values) == 1 else values[source]

    act = step.activation
    limits = (-np.inf, np.inf)
    if act is not None and act.kind == "relu":
        limits = (0.0, np.inf)
    elif act is not None and act.kind == "hardtanh":
        limits = (act.attributes["min"], act.attributes["max"])
    return Epilogue(
        scale=tensor(step.conv, "scale"),
        factor=shuffled(tensor(step.batch_norm, "scale")),
        shift=shuffled(tensor(step.batch_norm, "shift")),
        slope=shuffled(tensor(act, "slope")),
        low=limits[0],
        high=limits[1],
        source=source,
    )
