"""An ONNX model against the runtime, run by onnxruntime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor

from bnas.deploy import shapes
from bnas.deploy.layer_check import Check, as_tensor, first_difference, sign_flips
from bnas.deploy.onnx.model import value_info
from bnas.deploy.runtime import Bits, PackedNetwork, Value
from bnas.deploy.shapes import Value as Shape
from bnas.kernels.packing import pack_activations, pack_matrix


def check_onnx(model: ModelProto, network: PackedNetwork, images: Tensor) -> Check:
    """Run normalized float32 images [N, C, H, W] through onnxruntime and through the runtime.

    Operation by operation on a copy that hands out every value, then the model itself, with all its optimizations.
    """
    program = network.program
    shapes_ = shapes.infer(program, {name: t.shape for name, t in network.packed.tensors.items()})
    exposed = ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    names = [op.output for op in program.ops]
    exposed.graph.output.extend(value_info(name, shapes_[name]) for name in names)
    # Without optimizations: what is compared are the operations as they are written.
    off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values: dict[str, Value] = {program.input: images}
    for name, array in zip(names, _run(exposed, images, names, off), strict=True):
        values[name] = as_tensor(array)
    for op in program.ops:
        if shapes_[op.output].is_bits:
            values[op.output] = _bits(values[op.output], shapes_[op.output])
    flips, signs, ours = sign_flips(network, images, values)
    on = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    logits = as_tensor(_run(model, images, [program.output], on)[0])
    return Check(
        difference=first_difference(network, values),
        by=f"onnxruntime {onnxruntime.__version__}",
        images=len(images),
        argmax_equal=(ours.argmax(1) == logits.argmax(1)).double().mean().item(),
        sign_flips=flips,
        signs=signs,
        max_logit_error=(ours - logits).abs().max().item(),
    )


def _run(model: ModelProto, images: Tensor, names: Sequence[str], optimizations: Any) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = optimizations
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(list(names), {model.graph.input[0].name: np.ascontiguousarray(images.numpy())}))


def _bits(value: Value, shape: Shape) -> Bits:
    """-1/+1 of a graph as bits that lie as the runtime's do."""
    pm1 = value.numpy() if isinstance(value, Tensor) else value.unpack()
    if len(shape.shape) == 1:
        return Bits(pack_matrix(pm1), shape.shape)
    return Bits(pack_activations(pm1, shape.groups or 1), shape.shape)
