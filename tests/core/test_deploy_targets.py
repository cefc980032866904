"""ONNX and C compute what the packed runtime computes, operation by operation; what they cannot express they refuse."""

import dataclasses
import re
import subprocess

import numpy as np
import pytest
import torch

from bnas.deploy.c import emit as c_emit
from bnas.deploy.c.check import FLAGS, check_c, find_compiler
from bnas.deploy.c.plan import plan, value_bytes
from bnas.deploy.c.source import c_name, write_c
from bnas.deploy.kinds import OP_KINDS
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.shapes import infer
from bnas.errors import BnasError
from tests.core import target_programs
from tests.core.packed_networks import Cell, images, packed, trained

COMPILER = find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="this machine has no C compiler (gcc, cc or clang)")


def onnx_modules():
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'bnas[onnx]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'bnas[onnx]'")
    from bnas.deploy.onnx import check, emit, model

    return check, emit, model


def test_every_kind_of_operation_has_a_form_in_both_targets_and_a_case_here():
    _, onnx_emit, _ = onnx_modules()
    assert set(c_emit.EMITTERS) == set(OP_KINDS)
    assert set(onnx_emit.EMITTERS) == set(OP_KINDS)
    cases = {op.kind for case in target_programs.CASES for op in target_programs.program(case).program.ops}
    assert cases == set(OP_KINDS)


@needs_compiler
@pytest.mark.parametrize("case", target_programs.CASES)
def test_c_computes_the_same(case):
    program = target_programs.program(case)
    check = check_c(write_c(program), PackedNetwork(program), target_programs.images(), COMPILER)
    assert check.difference is None


@pytest.mark.parametrize("case", target_programs.CASES)
def test_onnx_computes_the_same(case):
    check, _, model = onnx_modules()
    program = target_programs.program(case)
    result = check.check_onnx(model.write_onnx(program), PackedNetwork(program), target_programs.images())
    assert result.difference is None


@needs_compiler
@pytest.mark.parametrize("scheme", ["bats", "binary-activations"])
def test_a_trained_cell_in_c(scheme):
    network = packed(trained(Cell(scheme)))
    check = check_c(write_c(network), PackedNetwork(network), images(6), COMPILER)
    assert (check.difference, check.argmax_equal, check.images) == (None, 1.0, 6)
    assert check.signs > 1000


@pytest.mark.parametrize("scheme", ["bats", "binary-activations"])
def test_a_trained_cell_in_onnx(scheme):
    check, _, model = onnx_modules()
    network = packed(trained(Cell(scheme)))
    written = model.write_onnx(network)
    result = check.check_onnx(written, PackedNetwork(network), images(6))
    assert (result.difference, result.argmax_equal) == (None, 1.0)
    assert "Sign" not in {node.op_type for node in written.graph.node}
    assert {p.key for p in written.metadata_props} == {"classes", "mean", "std"}


@needs_compiler
def test_the_checks_find_a_changed_bit_by_the_name_of_its_layer():
    network = packed(trained(Cell("bats")))
    op = next(op for op in network.program.ops if op.kind == "binary_conv2d")
    changed = {**network.tensors, op.tensors["weight"]: network.tensors[op.tensors["weight"]] ^ np.uint32(1)}
    other = dataclasses.replace(network, tensors=changed)
    assert str(op) in check_c(write_c(other), PackedNetwork(network), images(2), COMPILER).difference
    check, _, model = onnx_modules()
    assert str(op) in check.check_onnx(model.write_onnx(other), PackedNetwork(network), images(2)).difference


@needs_compiler
def test_c_needs_nothing_of_libc_but_memory_functions(tmp_path):
    source = write_c(packed(trained(Cell("bats"))), "tiny")
    (tmp_path / "tiny.c").write_text(source.source)
    (tmp_path / "tiny.h").write_text(source.header)
    command = [COMPILER, *FLAGS, "-ffreestanding", "-c", "tiny.c", "-o", "tiny.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    symbols = subprocess.run(["nm", "tiny.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    undefined = {line.split()[-1] for line in symbols.splitlines() if " U " in line}
    assert undefined <= {"memcpy", "memset", "memmove"}
    public = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
    assert public == {"tiny_run", "tiny_normalize"}
    # Nothing of its own that is written to.
    assert not any(f" {kind} " in line for line in symbols.splitlines() for kind in "bBdD")
    assert set(re.findall(r"#include (\S+)", source.source + source.header)) == {
        '"tiny.h"',
        "<stdint.h>",
        "<string.h>",
    }


def _lives(program):
    """value -> (operation that writes it, last operation that reads it)."""
    ops = program.ops
    lives = {op.output: [i, i] for i, op in enumerate(ops)}
    for i, op in enumerate(ops):
        for name in op.inputs:
            if name in lives:
                lives[name][1] = i
    lives[program.output][1] = len(ops)
    return lives


def test_values_that_live_at_once_do_not_overlap_and_the_arena_is_far_below_their_sum():
    network = packed(trained(Cell("bats")))
    values = infer(network.program, {name: t.shape for name, t in network.tensors.items()})
    made = plan(network.program, values)
    lives = _lives(network.program)
    sizes = {name: value_bytes(values[name]) for name in made.offsets}
    for a, (begin_a, end_a) in lives.items():
        assert made.offsets[a] % 4 == 0
        assert made.offsets[a] + sizes[a] <= made.size
        for b, (begin_b, end_b) in lives.items():
            # Strictly: an operation in place reads as long as it writes.
            if a < b and max(begin_a, begin_b) < min(end_a, end_b) and sizes[a] and sizes[b]:
                apart = made.offsets[a] + sizes[a] <= made.offsets[b] or made.offsets[b] + sizes[b] <= made.offsets[a]
                flat = any(op.kind == "flatten" and {a, b} == {op.output, *op.inputs} for op in network.program.ops)
                assert apart or flat, (a, b)
    assert made.size < sum(sizes.values()) / 3


def test_the_bytes_of_constants_are_those_of_the_tensors():
    network = packed(trained(Cell("bats")))
    source = write_c(network)
    # And a mean and a std for each of 3 channels.
    assert source.const_bytes == sum(tensor.nbytes for tensor in network.tensors.values()) + 24
    assert f"_ARENA_BYTES {source.arena_bytes}" in source.header


@pytest.mark.parametrize(
    ("given", "name"),
    [("net", "net"), ("my-net v2", "my_net_v2"), ("2net", "net_2net"), ("über", "ber"), ("-", "net")],
)
def test_names_become_names_of_c(given, name):
    assert c_name(given) == name


def test_a_name_that_c_does_not_take_is_refused():
    with pytest.raises(BnasError, match="'my-net' is no name for C; 'my_net' would be"):
        write_c(target_programs.program("relu"), "my-net")


def test_what_a_target_cannot_express_is_refused_by_layer(monkeypatch):
    _, onnx_emit, model = onnx_modules()
    program = target_programs.program("relu")
    for emitters, write in ((c_emit, write_c), (onnx_emit, model.write_onnx)):
        left = {kind: emit for kind, emit in emitters.EMITTERS.items() if kind != "relu"}
        monkeypatch.setattr(emitters, "EMITTERS", left)
        with pytest.raises(
            BnasError, match=r"layer 'relu' \(relu\): cannot be written as (C|ONNX); kinds that can: thres"
        ):
            write(program)


def test_weights_that_are_no_numbers_are_refused_by_layer():
    program = target_programs.program("batch_norm")
    broken = {**program.tensors, "scale": np.full(6, np.nan, np.float32)}
    with pytest.raises(BnasError, match=r"layer 'batch_norm' .* its tensor scale 'scale' holds nan"):
        write_c(dataclasses.replace(program, tensors=broken))


def test_sums_that_float32_cannot_count_are_refused_by_onnx():
    _, onnx_emit, _ = onnx_modules()
    op = target_programs.program("binary_linear").program.ops[-1]
    with pytest.raises(BnasError, match=r"layer 'l' \(binary_linear\): .* 16777217 terms, float32 counts to 2\^24"):
        onnx_emit._check_sums(op, 2**24 + 1)


@needs_compiler
def test_layer_and_class_names_cannot_leave_their_comments():
    program = target_programs.program("relu")
    ops = [dataclasses.replace(op, name="*/ evil \\\n ??/") for op in program.program.ops]
    evil = dataclasses.replace(program.program, ops=tuple(ops), classes=tuple(f"*/ {i} \\" for i in range(6)))
    network = dataclasses.replace(program, program=evil)
    check = check_c(write_c(network), PackedNetwork(network), target_programs.images(), COMPILER)
    assert check.difference is None


@needs_compiler
def test_pixels_are_normalized_as_the_runtime_does(tmp_path):
    network = packed(trained(Cell("bats")))
    source = write_c(network)
    main = (
        '#include <stdio.h>\n#include "net.h"\nint main(void)\n{\n'
        "    static uint8_t pixels[NET_CHANNELS * NET_HEIGHT * NET_WIDTH];\n"
        "    static float image[NET_CHANNELS * NET_HEIGHT * NET_WIDTH];\n"
        "    static uint32_t arena[NET_ARENA_BYTES / 4];\n    float logits[NET_CLASSES];\n"
        "    if (fread(pixels, sizeof pixels, 1, stdin) != 1)\n        return 1;\n"
        "    net_normalize(pixels, image);\n"
        "    if (net_run(NULL, logits, arena) != 1 || net_run(image, logits, (char *)arena + 1) != 1)\n        return 2;\n"
        "    if (net_run(image, logits, arena) != 0)\n        return 3;\n"
        "    fwrite(logits, sizeof logits, 1, stdout);\n    return 0;\n}\n"
    )
    for name, text in (("net.c", source.source), ("net.h", source.header), ("main.c", main)):
        (tmp_path / name).write_text(text)
    subprocess.run([COMPILER, *FLAGS, "net.c", "main.c", "-o", "run"], cwd=tmp_path, check=True)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 9, 9), dtype=np.uint8)
    out = subprocess.run([tmp_path / "run"], input=pixels.tobytes(), capture_output=True, check=True).stdout
    torch.testing.assert_close(
        torch.from_numpy(np.frombuffer(out, np.float32).copy()),
        torch.from_numpy(PackedNetwork(network).predict(pixels)[0]),
    )
