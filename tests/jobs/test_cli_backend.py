"""`--backend` of verify, evaluate and predict: what is named runs and is printed, and what is not there is refused."""

import re

import numpy as np
import pytest
from PIL import Image

from bnas.kernels import gpu, reference
from tests.jobs.tiny_chain import bnas


@pytest.fixture
def image(tmp_path, chain):
    path = tmp_path / "middle.png"
    Image.fromarray(np.load(chain.images)["test_images"][1, 0]).save(path)
    return path


@pytest.mark.parametrize("command", ["verify", "evaluate", "predict"])
def test_the_back_end_that_is_named_runs_and_is_printed(capsys, chain, image, monkeypatch, tmp_path, command):
    line = (command, chain.packed, *((image,) if command == "predict" else ()))
    ran = []
    threshold_pack = reference.threshold_pack
    monkeypatch.setattr(reference, "threshold_pack", lambda *given: ran.append(1) or threshold_pack(*given))
    for chosen, name in (((), "cpu"), (("--backend", "cpu"), "cpu"), (("--backend", "reference"), "reference")):
        ran.clear()
        said = bnas(capsys, *line, *chosen, "--json", tmp_path / "written")
        assert (said.code, bool(ran)) == (0, name == "reference")
        assert re.search(rf"back ?end:? +{name} *\n", said.out)
        assert name in (tmp_path / "written").read_text()


@pytest.mark.parametrize("command", ["verify", "evaluate", "predict"])
def test_a_back_end_that_is_not_there_is_refused_with_what_to_install(capsys, chain, image, monkeypatch, command):
    line = (command, chain.packed, *((image,) if command == "predict" else ()), "--backend")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    missing = "error: the triton back end needs the package triton (Linux only): pip install 'bnas[triton]'\n"
    assert bnas(capsys, *line, "triton") == (2, "", missing)
    said = bnas(capsys, *line, "tritn")
    assert (said.code, said.out) == (2, "")
    assert "no backend named 'tritn'; there are: cpu, reference, triton. Did you mean 'triton'?" in said.err


def test_evaluate_takes_a_back_end_for_packed_files_only(capsys, chain):
    said = bnas(capsys, "evaluate", chain.retraining, "--backend", "reference")
    wrong = f"--backend reference chooses the kernels of a packed file, and torch runs {chain.retraining}: "
    assert said == (2, "", f"error: {wrong}name a model.bnas\n")
    said = bnas(capsys, "evaluate", chain.retraining, chain.packed, "--ensemble", "--backend", "reference")
    assert said.code == 0
    assert re.search(r"network +2 together \(trained, torch; packed, back end reference\) *\n", said.out)
