"""A checkpoint comes back equal, shows its damage, and has the one before it beside it."""

import errno
import hashlib
import os
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnas import checkpoint
from bnas.checkpoint import DamagedCheckpointError, load, load_newest, save
from bnas.errors import BnasError
from tests.core.engine_toy import Toy, equal


def content(value: float = 1.0) -> dict:
    shared = torch.arange(6.0)
    return {
        "numbers": [1, 2.5, float("inf"), 2**70, True, None, "ä"],
        "tuple": (1, (2,)),
        "by_number": {0: "a", 1: "b"},
        "tensors": {"a": torch.full((3, 2), value), "half": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor(3)},
        "views": [shared, shared[2:4], torch.ones(1).expand(5), torch.zeros(0)],
        "state": torch.nn.Linear(3, 2).state_dict(),
    }


def flipped(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(bytes(data))


def signed(path: Path, payload: bytes) -> None:
    """Write `payload` with a trailer that vouches for it, as someone who means harm could."""
    digest = hashlib.sha256(payload[:-2] + b"\0\0").digest()
    path.write_bytes(payload[:-2] + struct.pack("<H", 48) + struct.pack("<8sQ32s", b"BNASCKPT", len(payload), digest))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    saved = content()
    save(path, saved, kind="search")
    loaded = load(path, kind="search")
    assert equal(loaded, saved)
    assert type(loaded["state"]) is OrderedDict
    assert loaded["views"][0].untyped_storage().data_ptr() == loaded["views"][1].untyped_storage().data_ptr()


def test_a_trained_state_comes_back(tmp_path: Path) -> None:
    work = Toy()
    work.run_round()
    save(tmp_path / "a", work.state_dict(), kind="search")
    assert equal(load(tmp_path / "a", kind="search"), work.state_dict())


def test_the_file_does_not_hold_on_to_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save(path, content(), kind="search")
    loaded = load(path, kind="search")
    path.write_bytes(bytes(path.stat().st_size))
    assert equal(loaded["tensors"]["a"], torch.ones(3, 2))


def test_plain_torch_and_zip_open_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save(path, content(), kind="search")
    whole = torch.load(path, weights_only=True)
    assert (whole["schema"], whole["kind"]) == (1, "search")
    assert equal(whole["content"]["tensors"], content()["tensors"])
    assert zipfile.ZipFile(path).testzip() is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": np.float64(1)}, r"state\['a'\] is a numpy.float64; a checkpoint holds dict, list"),
        ({"a": [1, {2}]}, r"state\['a'\]\[1\] is a builtins.set"),
        ({"a": {(1, 2): 3}}, r"state\['a'\]: the key \(1, 2\) is a builtins.tuple; keys are str or int"),
        ({"a": torch.eye(2).to_sparse()}, r"state\['a'\] is a torch.Tensor; .* dense tensors"),
    ],
)
def test_what_is_not_plain_is_refused_on_saving(tmp_path: Path, value: dict, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        save(tmp_path / "a", value, kind="search")
    assert list(tmp_path.iterdir()) == []


def test_another_kind_and_a_newer_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    save(path, {}, kind="retrain")
    with pytest.raises(BnasError, match="a checkpoint of kind 'retrain', where one of kind 'search' is needed"):
        load_newest(path, kind="search")
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    save(path, {}, kind="search")
    monkeypatch.undo()
    with pytest.raises(
        BnasError, match=r"checkpoint schema 2; this bnas reads schema 1. Go on with the bnas that wrote"
    ):
        load_newest(path, kind="search")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.previous"]


def test_the_newest_good_one_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert load_newest(path, kind="search") is None
    for number in range(3):
        save(path, {"n": number}, kind="search")
    found = load_newest(path, kind="search")
    assert found is not None
    assert (found.content, found.path, found.note) == ({"n": 2}, path, None)
    assert load(checkpoint.previous_path(path), kind="search") == {"n": 1}


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "text"])
def test_a_damaged_newest_one_is_put_aside_and_the_one_before_used(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.ckpt"
    for number in range(2):
        save(path, {"n": number, "x": torch.ones(100)}, kind="search")
    good = path.read_bytes()
    bad = {"cut": good[:-7], "bit": good, "empty": b"", "text": b"hello " * 20}[damage]
    path.write_bytes(bad)
    if damage == "bit":
        flipped(path, 700, 3)
    found = load_newest(path, kind="search")
    assert found is not None
    assert found.content["n"] == 0
    assert found.path == tmp_path / "a.ckpt.previous"
    assert found.note is not None
    assert found.note.startswith(f"{path} is {'damaged' if damage == 'bit' else 'cut short'}")
    assert (
        "; a.ckpt.previous, of the round before, is used, and the damaged file is kept as a.ckpt.damaged" in found.note
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ckpt.damaged", "a.ckpt.previous"]
    # The next save must not push the damaged one over the only good one.
    save(path, {"n": 5}, kind="search")
    assert load(checkpoint.previous_path(path), kind="search")["n"] == 0


def test_a_reader_without_the_lock_moves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for number in range(2):
        save(path, {"n": number}, kind="search")
    flipped(path, 700)
    found = load_newest(path, kind="search", put_aside=False)
    assert found is not None
    assert found.content == {"n": 0}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.previous"]


def test_both_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for number in range(2):
        save(path, {"n": number}, kind="search")
    flipped(path, 700)
    (tmp_path / "a.previous").write_bytes(b"")
    with pytest.raises(
        BnasError, match=r"a is damaged.*and .*a.previous is cut short.*start anew in another run folder"
    ):
        load_newest(path, kind="search")
    (tmp_path / "a.previous").unlink()
    with pytest.raises(BnasError, match=r"a is damaged.*and there is no a.previous. No other checkpoint is left"):
        load_newest(path, kind="search")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_killed_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    save(path, {"n": 0}, kind="search")
    replace = os.replace

    def only_the_first(source: Path, target: Path) -> None:
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", only_the_first)
    with pytest.raises(KeyboardInterrupt):
        save(path, {"n": 1}, kind="search")
    found = load_newest(path, kind="search")
    assert found is not None
    assert found.content == {"n": 0}
    assert found.note == "the last save of a was cut short; a.previous, of the round before, is used"


def test_a_write_refused_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save(path, {"n": 0}, kind="search")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(BnasError, match=r"cannot write .*a: it would be larger than .* Round 1 is safe. Raise"):
            save(path, {"x": torch.ones(1_000_000)}, kind="search", kept="Round 1 is safe.")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(path, kind="search") == {"n": 0}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    path = tmp_path / "a"
    save(path, {"n": 0}, kind="search")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BnasError, match=r"cannot write .*a: the disk is full. The file is as it was before. Free some"):
        save(path, {"n": 1}, kind="search")
    assert load(path, kind="search") == {"n": 0}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_missing_or_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BnasError, match=r"cannot read .*none: there is no such file"):
        load(tmp_path / "none", kind="search")
    with pytest.raises(BnasError, match=r"cannot read .*: a folder of that name exists"):
        load(tmp_path, kind="search")


class Harm:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("harm-was-done",)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"schema": 1, "kind": "search", "content": {"a": Harm()}}, tmp_path / "plain")
    signed(tmp_path / "a", (tmp_path / "plain").read_bytes())
    with pytest.raises(DamagedCheckpointError, match="a holds something else than data; nothing of it was run"):
        load(tmp_path / "a", kind="search")
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize("whole", [[1], {"schema": 1}, {"schema": "1", "kind": "search", "content": {}}])
def test_signed_data_of_another_form(tmp_path: Path, whole: object) -> None:
    torch.save(whole, tmp_path / "plain")
    signed(tmp_path / "a", (tmp_path / "plain").read_bytes())
    with pytest.raises(DamagedCheckpointError, match="is not a checkpoint of bnas"):
        load(tmp_path / "a", kind="search")


@pytest.mark.parametrize("claim", ["tensor", "storage", "both"])
def test_a_tensor_that_claims_more_than_the_file_has(tmp_path: Path, claim: str) -> None:
    # A tensor of 70,000 numbers whose pickle is changed to claim 2**31 - 1: the 8.6 GB must not be taken.
    torch.save({"schema": 1, "kind": "search", "content": {"a": torch.ones(70_000)}}, tmp_path / "plain")
    true, false = struct.pack("<i", 70_000), struct.pack("<i", 2**31 - 1)
    with zipfile.ZipFile(tmp_path / "plain") as old, zipfile.ZipFile(tmp_path / "new", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert data.count(true) == 2
                storage, tensor = data.index(true), data.rindex(true)
                for place in {"storage": [storage], "tensor": [tensor], "both": [storage, tensor]}[claim]:
                    data = data[:place] + false + data[place + 4 :]
            new.writestr(name, data)
    signed(tmp_path / "a", (tmp_path / "new").read_bytes())
    if claim == "storage":
        assert equal(load(tmp_path / "a", kind="search"), {"a": torch.ones(70_000)})
    else:
        with pytest.raises(DamagedCheckpointError, match="not resizable"):
            load(tmp_path / "a", kind="search")


def test_a_packed_zip_is_refused(tmp_path: Path) -> None:
    # Deflate could hide gigabytes of zeros in kilobytes.
    with zipfile.ZipFile(tmp_path / "plain", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    signed(tmp_path / "a", (tmp_path / "plain").read_bytes())
    with pytest.raises(DamagedCheckpointError, match="its parts claim more bytes than the file has"):
        load(tmp_path / "a", kind="search")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("mutated") / "a"
    save(path, content(), kind="search")
    return path, path.read_bytes()


@st.composite
def mutations(draw: st.DrawFn, size: int) -> list[tuple[str, int, bytes]]:
    kinds = st.sampled_from(["set", "insert", "delete"])
    return draw(
        st.lists(st.tuples(kinds, st.integers(0, size), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)
    )


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, position, new in changes:
        end = position + (len(new) if kind != "insert" else 0)
        data = data[:position] + (b"" if kind == "delete" else new) + data[end:]
    return data


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bytes_are_a_message_or_the_same_state(good: tuple[Path, bytes], data: st.DataObject) -> None:
    path, whole = good
    changed = mutated(whole, data.draw(mutations(len(whole))))
    path.write_bytes(changed)
    if changed == whole:
        assert equal(load(path, kind="search")["tensors"], content()["tensors"])
    else:
        with pytest.raises(BnasError):
            load(path, kind="search")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_and_signed_bytes_are_a_message_or_plain_data(good: tuple[Path, bytes], data: st.DataObject) -> None:
    path, whole = good
    payload = whole[:-50] + b"\0\0"
    changed = mutated(payload, data.draw(mutations(len(payload))))
    signed(path, changed)
    try:
        loaded = load(path, kind="search")
    except BnasError:
        return
    checkpoint.check_plain(loaded)
