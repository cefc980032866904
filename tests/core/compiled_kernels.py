"""A program, not a test: compile every shipped Triton kernel for GPUs that need not be there, and print what it became.

One JSON line a kernel: how often it has each machine instruction. In a process of its own, because Triton
decides at the first `@triton.jit` whether it compiles or interprets.
"""

import collections
import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.triton_b1 import b1_kernel
from bnas.kernels.triton_forms import FORMS, b1_constants
from bnas.kernels.triton_int8 import int8_kernel
from bnas.kernels.triton_launch import constants
from bnas.kernels.triton_pack import pack_kernel, unpack_kernel
from bnas.kernels.triton_popc import popc_kernel

CONV = Geometry(128, 28, 28, 128, 128, (3, 3), padding=(1, 1, 1, 1))
KINDS = {"scaled": Epilogue(torch.ones(128)), "bits": Epilogue(*[torch.ones(128)] * 3)}
POINTERS = dict.fromkeys(("bits", "weight", "words", "border", "border_row"), "*i32")
POINTERS |= {"scale": "*fp32", "value": "*fp32", "flip": "*u8"}


def source(kernel, constexprs, types, make=ASTSource):
    """Sizes as 32-bit integers and pointers that are aligned to 16 bytes, as torch's are."""
    signature = {n: "constexpr" if n in constexprs else {**POINTERS, **types}.get(n, "i32") for n in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")}
    return make(kernel, signature=signature, constexprs=constexprs, attrs=aligned)


def kernels():
    """(name, source, warps): every tile with scale, the first of each form to bits too; pack; unpack. Sums are scale's half."""
    for form in ("popc", "int8", "b1"):
        for tile in FORMS[form].tiles:
            for kind, epilogue in KINDS.items():
                if kind == "scaled" or tile == FORMS[form].tiles[0]:
                    types = {"out": "*fp32" if kind == "scaled" else "*i32"}
                    yield f"{form} {tile} {kind}", convolution(form, tile, epilogue, types), tile.warps
    sizes = {"GROUPS": 1, "CHANNELS": 128, "WORDS": 4, "BM": 64}
    yield "pack", source(pack_kernel, sizes, {"x": "*fp32", "out": "*i32"}), 4
    yield "unpack", source(unpack_kernel, sizes, {"out": "*fp16"}), 4


def convolution(form, tile, epilogue, types):
    if form == "b1":
        return source(b1_kernel, b1_constants(tile, CONV, epilogue), types, GluonASTSource)
    values = {**constants(CONV, epilogue), "BM": tile.pixels, "BN": tile.filters, "BW": tile.words}
    return source(popc_kernel if form == "popc" else int8_kernel, values, types)


def disassemble(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        # It warns of what it does with every file.
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def main():
    for name, src, warps in kernels():
        for capability in map(int, sys.argv[1:]):
            compiled = triton.compile(src, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
            code = disassemble(compiled.asm["cubin"])
            opcodes = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9]*)", code, re.MULTILINE)
            print(json.dumps({"kernel": name, "capability": capability, "opcodes": collections.Counter(opcodes)}))


if __name__ == "__main__":
    main()
