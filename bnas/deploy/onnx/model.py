"""A packed network as an ONNX model, built node by node."""

import json

from onnx import ModelProto, TensorProto, ValueInfoProto, checker, helper

from bnas.deploy import shapes
from bnas.deploy.file import Packed
from bnas.deploy.onnx.emit import Graph, emit
from bnas.deploy.shapes import Value as Shape

# Old enough for the runtimes in use; the newest operator here, Shape with a start, is of opset 15.
OPSET, IR_VERSION = 17, 8


def write_onnx(packed: Packed) -> ModelProto:
    """The network as an ONNX model: normalized images [N, C, H, W] in, logits [N, classes] out, N free.

    Class names, mean and std lie in its metadata, as JSON. `BnasError` names the layer that has no form in ONNX.
    """
    program = packed.program
    values = shapes.infer(program, {name: tensor.shape for name, tensor in packed.tensors.items()})
    graph = Graph(packed, values)
    for op in program.ops:
        emit(graph, op)
    body = helper.make_graph(
        graph.nodes,
        "bnas",
        [value_info(program.input, values[program.input])],
        [value_info(program.output, values[program.output])],
        list(graph.initializers.values()),
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, producer_name="bnas", ir_version=IR_VERSION, opset_imports=opset)
    about = {"classes": list(program.classes), "mean": list(program.mean), "std": list(program.std)}
    helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    checker.check_model(model, full_check=True)
    return model


def value_info(name: str, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape.shape])
