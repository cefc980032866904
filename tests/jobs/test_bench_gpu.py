"""`bnas bench gpu`: its measuring on a toy shape (in Triton's interpreter where there is no GPU), its table, its refusals."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from bnas.errors import BnasError
from bnas.kernels import gpu
from bnas.kernels.geometry import Geometry
from experiments import bench_gpu
from experiments.bench_gpu import Case, Row

ROW = Row("linear", "1 x 32 x 32", 1, "b1", True, "", "64x64", 2.0, 0.1, 7.0, 0.2, 3.5, 3.0)
once = partial(bench_gpu.by_the_clock, rounds=1)
can_run = torch.cuda.is_available() or gpu.interpreting()


@pytest.mark.skipif(can_run, reason="this is that process, or there is a GPU")
def test_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.skipif(not can_run, reason="runs in the process that test_in_the_interpreter starts")
@pytest.mark.parametrize(
    "geometry",
    [Geometry(1, 3, 3, 33, 32, (2, 2), padding=(1, 1, 1, 1)), Geometry.of_matmul(1, 40, 32)],
    ids=["conv", "linear"],
)
def test_a_row_for_each_form_and_the_best(geometry, monkeypatch):
    forms = None if torch.cuda.is_available() else ("popc", "int8")
    rows = bench_gpu.measure(Case("linear", geometry, {"popc": 1e9}), once, forms)
    assert [row.form for row in rows][-1] == "best"
    assert all(row.exact and row.packed_us > 0 and row.bf16_us > 0 for row in rows)
    assert rows[-1].packed_us == min(row.packed_us for row in rows)
    assert "goal 1e+09 missed" in rows[0].verdict
    content = bench_gpu.to_dict(rows)
    assert set(content) == {"device", "versions", "threads", "rows"}
    assert {"group", "shape", "batch", "packed_us", "ratio_fp32", "ratio_int8", "peak_fraction", "exact"} <= set(
        content["rows"][0]
    )
    # A form whose integers are wrong has no time.
    from bnas.kernels import triton_forms

    broken = replace(triton_forms.FORMS["popc"], run=lambda *args: triton_forms.FORMS["int8"].run(*args) + 1)
    monkeypatch.setattr(triton_forms, "FORMS", {**triton_forms.FORMS, "popc": broken})
    row = bench_gpu.measure(Case("linear", geometry, {}), once, ("popc",))[0]
    assert (row.exact, row.packed_us, row.ratio_bf16) == (False, None, None)
    assert "words differ" in row.problem


def test_the_table_says_what_is_slower_and_what_is_wrong(capsys):
    slow = replace(ROW, form="popc", ratio_bf16=0.5, goal=None)
    wrong = replace(ROW, form="int8", packed_us=None, ratio_bf16=None, exact=False, problem="3 of 9 words differ")
    bench_gpu.show([ROW, slow, replace(ROW, goal=4.0), wrong])
    assert (ROW.verdict, slow.verdict) == ("", "slower")
    printed = capsys.readouterr().out
    assert "2.0 ± 0.1" in printed
    assert printed.count("slower") == 1
    assert "goal 4 missed" in printed
    assert "int8 has wrong integers on this device: 3 of 9 words differ" in printed


@pytest.mark.skipif(can_run, reason="there is a device")
def test_without_a_gpu_it_says_what_is_missing():
    with pytest.raises(BnasError, match="the triton back end needs"):
        bench_gpu.run(None, None)


def test_times_of_the_interpreter_are_refused(monkeypatch):
    monkeypatch.setattr(gpu, "device", lambda: torch.device("cpu"))
    with pytest.raises(BnasError, match="mean nothing: unset TRITON_INTERPRET"):
        bench_gpu.run(None, None)
