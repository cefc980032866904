"""`model.bnas`: its bytes, that docs/format.md suffices to read them, and that no damage is taken for a network."""

import hashlib
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bnas
from bnas.binary.schemes import make_scheme
from bnas.deploy import file
from bnas.deploy.file import Packed
from bnas.deploy.ir import Program
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from tests.core.packed_networks import CLASSES, Cell, images, packed, trained

CONTENT = file.encode(packed(trained(Cell("bats"))))


def parts(content):
    """Header and data of a file, read as docs/format.md says."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def sealed(header, data):
    """The file with the checksum that fits its content, computed as docs/format.md says."""
    metadata = header["__metadata__"]
    digest = hashlib.sha256(metadata["program"].encode())
    for name in sorted(set(header) - {"__metadata__"}):
        begin, end = header[name]["data_offsets"]
        sizes = ",".join(map(str, header[name]["shape"]))
        digest.update(f"\n{name} {header[name]['dtype']} {sizes}\n".encode())
        digest.update(data[begin:end])
    metadata["sha256"] = digest.hexdigest()
    return joined(header, data)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bnas"


def test_what_is_loaded_is_what_was_saved(path):
    original = packed(trained(Cell("bats")))
    file.save(original, path)
    loaded = file.load(path)
    assert loaded.program == original.program
    assert loaded.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert np.array_equal(loaded.tensors[name], tensor)
    assert torch.equal(PackedNetwork(original)(images()), bnas.load(path)(images()))
    assert [entry.name for entry in path.parent.iterdir()] == ["model.bnas"]


def test_equal_networks_give_equal_bytes():
    assert file.encode(packed(trained(Cell("bats")))) == CONTENT
    assert file.encode(packed(trained(Cell("bats"), seed=1))) != CONTENT


def test_any_safetensors_library_reads_it(path):
    path.write_bytes(CONTENT)
    tensors = safetensors.numpy.load_file(path)
    assert tensors.keys() == packed(trained(Cell("bats"))).tensors.keys()


def test_the_page_suffices_to_compute_the_checksum(path):
    header, data = parts(CONTENT)
    assert parts(sealed(header, data))[0]["__metadata__"]["sha256"] == parts(CONTENT)[0]["__metadata__"]["sha256"]
    path.write_bytes(sealed(*parts(CONTENT)))
    assert file.load(path).program.classes == CLASSES


def test_words_and_floats_lie_on_multiples_of_four():
    scheme = make_scheme("bats")
    # Flips of 3 and of 5 bytes stand before other tensors in the order of names.
    layers = [
        NormBinarize(3, scheme),
        BinaryConv2d(3, 5, 3, scheme),
        NormBinarize(5, scheme),
        BinaryConv2d(5, 2, 3, scheme),
    ]
    model = trained(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    content = file.encode(packed(model, classes=("a", "b")))
    header, _ = parts(content)
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    assert {entry["dtype"] for entry in entries} == {"F32", "U32", "U8"}
    assert all(entry["data_offsets"][0] % 4 == 0 for entry in entries if entry["dtype"] != "U8")


@pytest.mark.parametrize(("channels", "groups"), [(64, 1), (128, 2), (36, 3), (33, 1), (65, 5)])
def test_binary_weights_take_one_bit_each_and_the_tails(channels, groups):
    scheme = make_scheme("bnn")
    filters = 6 * groups
    conv = BinaryConv2d(channels, filters, 3, scheme, groups=groups)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = trained(nn.Sequential(NormBinarize(channels, scheme), conv, *pool), (channels, 4, 4))
    made = packed(model, (channels, 4, 4), tuple(map(str, range(filters))))
    per_group = channels // groups
    tail = -per_group % 32
    assert made.binary_weight_bytes() == (conv.weight.numel() + filters * 9 * tail) // 8
    if not tail:
        assert made.binary_weight_bytes() * 32 == conv.weight.numel() * 4
    in_file = parts(file.encode(made))[0]["1.weight"]["data_offsets"]
    assert in_file[1] - in_file[0] == made.binary_weight_bytes()


def test_it_loads_without_the_training_code(path):
    path.write_bytes(CONTENT)
    code = f"""
import sys, numpy, bnas
network = bnas.load({str(path)!r})
assert network(numpy.zeros((2, 3, 9, 9), numpy.float32)).shape == (2, 5)
unwanted = ("search_spaces", "strategies", "experiments", "bnas.training", "bnas.layers", "bnas.binary", "bnas.data")
print([name for name in sys.modules if name.startswith(unwanted)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def with_metadata(**changes):
    header, data = parts(CONTENT)
    header["__metadata__"].update(changes)
    return joined(header, data)


def resealed(change):
    """The file with a changed program or changed tensors, and a checksum that fits."""
    header, data = parts(CONTENT)
    program = json.loads(header["__metadata__"]["program"])
    data = change(program, header, data) or data
    header["__metadata__"]["program"] = json.dumps(program)
    return sealed(header, data)


def _unknown_type(program, header, data):
    header["classifier.bias"]["dtype"] = "I32"


def _other_type(program, header, data):
    header["classifier.bias"]["dtype"] = "U32"


def _missing(program, header, data):
    header["renamed"] = header.pop("classifier.bias")


def _unnamed(program, header, data):
    del program["ops"][-1]["tensors"]["bias"]


def _flip_of_two(program, header, data):
    begin = header["conv.norm.flip"]["data_offsets"][0]
    return data[:begin] + b"\x02" + data[begin + 1 :]


def _tail_bit(program, header, data):
    end = header["conv.conv.weight"]["data_offsets"][1]
    return data[: end - 1] + b"\x80" + data[end:]


def _kind(program, header, data):
    program["ops"][0]["kind"] = "conv3d"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a packed network: it has 0 bytes"),
        (b"PK\x03\x04", "is not a packed network: it has 4 bytes"),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(100),
            "its first bytes announce a header of 727905341920923785 bytes, the file has 108",
        ),
        (CONTENT[:200], r"or was cut off: its first bytes announce a header of \d+ bytes, the file has 200"),
        (CONTENT[:-1], "is not a packed network, nor any other safetensors file"),
        (CONTENT + b"\0", "is not a packed network, nor any other safetensors file"),
        (bytes(16), "is not a packed network, nor any other safetensors file"),
        (safetensors.numpy.save({"a": np.zeros(1)}), "is a safetensors file, but not a packed network of bnas"),
        (with_metadata(format="other"), "is a safetensors file, but not a packed network of bnas"),
        (with_metadata(version="2"), "has format version 2; this bnas reads versions up to 1: install a newer bnas"),
        (with_metadata(version="one"), "has the format version 'one', which is none"),
        (with_metadata(version="9" * 5000), "has the format version '9999"),
        (with_metadata(sha256="0" * 64), "is damaged: its checksum does not fit its content"),
        (with_metadata(program="{}"), "is damaged: its checksum does not fit its content"),
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "is damaged: its checksum does not fit its content"),
        (resealed(_unknown_type), "tensor 'classifier.bias' has the type I32; there are: F32, U32, U8"),
        (resealed(_other_type), "tensor 'classifier.bias' is uint32, the program needs float32"),
        (resealed(_missing), "tensor 'classifier.bias', which the program names, is missing"),
        (resealed(_unnamed), "tensor 'classifier.bias' is not named by the program"),
        (
            resealed(_flip_of_two),
            r"layer 'conv.norm' \(threshold\): tensor flip 'conv.norm.flip' holds more than 0 and 1",
        ),
        (resealed(_tail_bit), r"layer 'conv.conv' \(binary_conv2d\): tensor weight .* has tail bits that are not 0"),
        (resealed(_kind), "no operation kind named 'conv3d'"),
    ],
)
def test_what_is_not_a_packed_network_is_refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(BnasError, match=message) as caught:
        bnas.load(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_backends(path):
    with pytest.raises(BnasError, match=r"cannot read .*model.bnas: there is no such file"):
        bnas.load(path)
    with pytest.raises(BnasError, match=r"cannot read .*: a folder of that name exists"):
        bnas.load(path.parent)
    with pytest.raises(BnasError, match=r"cannot write .*no such file or folder"):
        file.save(packed(trained(Cell("bnn"))), path / "deeper" / "model.bnas")
    path.write_bytes(CONTENT)
    with pytest.raises(BnasError, match="no backend named 'tpu'; there are: cpu, reference, triton"):
        bnas.load(path, backend="tpu")


def behaves(path, content):
    """Loading and running `content` gives a network or a BnasError; the network."""
    path.write_bytes(content)
    try:
        network = bnas.load(path)
        network(torch.zeros(1, *network.program.input_shape))
    except BnasError:
        return None
    return network


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_damage_is_an_error_or_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "model.bnas"
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            content[at : at + 8] = bytes(8)
    network = behaves(path, bytes(content))
    if network is not None:
        assert file.encode(network.packed) == CONTENT


ODD = st.sampled_from(
    [None, True, 0, 1, -1, 2, 3, 7, 2**24, 2**70, 0.5, "x", "stem_body_0", [], {}, [1, 1], [0, -2, 0, 1]]
)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_wrong_program_under_a_right_checksum_is_an_error_or_runs(tmp_path_factory, data):
    def change(program, header, content):
        place, key = program, data.draw(st.sampled_from(sorted(program)))
        # Down to a random leaf or table of the program, mostly into its operations.
        while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 5)):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()):
            place[key] = data.draw(ODD)
        elif isinstance(place, dict):
            del place[key]
        else:
            place[key : key + 1] = place[key : key + 1] * 2

    behaves(tmp_path_factory.mktemp("wrong") / "model.bnas", resealed(change))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_wrong_tensors_under_a_right_checksum_are_an_error_or_run(tmp_path_factory, data):
    def change(program, header, content):
        names = sorted(set(header) - {"__metadata__"})
        name = data.draw(st.sampled_from(names))
        size = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
        header[name]["dtype"] = data.draw(st.sampled_from(["F32", "U32", "U8", "F64", "BOOL", "BF16", "F8_E4M3"]))
        width = {"F64": 8, "F32": 4, "U32": 4, "BF16": 2}.get(header[name]["dtype"], 1)
        header[name]["shape"] = data.draw(
            st.sampled_from([[size // width], [1, size // width], [size // width, 1, 1], [], [0], [2**40, 2**40]])
        )

    behaves(tmp_path_factory.mktemp("wrong") / "model.bnas", resealed(change))


def test_a_packed_network_is_checked_when_it_is_made():
    made = packed(trained(Cell("bnn")))
    with pytest.raises(BnasError, match="is missing"):
        Packed(made.program, {})
    program = json.loads(made.program.to_json())
    program["classes"] = ["one"]
    with pytest.raises(BnasError, match="the output is real 5; 1 classes need real 1"):
        Packed(Program.from_json(json.dumps(program)), made.tensors)
