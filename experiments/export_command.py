"""What `bnas export` prints of a network that goes to another runtime."""

from pathlib import Path

from experiments.console import facts, hint, say, size, write_json
from experiments.export_targets import Exported, export_c, export_onnx


def other(target: str, source: Path, to: Path | None, check: bool, json_file: Path | None) -> int:
    """Export to "onnx" or "c", and say what was written, what it takes, and whether it computes the same."""
    exported = (export_c if target == "c" else export_onnx)(source, to, check)
    say(f"wrote {' and '.join(map(str, exported.files))}")
    asked = None if to is None else c_named(to, exported)
    facts([*(asked or []), *(_c_facts(exported) if target == "c" else _onnx_facts(exported)), *_check_facts(exported)])
    if target == "c":
        name = dict(exported.facts)["name"]
        hint("call", f"{name}_normalize(pixels, image); {name}_run(image, logits, arena);  /* see {name}.h */")
    if json_file is not None:
        write_json(json_file, exported.to_dict())
    return 0


def c_named(to: Path, exported: Exported) -> list[tuple[str, str]]:
    """Says so where the name of the file could not become that of the functions."""
    name = dict(exported.facts).get("name", to.stem)
    return [] if name == to.stem else [("renamed", f"'{to.stem}' is no name in C: functions and files are '{name}'")]


def _c_facts(exported: Exported) -> list[tuple[str, str]]:
    given = dict(exported.facts)
    return [
        ("flash", f"{size(int(given['const_bytes']))} of constants, and the code"),
        ("memory", f"{size(int(given['arena_bytes']))} of arena, beside the image and the logits"),
    ]


def _onnx_facts(exported: Exported) -> list[tuple[str, str]]:
    given = dict(exported.facts)
    return [("size", f"{size(int(given['bytes']))}, opset {given['opset']}")]


def _check_facts(exported: Exported) -> list[tuple[str, str]]:
    check = exported.check
    if check is None:
        return [("not checked", exported.unchecked)]
    rate = check.sign_flips / max(check.signs, 1)
    return [
        ("checked", f"with {check.by}: every operation equals the packed runtime's on equal inputs"),
        ("compared on", exported.compared_on),
        ("end to end: equal argmax", f"{check.argmax_equal:.2%}"),
        ("end to end: flipped signs", f"{check.sign_flips:,} of {check.signs:,} ({rate:.4%})"),
        ("end to end: largest logit error", f"{check.max_logit_error:.3g}"),
    ]
