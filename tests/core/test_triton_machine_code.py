"""Every shipped Triton kernel compiles for GPUs that are not here, to the instructions it is built for, without a spill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# Of sm_80 and sm_90: the integer tensor cores of Hopper take a warp group at a time where the tile has one.
MUST_HAVE = {"popc": {"POPC"}, "int8": {"IMMA", "IGMMA"}, "b1": {"BMMA"}, "pack": {"LDG"}, "unpack": {"STG"}}
SPILLS = {"STL", "LDL"}


def test_machine_code(tmp_path):
    program = Path(__file__).with_name("compiled_kernels.py")
    root = Path(__file__).parents[2]
    # A cache of its own, so that what is examined was compiled now.
    environment = {**os.environ, "PYTHONPATH": str(root), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, program, "80", "90"], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert {kernel["kernel"].split()[0] for kernel in compiled} == set(MUST_HAVE)
    assert {kernel["capability"] for kernel in compiled} == {80, 90}
    for kernel in compiled:
        opcodes, name = set(kernel["opcodes"]), f"{kernel['kernel']} for sm_{kernel['capability']}"
        assert opcodes & MUST_HAVE[kernel["kernel"].split()[0]], f"{name}: {sorted(opcodes)}"
        assert not opcodes & SPILLS, f"{name} spills: {kernel['opcodes']}"
