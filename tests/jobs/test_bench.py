"""Benchmarks: what is compared before it is timed, what is printed and written. No test looks at a time."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnas.deploy import file
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError
from experiments import bench_int8, bench_kernels, bench_model, bench_networks
from experiments.bench_rivals import Shape, in_int8, in_torch
from experiments.bench_timing import in_turn, on_threads, ratio_text
from tests.core.packed_networks import Cell, packed, trained
from tests.jobs.tiny_chain import bnas

SHAPES = {"linear": [Shape(40, 7)], "resnet18": [Shape(8, 8, 6, 3), Shape(12, 8, 6, 5, 2, 2, 4)]}
KEYS = {
    "group",
    "shape",
    "batch",
    "packed_us",
    "fp32_us",
    "int8_us",
    "ratio_fp32",
    "ratio_int8",
    "peak_fraction",
    "exact",
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_kernels, "GROUPS", SHAPES)
    monkeypatch.setattr("experiments.bench_timing.SECONDS_A_SAMPLE", 1e-6)


def test_kernels_are_compared_timed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = bnas(capsys, "bench", "kernels", "--batch", 2, "--threads", 1, "--rounds", 3, "--json", tmp_path / "k.json")
    assert said.code == 0
    assert "resnet18 12 -> 8, 5x5/2 dilated 2 in 4 groups, 6 x 6" in said.out
    written = json.loads((tmp_path / "k.json").read_text())
    assert {"device", "versions", "threads", "rows", "clock"} <= written.keys()
    assert written["threads"] == 1
    assert [row["group"] for row in written["rows"]] == ["linear", "resnet18", "resnet18"]
    for row in written["rows"]:
        assert row.keys() >= KEYS
        assert row["exact"] is True
        assert row["packed_us"] > 0
        assert row["fp32_us"] / row["packed_us"] == pytest.approx(row["ratio_fp32"])


def test_wrong_integers_get_no_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = bench_kernels.reference.conv2d
    monkeypatch.setattr(bench_kernels.reference, "conv2d", lambda *a, **k: real(*a, **k) + 2)
    said = bnas(
        capsys, "bench", "kernels", "--group", "linear", "--batch", 1, "--rounds", 3, "--json", tmp_path / "k.json"
    )
    assert said.code == 1
    assert "wrong integers" in said.out
    (row,) = json.loads((tmp_path / "k.json").read_text())["rows"]
    assert (row["exact"], row["packed_us"], row["ratio_fp32"]) == (False, None, None)


def test_a_group_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    said = bnas(capsys, "bench", "kernels", "--group", "resnet")
    assert said.code == 2
    assert "no --group named 'resnet'; there are: linear, resnet18. Did you mean 'resnet18'?" in said.err


def test_a_file_is_timed_without_naming_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.bnas"
    file.save(packed(trained(Cell("bats"))), path)
    said = bnas(capsys, "bench", path, "--batch", 1, "--rounds", 3, "--json", tmp_path / "m.json")
    assert said.code == 0
    assert "backend cpu" in said.out
    assert "no rivals: the file does not say which architecture was packed" in said.out
    rows: list[dict[str, Any]] = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert {row["backend"] for row in rows if row["group"] == "whole"} == {"cpu", "reference"}
    assert {row["fp32_us"] for row in rows if row["group"] == "whole"} == {None}
    assert "12 -> 12, 3x3 in 3 groups, 9 x 9" in {row["shape"] for row in rows if row["group"] == "layer"}


def test_results_that_differ_get_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PackedNetwork(packed(trained(Cell("bats"))))
    assert network.fused is not None
    run = network.fused.__call__
    monkeypatch.setattr(network, "fused", lambda x: run(x) + 1)
    (row,) = bench_model.whole("cell", network, None, 1, 3)
    assert (row.exact, row.packed_us) == (False, None)


def test_the_networks_that_are_made_have_a_real_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(bench_networks.NETWORKS) == {"birealnet18", "bats20", "vgg_small"}
    made, real = bench_networks.make("bats20")
    assert made.binary_weight_bytes() > 0
    with torch.no_grad():
        assert real(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_network_that_is_not_made_here_is_told_from_a_file() -> None:
    known = "networks made here: birealnet18, bats20, vgg_small. Did you mean 'vgg_small'?"
    with pytest.raises(BnasError, match=re.escape(f"there is no file vgg; {known}")):
        bench_model.run(Path("vgg"), [1], 1, 3, None)


def test_rivals_compute_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.bench_rivals.has_bfloat16", lambda: True)
    shape = SHAPES["resnet18"][1]
    x, w = bench_kernels.operands(shape, 2)
    found = in_torch(shape, torch.from_numpy(x), torch.from_numpy(w))
    assert set(found) == {"fp32 NCHW", "fp32 NHWC", "bf16"}
    expected = found["fp32 NCHW"]()
    assert expected.numel() * 12 // 4 * 25 == shape.products(2)
    for call in found.values():
        torch.testing.assert_close(call().float(), expected, rtol=1e-2, atol=0.1)


@pytest.mark.parametrize("shape", [SHAPES["resnet18"][1], SHAPES["linear"][0]], ids=["convolution", "linear"])
def test_rivals_in_int8_compute_the_layer(shape: Shape) -> None:
    pytest.importorskip("onnxruntime")
    x, w = bench_kernels.operands(shape, 2)
    expected = in_torch(shape, torch.from_numpy(x), torch.from_numpy(w))["fp32 NCHW" if shape.kernel else "fp32"]()
    found = {name: call() for name, call in in_int8(shape, x, w).items()}
    assert set(found) == {"int8 torch", "int8 onnxruntime"}
    assert found["int8 torch"].dtype == torch.quint8
    (by_onnxruntime,) = found["int8 onnxruntime"]
    assert by_onnxruntime.dtype == np.uint8
    in_reals = torch.from_numpy(by_onnxruntime).float().sub(128).mul(0.5)
    # Inputs in steps of 0.05 and sums in steps of 0.5, of which 8 bits hold 256.
    for result in (found["int8 torch"].dequantize(), in_reals):
        torch.testing.assert_close(result, expected.clamp(-64, 63.5), rtol=0, atol=1.5)


def test_a_network_in_int8_is_a_rival() -> None:
    onnx = pytest.importorskip("onnx")
    network = PackedNetwork(packed(trained(Cell("bats"))))
    torch.manual_seed(0)
    channels, height, width = network.program.input_shape
    convolution = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    real = nn.Sequential(convolution, nn.Linear(8 * (height - 2) * (width - 2), 5)).eval()
    images = torch.randn(3, channels, height, width)
    model = bench_int8.quantized(real, images)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load_from_string(model).graph.node}
    (found,) = bench_int8.session(model, images)()
    expected = real(images).detach().numpy()
    # Of 8 bits, and not the real network under another name.
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert not np.allclose(found, expected, rtol=1e-5)
    for row in bench_model.whole("cell", network, None, 1, 3, model):
        assert row.int8_us is not None
        assert row.packed_us is not None
        assert row.ratio_int8 == row.int8_us / row.packed_us


def test_why_there_is_no_int8_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    network = PackedNetwork(packed(trained(Cell("bats"))))
    assert bench_model._int8(nn.Flatten(), network) is None
    assert "int8: not timed: onnx is not installed: pip install 'bnas[onnx]'" in capsys.readouterr().out


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    found = in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, 4)  # type: ignore[misc]
    assert set(found) == {"a", "b"}
    assert "".join(calls).replace("aa", "a").replace("bb", "b").count("ab") >= 4


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with on_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_losses_are_said_in_words() -> None:
    assert [ratio_text(r) for r in (None, 0.5, 2.0)] == ["-", "0.50x slower", "2.00x"]
