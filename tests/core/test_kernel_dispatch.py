"""Which form of a kernel is chosen, with times that the tests make up, and what becomes of the file that keeps it."""

import json

import pytest

from bnas.errors import BnasError
from bnas.kernels.dispatch import Choice, Dispatcher, Trial, best, file_for

POPC, INT8, B1, DENSE = (Choice(form, (64, 64, 1, 4)) for form in ("popc", "int8", "b1", "dense"))
ALL = {POPC, INT8, B1, DENSE}


def trials(**microseconds):
    choices = {choice.form: choice for choice in ALL}
    return [Trial(choices[form], time) for form, time in microseconds.items()]


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"popc": 3.0, "int8": 2.0, "b1": 1.0, "dense": 4.0}, B1),
        ({"popc": 3.0, "int8": 2.0, "b1": 2.5, "dense": 1.9}, DENSE),
        ({"popc": 3.0, "dense": 3.0}, DENSE),
        # A form without a time was wrong, or did not run.
        ({"popc": 3.0, "b1": None, "dense": 4.0}, POPC),
        ({"popc": 3.0, "dense": None}, POPC),
    ],
)
def test_the_quickest_right_form_that_beats_the_dense_one(times, chosen):
    assert best(trials(**times)) == chosen
    assert best(trials(**times)[::-1]) == chosen


def test_where_no_form_is_right():
    wrong = [Trial(POPC, None, "wrong integers"), Trial(B1, None, "OutOfResources: shared memory")]
    with pytest.raises(
        BnasError, match=r"right integers on this device: popc \(64, 64, 1, 4\): wrong integers; b1 .*shared"
    ):
        best(wrong)


class Stopwatch:
    def __init__(self, **times):
        self.times, self.calls = times, 0

    def __call__(self):
        self.calls += 1
        return trials(**self.times)


def test_a_shape_is_measured_once_and_kept_on_disk(tmp_path):
    path, stopwatch = tmp_path / "new" / "kernels.json", Stopwatch(popc=1.0, dense=2.0)
    dispatcher = Dispatcher(path)
    assert [dispatcher.choose("a", stopwatch, ALL) for _ in range(2)] == [POPC, POPC]
    assert stopwatch.calls == 1
    # Another process, which would find other times.
    other = Stopwatch(popc=3.0, dense=2.0)
    assert Dispatcher(path).choose("a", other, ALL) == POPC
    assert other.calls == 0
    assert Dispatcher(path).choose("b", other, ALL) == DENSE
    assert set(json.loads(path.read_text())) == {"a", "b"}


def test_two_processes_keep_each_others_choices(tmp_path):
    first, second = (Dispatcher(tmp_path / "k.json") for _ in range(2))
    first.choose("a", Stopwatch(popc=1.0), ALL)
    second.choose("b", Stopwatch(int8=1.0), ALL)
    assert set(json.loads((tmp_path / "k.json").read_text())) == {"a", "b"}


def test_a_tile_that_is_no_more_is_measured_again(tmp_path):
    path = tmp_path / "k.json"
    Dispatcher(path).choose("a", Stopwatch(b1=1.0), ALL)
    assert Dispatcher(path).choose("a", Stopwatch(popc=2.0), ALL - {B1}) == POPC


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"a": 3}', b'{"a": {"form": "popc", "tile": [1, 2]}}', b"\xff\xfe", b'{"a": {"form": "x"}}'],
)
def test_a_damaged_file_is_noted_and_made_anew(tmp_path, content):
    path = tmp_path / "k.json"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"k.json is damaged, its choices of kernels are measured again"):
        dispatcher = Dispatcher(path)
    with pytest.warns(UserWarning, match="damaged"):
        assert dispatcher.choose("a", Stopwatch(popc=1.0), ALL) == POPC
    assert Dispatcher(path).choose("a", Stopwatch(dense=1.0), ALL) == POPC


def test_a_folder_that_cannot_be_written_is_noted(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="is not kept, and will be measured again: cannot write"):
        assert Dispatcher(tmp_path / "file" / "k.json").choose("a", Stopwatch(popc=1.0), ALL) == POPC


def test_devices_and_versions_have_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BNAS_CACHE", str(tmp_path))
    a, b = file_for({"device": "H100", "triton": "3.6.0"}), file_for({"device": "H100", "triton": "3.9.0"})
    assert a != b
    assert a == file_for({"triton": "3.6.0", "device": "H100"})
    assert a.parent == tmp_path
    monkeypatch.delenv("BNAS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert file_for({}).parent == tmp_path / ".cache" / "bnas"
