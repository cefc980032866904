"""`bnas export` to ONNX and C: what is written where, what is said, what is refused."""

import importlib.util
import json
from pathlib import Path

import pytest

from bnas.errors import BnasError
from experiments import export_targets
from experiments.export_targets import chosen_target
from tests.jobs.tiny_chain import bnas

needs_compiler = pytest.mark.skipif(export_targets.find_compiler() is None, reason="this machine has no C compiler")


@pytest.mark.parametrize(
    ("what", "to", "chosen"),
    [
        (None, None, ("packed", None)),
        (None, "c", ("c", None)),
        (None, "onnx", ("onnx", None)),
        (None, "out/net.c", ("c", "out/net.c")),
        (None, "net.onnx", ("onnx", "net.onnx")),
        (None, "net.bnas", ("packed", "net.bnas")),
        ("c", None, ("c", None)),
        ("onnx", "net.model", ("onnx", "net.model")),
        ("genotype", "cell.svg", ("genotype", "cell.svg")),
    ],
)
def test_what_and_where(what, to, chosen):
    given = chosen_target(what, None if to is None else Path(to))
    assert given == (chosen[0], None if chosen[1] is None else Path(chosen[1]))


@pytest.mark.parametrize(
    ("what", "to", "words"),
    [
        ("packed", "c", "--to c asks for c, --what for packed"),
        ("genotype", "net.onnx", "--to net.onnx asks for onnx, --what for genotype"),
        ("c", "net.h", "a file whose name ends in .c, and to a .h beside it"),
        ("onx", None, "onnx"),
    ],
)
def test_contradictions_are_refused(what, to, words):
    with pytest.raises(BnasError, match=words):
        chosen_target(what, None if to is None else Path(to))


@needs_compiler
def test_c_of_this_folder_as_the_shortest_command_says_it(chain, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(chain.retraining)
    said = bnas(capsys, "export", "--to", "c", "--json", tmp_path / "c.json")
    assert said.code == 0
    for words in ("wrote", "model.c", "model.h", "flash", "arena", "equal argmax", "model_run(image, logits, arena)"):
        assert words in said.out
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["check"]["difference"] is None
    assert written["check"]["compared_on"] == "8 training images"
    assert f"MODEL_ARENA_BYTES {written['arena_bytes']}" in (chain.retraining / "model.h").read_text()
    for name in ("model.c", "model.h"):
        (chain.retraining / name).unlink()


def test_c_of_a_packed_file_under_a_name_that_is_mended(chain, capsys, tmp_path):
    said = bnas(capsys, "export", chain.packed, "--to", tmp_path / "my-net.c", "--no-check")
    assert said.code == 0
    assert "'my-net' is no name in C: functions and files are 'my_net'" in said.out
    assert "--no-check was given" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_net.c", "my_net.h"]
    assert "int my_net_run(" in (tmp_path / "my_net.h").read_text()


def test_onnx_of_a_packed_file(chain, capsys, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'bnas[onnx]'")
    said = bnas(capsys, "export", chain.packed, "--to", tmp_path / "net.onnx")
    assert said.code == 0
    for words in ("wrote", "opset 17", "checked", "equal argmax", "flipped signs", "8 training images"):
        assert words in said.out
    assert (tmp_path / "net.onnx").stat().st_size > 1000


def test_without_onnx_and_onnxruntime_it_says_what_to_install(chain, capsys, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    missing = {"onnxruntime"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    said = bnas(capsys, "export", chain.packed, "--to", tmp_path / "net.onnx")
    assert said.code == 0
    assert "onnxruntime is not installed: pip install 'bnas[onnx]'" in said.out
    missing.add("onnx")
    said = bnas(capsys, "export", chain.packed, "--to", tmp_path / "other.onnx")
    assert said.code == 2
    assert "pip install 'bnas[onnx]'" in said.err
    assert not (tmp_path / "other.onnx").exists()


def test_without_a_compiler_it_says_that_nothing_was_checked(chain, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(export_targets, "find_compiler", lambda: None)
    said = bnas(capsys, "export", chain.packed, "--to", tmp_path / "net.c")
    assert said.code == 0
    assert "this machine has none of gcc, cc, clang" in said.out


@needs_compiler
def test_a_network_that_computes_something_else_is_not_written(chain, tmp_path, monkeypatch):
    write = export_targets.write_c

    def broken(packed, name):
        source = write(packed, name)
        return type(source)(
            source.name, source.source.replace(" >= value[c]", " > value[c] + 1"), source.header, 0, source.arena_bytes
        )

    monkeypatch.setattr(export_targets, "write_c", broken)
    with pytest.raises(BnasError, match=r"is not the packed network: layer .* \(threshold\): .* nothing was written"):
        export_targets.export_c(chain.packed, tmp_path / "net.c", check=True)
    assert not list(tmp_path.iterdir())
