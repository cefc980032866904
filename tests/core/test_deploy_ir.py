"""The program: JSON both ways, every check of its form and of its shapes, and that its tables and its page agree."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bnas.deploy import runtime, shapes
from bnas.deploy.ir import Op, Program
from bnas.deploy.kinds import OP_KINDS
from bnas.deploy.real_ops import REAL_OPS
from bnas.errors import BnasError
from tests.core.packed_networks import Cell, packed, trained

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"

CONV = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1], "groups": 1, "pad_value": 0}
POOL = {"kernel_size": [3, 3], "stride": [2, 2], "padding": [1, 1], "ceil_mode": False}


def program(*ops, output=None, **fields):
    given = {
        "ops": ops,
        "input": "x",
        "input_shape": (3, 8, 8),
        "output": output or ops[-1].output,
        "classes": ("a", "b"),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }
    return Program(**{**given, **fields})


RELU = Op("relu", "r", ("x",), "y")


def test_json_gives_back_the_program():
    made = packed(trained(Cell("bats"))).program
    assert Program.from_json(made.to_json()) == made
    assert Program.from_json(made.to_json()).to_json() == made.to_json()
    unusual = program(RELU, classes=("Füchse", 'a "quoted" name'), about={"list": [1, None]})
    assert Program.from_json(unusual.to_json()) == unusual


def test_every_kind_has_a_shape_rule_a_function_and_a_row_on_the_page():
    assert set(shapes._RULES) == set(OP_KINDS) == set(runtime._BINARY_OPS) | set(REAL_OPS)
    rows = {line.split("`")[1]: line for line in FORMAT_PAGE.read_text().splitlines() if line.startswith("| `")}
    for name, kind in OP_KINDS.items():
        parameters = rows[name].split("|")[3]
        words = set(parameters.replace("`", "*").split("*")[1::2])
        assert words == {*kind.attributes, *kind.tensors, *kind.optional_tensors}, name
        for role, dtype in {**kind.tensors, **kind.optional_tensors}.items():
            assert f"`{role}` {dtype}" in parameters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Op("rellu", "r", ("x",), "y"), "no operation kind named 'rellu'; .* Did you mean 'relu'"),
        (lambda: Op("relu", "r", ("x", "z"), "y"), r"layer 'r' \(relu\): takes one input, found 2"),
        (lambda: Op("add", "r", ("x",), "y"), "takes at least two inputs, found 1"),
        (
            lambda: Op("conv2d", "c", ("x",), "y", {"stride": [1, 1]}),
            r"\(conv2d\): attribute padding is missing; it needs",
        ),
        (lambda: Op("relu", "r", ("x",), "y", {"slope": 1}), "attribute slope is not known; there are: none"),
        (lambda: Op("linear", "l", ("x",), "y"), "tensor weight is missing; it needs weight"),
        (
            lambda: Op("linear", "l", ("x",), "y", {}, {"weight": "w", "bia": "b"}),
            "tensor bia is not known; there are: weight, bias. Did you mean 'bias'",
        ),
        (lambda: program(Op("relu", "r", ("z",), "y")), r"layer 'r' \(relu\): its input 'z' does not exist"),
        (
            lambda: program(Op("relu", "r", ("z",), "y"), Op("relu", "s", ("y",), "z")),
            r"layer 'r' \(relu\): its input 'z' is computed only later: a cycle, or a wrong order",
        ),
        (lambda: program(Op("relu", "r", ("y",), "y")), "its input 'y' is computed only later"),
        (lambda: program(RELU, RELU), "the value 'y' is written a second time"),
        (lambda: program(RELU, output="q"), "the output 'q' is computed by no operation"),
        (lambda: program(RELU, input_shape=(3, 0, 8)), r"the input shape is \(3, 0, 8\); it needs three"),
        (lambda: program(RELU, mean=(0.0,)), "mean and std need 3 numbers, .* found 1 and 3"),
        (lambda: program(RELU, std=(1.0, 0.0, 1.0)), "mean must be finite and std above 0"),
        (lambda: program(RELU, mean=(0.0, float("nan"), 1.0)), "mean must be finite and std above 0"),
        (
            lambda: program(
                Op("batch_norm", "n", ("x",), "y", {}, {"scale": "t", "shift": "t"}),
                Op("threshold", "t", ("y",), "z", {"groups": 1}, {"value": "v", "flip": "t"}),
            ).tensor_types(),
            r"layer 't' \(threshold\): tensor 't' is used as U8 here and as F32 elsewhere",
        ),
    ],
)
def test_what_is_not_a_program_is_refused(make, message):
    with pytest.raises(BnasError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "attribute", "value", "allowed"),
    [
        ("conv2d", "stride", [1, 0], r"\[vertical, horizontal\], whole numbers from 1"),
        ("conv2d", "stride", 1, r"\[vertical, horizontal\], whole numbers from 1"),
        ("conv2d", "stride", [True, 1], r"\[vertical, horizontal\], whole numbers from 1"),
        ("conv2d", "padding", [1, 1, 1], r"\[top, left, bottom, right\], whole numbers"),
        ("conv2d", "padding", [1, 1, 1, 2**40], r"\[top, left, bottom, right\], whole numbers"),
        ("conv2d", "groups", 0, "a whole number from 1"),
        ("conv2d", "pad_value", 2, "-1, 0 or 1"),
        ("conv2d", "pad_value", 1.0, "-1, 0 or 1"),
        ("max_pool2d", "padding", [-1, 0], r"\[vertical, horizontal\], whole numbers from 0"),
        ("max_pool2d", "ceil_mode", 1, "true or false"),
        ("hardtanh", "max", "1", "a finite number"),
        ("hardtanh", "max", float("inf"), "a finite number"),
        ("hardtanh", "max", 10**400, "a finite number"),
    ],
)
def test_attributes_are_checked(kind, attribute, value, allowed):
    good = {"conv2d": CONV, "max_pool2d": {**POOL, "dilation": [1, 1]}, "hardtanh": {"min": -1, "max": 1.0}}[kind]
    tensors = {"weight": "w"} if kind == "conv2d" else {}
    Op(kind, "o", ("x",), "y", good, tensors)
    with pytest.raises(BnasError, match=rf"layer 'o' \({kind}\): attribute {attribute} is {allowed}, found"):
        Op(kind, "o", ("x",), "y", {**good, attribute: value}, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: 3, "the program is not a table but int"),
        (lambda content: [content], "the program is not a table but list"),
        (lambda content: {**content, "extra": 1}, "the program: field extra is not known"),
        (lambda content: {k: v for k, v in content.items() if k != "mean"}, "the program: field mean is missing"),
        (lambda content: {**content, "classes": "ab"}, "field classes is a list of texts, found 'ab'"),
        (lambda content: {**content, "std": [1, "1", 1]}, "field std is a list of finite numbers"),
        (lambda content: {**content, "input_shape": [3, 8]}, r"field input_shape is \[channels, height, width\]"),
        (lambda content: {**content, "about": None}, "field about is a table, found None"),
        (lambda content: {**content, "ops": [5]}, "operation 0 is not a table but int"),
        (lambda content: {**content, "ops": [{}]}, "operation 0: field kind is missing"),
        (
            lambda content: {**content, "ops": [{**content["ops"][0], "tensors": {"a": 1}}]},
            "operation 0: field tensors is a table of texts",
        ),
    ],
)
def test_what_is_not_a_program_in_json_is_refused(change, message):
    with pytest.raises(BnasError, match=message):
        Program.from_json(json.dumps(change(json.loads(program(RELU).to_json()))))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": 1e', "\x00"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(BnasError, match="the program is not JSON"):
        Program.from_json(text)


def chain(kind, attributes=None, tensors=None, **more):
    return Op(kind, "o", ("x",), "y", attributes or {}, {role: role for role in tensors or {}}), tensors or {}


def threshold(groups=1, channels=3):
    return Op("threshold", "t", ("x",), "b", {"groups": groups}, {"value": "v", "flip": "f"}), {
        "v": (channels,),
        "f": (channels,),
    }


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (chain("unpack"), "reads bits values, its input is real 3 x 8 x 8"),
        (
            chain("conv2d", CONV, {"weight": (2, 4, 3, 3)}),
            r"tensor weight 'weight' has shape \[2, 4, 3, 3\], it needs \[2, 3, 3, 3\]",
        ),
        (chain("conv2d", CONV, {"weight": (2, 3, 3)}), r"tensor weight has shape \[2, 3, 3\], it needs 4 dimensions"),
        (chain("conv2d", CONV, {"weight": (0, 3, 3, 3)}), r"it needs 4 dimensions, each at least 1"),
        (
            chain("conv2d", CONV, {"weight": (2, 3, 3, 3), "bias": (3,)}),
            r"tensor bias 'bias' has shape \[3\], it needs \[2\]",
        ),
        (chain("conv2d", {**CONV, "groups": 2}, {"weight": (2, 3, 3, 3)}), "3 channels do not divide into 2 groups"),
        (chain("conv2d", {**CONV, "groups": 3}, {"weight": (2, 1, 3, 3)}), "2 channels do not divide into 3 groups"),
        (chain("conv2d", CONV, {"weight": (2, 3, 9, 3)}), "a kernel that spans 9 x 3 does not fit into 8 x 8"),
        (
            chain("conv2d", {**CONV, "padding": [-8, 0, 9, 0]}, {"weight": (2, 3, 1, 1)}),
            "crops 8 x 8 pixels to nothing",
        ),
        (
            chain("conv2d", {**CONV, "padding": [2**20, 0, 0, 2**20]}, {"weight": (2, 3, 1, 1)}),
            "its padded input would be 1048584 x 1048584 pixels; at most",
        ),
        (chain("linear", {}, {"weight": (2, 3)}), r"reads values \[K\], its input is real 3 x 8 x 8"),
        (
            chain("batch_norm", {}, {"scale": (4,), "shift": (3,)}),
            r"tensor scale 'scale' has shape \[4\], it needs \[3\]",
        ),
        (
            chain("batch_norm", {}, {"scale": (3,), "shift": (1,)}),
            r"tensor shift 'shift' has shape \[1\], it needs \[3\]",
        ),
        (chain("prelu", {}, {"slope": (2,)}), r"tensor slope 'slope' has shape \[2\], it needs \[3\] or \[1\]"),
        (chain("channel_shuffle", {"groups": 2}), "3 channels do not divide into 2 groups"),
        (
            chain("max_pool2d", {**POOL, "padding": [2, 1], "dilation": [1, 1]}),
            "pads by 2, more than half of its kernel of 3",
        ),
        (
            chain("avg_pool2d", {**POOL, "kernel_size": [3, 11], "count_include_pad": True}),
            "spans 11 does not fit into 10",
        ),
        (threshold(groups=2), "3 channels do not divide into 2 groups"),
        (threshold(channels=4), r"tensor value 'v' has shape \[4\], it needs \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused(op, message):
    made, tensors = op
    with pytest.raises(BnasError, match=message):
        shapes.infer(program(made), tensors)


BINARY_CONV = {**CONV, "in_channels": 3}


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op("relu", "o", ("b",), "y"), r"layer 'o' \(relu\): reads real values, its input is bits 3 x 8 x 8"),
        (
            Op("binary_conv2d", "o", ("b",), "y", {**BINARY_CONV, "in_channels": 4}, {"weight": "w"}),
            "reads 4 channels in 1 groups, its input is bits 3 x 8 x 8 in 1 groups",
        ),
        (
            Op("binary_conv2d", "o", ("b",), "y", {**BINARY_CONV, "groups": 3}, {"weight": "w"}),
            "reads 3 channels in 3 groups, its input is bits 3 x 8 x 8 in 1 groups",
        ),
        (
            Op("binary_conv2d", "o", ("b",), "y", BINARY_CONV, {"weight": "wide"}),
            r"tensor weight 'wide' has shape \[2, 3, 3, 2\], it needs \[2, 3, 3, 1\]",
        ),
        (
            Op("binary_conv2d", "o", ("b",), "y", BINARY_CONV, {"weight": "w", "scale": "v"}),
            r"tensor scale 'v' has shape \[3\], it needs \[2\]",
        ),
        (
            Op("binary_linear", "o", ("b",), "y", {"in_features": 3}, {"weight": "w"}),
            "reads bits 3 in one group, its input is",
        ),
    ],
)
def test_what_does_not_fit_bits_is_refused(op, message):
    made, tensors = threshold()
    with pytest.raises(BnasError, match=message):
        shapes.infer(program(made, op), {**tensors, "w": (2, 3, 3, 1), "wide": (2, 3, 3, 2)})


def test_binary_linear_needs_the_words_of_its_features():
    made, tensors = threshold()
    ops = (made, Op("flatten", "f", ("b",), "k"))
    linear = Op("binary_linear", "o", ("k",), "y", {"in_features": 192}, {"weight": "w", "scale": "s"})
    values = shapes.infer(program(*ops, linear), {**tensors, "w": (2, 6), "s": (2,)})
    assert str(values["y"]) == "real 2"
    with pytest.raises(BnasError, match=r"'w' has shape \[2, 5\], it needs \[2, 6\]"):
        shapes.infer(program(*ops, linear), {**tensors, "w": (2, 5), "s": (2,)})
    with pytest.raises(BnasError, match=r"'s' has shape \[3\], it needs \[2\]"):
        shapes.infer(program(*ops, linear), {**tensors, "w": (2, 6), "s": (3,)})


def test_sums_and_joins_need_values_of_one_size():
    pool = Op("global_avg_pool", "p", ("x",), "p")
    with pytest.raises(BnasError, match="adds values of one shape, its inputs are real 3 x 8 x 8, real 3 x 1 x 1"):
        shapes.infer(program(pool, Op("add", "a", ("x", "p"), "y")), {})
    with pytest.raises(
        BnasError, match="joins values that differ in channels only, found real 3 x 8 x 8, real 3 x 1 x 1"
    ):
        shapes.infer(program(pool, Op("concat", "c", ("x", "p"), "y")), {})
    flat = Op("flatten", "f", ("x",), "f")
    with pytest.raises(BnasError, match=r"reads values \[C, H, W\], its input is real 192"):
        shapes.infer(program(flat, Op("global_avg_pool", "p", ("f",), "y")), {})


def test_a_value_beyond_any_network_is_refused():
    concats = [Op("concat", "c", (f"v{i}",) * 64, f"v{i + 1}") for i in range(4)]
    wide = replace(program(Op("relu", "r", ("x",), "v0"), *concats), output="v4")
    with pytest.raises(BnasError, match="its output would be real 50331648 x 8 x 8; every size"):
        shapes.infer(wide, {})


def test_the_output_is_one_logit_a_class():
    ops = (Op("global_avg_pool", "p", ("x",), "p"), Op("flatten", "f", ("p",), "y"))
    assert shapes.infer(program(*ops, classes=("a", "b", "c")), {})["y"] == shapes.Value((3,))
    with pytest.raises(BnasError, match="the output is real 3; 2 classes need real 2"):
        shapes.infer(program(*ops), {})
