"""The report on a machine: what is there, what is not, and back ends whose integers are wrong."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnas.errors import BnasError
from bnas.kernels import BACKENDS, get_backend
from experiments import doctor
from tests.jobs.tiny_chain import bnas


def lines(report: doctor.Report, section: str) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in report[section]}


@pytest.fixture(scope="module")
def report() -> doctor.Report:
    return doctor.examine()


def test_a_machine_that_passes_the_tests_is_sound(report: doctor.Report) -> None:
    assert doctor.is_sound(report)
    assert {"python", "bnas", "torch", "numpy", "numba", "deap", "triton", "tensorboard"} <= set(
        lines(report, "versions")
    )
    assert "pytest" not in lines(report, "versions")
    assert set(lines(report, "machine")) == {"processor", "features", "threads", "memory", "disk"}
    assert "reference" in lines(report, "back ends")
    assert set(lines(report, "back ends")) == set(BACKENDS)
    assert lines(report, "data")["digits"].text.startswith("1,437 training and 360 test images of 1 x 8 x 8, 10 clas")
    assert lines(report, "jobs")["digits_bats"].text == "bats by darts on digits"
    assert doctor.to_dict(report)["sound"] is True


def test_it_fits_on_a_screen(report: doctor.Report, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show(report)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 45
    assert shown.rstrip().endswith("everything that was tested works")


def broken(**functions: Any) -> dict[str, Any]:
    return {**BACKENDS, "broken": lambda: dataclasses.replace(get_backend("reference"), **functions)}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("conv2d", "WrongResultError: conv2d with padding 0: 1 of 288 values differ from torch's"),
        ("matmul", "WrongResultError: matmul: 1 of 15 values differ from torch's"),
        ("threshold_pack", "WrongResultError: threshold_pack: 1 of 72 values differ from torch's"),
    ],
)
def test_a_backend_that_is_off_in_one_place_fails(monkeypatch: pytest.MonkeyPatch, function: str, said: str) -> None:
    right = getattr(get_backend("reference"), function)

    def off(*given: Any, **more: Any) -> Any:
        result = np.array(right(*given, **more))
        result.flat[3] ^= 4
        return result

    monkeypatch.setattr(doctor, "BACKENDS", broken(**{function: off}))
    findings = {finding.name: finding for finding in doctor.backends()}
    assert findings["reference"].state == "ok"
    assert (findings["broken"].state, findings["broken"].text) == ("failed", said)
    assert not doctor.is_sound({"back ends": doctor.backends()})


def test_a_wrong_shape_and_a_crash_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = get_backend("reference").matmul
    monkeypatch.setattr(doctor, "BACKENDS", broken(matmul=lambda *given: right(*given)[:2]))
    assert "matmul: shape (2, 3) where torch has (5, 3)" in doctor.backends()[-1].text
    monkeypatch.setattr(doctor, "BACKENDS", broken(conv2d=None))
    assert doctor.backends()[-1].state == "failed"
    assert "TypeError" in doctor.backends()[-1].text


def test_a_backend_that_is_not_here_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise BnasError("back end 'absent' needs a GPU")

    monkeypatch.setattr(doctor, "BACKENDS", {**BACKENDS, "absent": absent})
    (finding,) = [finding for finding in doctor.backends() if finding.name == "absent"]
    assert (finding.state, finding.text) == ("missing", "back end 'absent' needs a GPU")
    assert doctor.is_sound({"back ends": (finding,)})


def test_processor_features(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu popcnt avx2 avx512f avx512_vpopcntdq\nflags\t\t: avx\n")
    assert doctor._features(info) == "POPCNT, AVX2, AVX512, VPOPCNTDQ; without AVX512-BF16, AMX"
    info.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert doctor._features(info) == "NEON; without SVE"
    assert doctor._features(tmp_path / "none") == "not told by this system"


def test_memory_and_the_limit_of_a_container(tmp_path: Path) -> None:
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    info.write_text("MemTotal:  4194304 kB\nMemAvailable:  2097152 kB\nHugePages_Total:  0\n")
    assert doctor._memory(info, limit) == "2.00 GiB available of 4.00 GiB"
    limit.write_text("max\n")
    assert doctor._memory(info, limit) == "2.00 GiB available of 4.00 GiB"
    limit.write_text("1073741824\n")
    assert doctor._memory(info, limit).endswith("; this container may use 1.00 GiB")
    assert doctor._memory(tmp_path / "none", limit) == "not told by this system"


def test_a_package_that_is_not_installed() -> None:
    finding = doctor._version("no-such-package-of-anybody")
    assert (finding.text, finding.state) == ("not installed", "missing")


def test_a_data_set_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "few.npz"
    images, labels = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8), np.array([0, 1])
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:1], test_labels=labels[:1])
    found = {finding.name: finding for finding in doctor.data_sets("npz", str(path))}
    assert found["npz"].text == "2 training and 1 test images of 1 x 8 x 8, 2 classes"
    found = {finding.name: finding for finding in doctor.data_sets("cifar10", str(tmp_path))}
    assert found["cifar10"].state == "failed"
    assert found["cifar10"].text.startswith(f"no cifar10 in '{tmp_path}': looked for")
    with pytest.raises(BnasError, match="--path needs --data: which data set lies there"):
        doctor.data_sets(None, "somewhere")


def test_a_shipped_job_that_is_spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = tmp_path / "spoilt.yaml"
    spoilt.write_text("seedz: 1\n")
    monkeypatch.setattr(doctor, "shipped_jobs", lambda: {str(spoilt): spoilt})
    (finding,) = doctor.jobs()
    assert finding.state == "failed"
    assert "unknown key 'seedz'" in finding.text


def test_the_command_and_its_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bnas(capsys, "doctor", "--json", tmp_path / "doctor.json")
    assert (said.code, said.err) == (0, "")
    written = json.loads((tmp_path / "doctor.json").read_text())
    assert written["sound"] is True
    text = "conv2d, matmul and threshold_pack equal torch's integers"
    assert {"name": "reference", "text": text, "state": "ok"} in written["back ends"]
    assert {"name": "cpu", "text": f"{text} ({get_backend('cpu').detail})", "state": "ok"} in written["back ends"]
    said = bnas(capsys, "doctor", "--data", "cifar10", "--path", tmp_path)
    assert said.code == 1
    assert "failed: no cifar10 in" in said.out
    assert "something failed" in said.out
    monkeypatch.setattr(doctor, "BACKENDS", broken(matmul=None))
    assert bnas(capsys, "doctor").code == 1
