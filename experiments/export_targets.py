"""Packed networks for other runtimes: ONNX, and C99 for microcontrollers. Checked before anything is written."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnas import atomic
from bnas.data import Normalization
from bnas.deploy import file
from bnas.deploy.c.check import COMPILERS, check_c, find_compiler
from bnas.deploy.c.source import c_name, write_c
from bnas.deploy.layer_check import Check
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError, check_choice
from bnas.rundir import RunFiles
from experiments import deployment
from experiments.network import find_trained

# As many as show every operation at work; every value of every one of them is compared.
CHECK_IMAGES = 8
WHATS = ("packed", "genotype", "onnx", "c")
_BY_SUFFIX = {".bnas": "packed", ".onnx": "onnx", ".c": "c"}
_INSTALL_ONNX = "pip install 'bnas[onnx]'"


@dataclass(frozen=True)
class Exported:
    """Files written, facts to print about them, and the check; `unchecked` says why there is none."""

    files: tuple[Path, ...]
    facts: tuple[tuple[str, str | int], ...]
    check: Check | None
    compared_on: str
    unchecked: str

    def to_dict(self) -> dict[str, Any]:
        check = None if self.check is None else {**vars(self.check), "compared_on": self.compared_on}
        return {"files": [str(path) for path in self.files], **dict(self.facts), "check": check}


def chosen_target(what: str | None, to: Path | None) -> tuple[str, Path | None]:
    """What to export, and the file to write; None for the file's default.

    `--to c` and `--to onnx` name what to write, as the suffix of `--to net.c` does. `BnasError` where `what` says else.
    """
    named = str(to) if to is not None and str(to) in ("onnx", "c") else None
    implied = named or (_BY_SUFFIX.get(to.suffix) if to is not None else None)
    if what is not None:
        check_choice("thing to export", what, WHATS)
        if implied not in (None, what):
            raise BnasError(f"--to {to} asks for {implied}, --what for {what}; leave one of them out")
    chosen = what or implied or "packed"
    if chosen == "c" and to is not None and named is None and to.suffix != ".c":
        raise BnasError(f"--to {to}: C is written to a file whose name ends in .c, and to a .h beside it")
    return chosen, None if named else to


def export_c(source: Path, to: Path | None, check: bool) -> Exported:
    """The network as NAME.c and NAME.h; by default model.c beside the checkpoint or the packed file."""
    packed, files, default = _packed_of(source)
    target = to or default.with_suffix(".c")
    text = write_c(packed, c_name(target.stem))
    compiler = find_compiler() if check else None
    result, compared_on = None, ""
    if compiler is not None:
        images, compared_on = _images(files, packed)
        result = _passed(check_c(text, PackedNetwork(packed), images, compiler))
    header = target.with_name(f"{text.name}.h")
    source_file = target.with_name(f"{text.name}.c")
    atomic.write_text(header, text.header)
    atomic.write_text(source_file, text.source)
    unchecked = f"this machine has none of {', '.join(COMPILERS)}" if check else "--no-check was given"
    facts: dict[str, str | int] = {"name": text.name, "const_bytes": text.const_bytes, "arena_bytes": text.arena_bytes}
    return Exported((source_file, header), tuple(facts.items()), result, compared_on, unchecked)


def export_onnx(source: Path, to: Path | None, check: bool) -> Exported:
    """The network as an ONNX file; by default model.onnx beside the checkpoint or the packed file."""
    if importlib.util.find_spec("onnx") is None:
        raise BnasError(f"to write ONNX, install onnx: {_INSTALL_ONNX}")
    from bnas.deploy.onnx.model import write_onnx

    packed, files, default = _packed_of(source)
    target = to or default.with_suffix(".onnx")
    model = write_onnx(packed)
    unchecked = f"onnxruntime is not installed: {_INSTALL_ONNX}" if check else "--no-check was given"
    result, compared_on = None, ""
    if check and importlib.util.find_spec("onnxruntime") is not None:
        from bnas.deploy.onnx.check import check_onnx

        images, compared_on = _images(files, packed)
        result = _passed(check_onnx(model, PackedNetwork(packed), images))
    content = model.SerializeToString()
    atomic.write_bytes(target, content)
    facts: dict[str, str | int] = {"bytes": len(content), "opset": model.opset_import[0].version}
    return Exported((target,), tuple(facts.items()), result, compared_on, unchecked)


def _packed_of(source: Path) -> tuple[file.Packed, RunFiles, Path]:
    """The network that `source` names, the files of its run, and the packed file whose name others follow."""
    if deployment.is_packed_file(source):
        return file.load(source), RunFiles(source.parent, source.parent / "checkpoint.pt"), source
    files = find_trained(source)
    return deployment.pack(files), files, files.packed


def _images(files: RunFiles, packed: file.Packed) -> tuple[Any, str]:
    program = packed.program
    normalization = Normalization(program.mean, program.std)
    images, what = deployment.images_to_compare(files, program.input_shape, normalization, CHECK_IMAGES)
    if images.shape[1:] != program.input_shape:
        raise BnasError(
            f"the images of the run beside it are {list(images.shape[1:])}; --no-check exports without them"
        )
    return images, what


def _passed(check: Check) -> Check:
    """`BnasError` where the exported network is not the packed one."""
    if check.difference is not None:
        raise BnasError(f"what {check.by} computes is not the packed network: {check.difference}; nothing was written")
    return check
