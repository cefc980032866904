"""docs/format.md is enough: a reader written from that page alone, which uses nothing of bnas and no library of formats."""

import hashlib
import json
import math
import struct

import numpy as np
import pytest

from bnas.deploy import file
from bnas.deploy.runtime import PackedNetwork
from tests.core.packed_networks import Cell, images, packed, trained

SIZES = {"F32": (4, "f"), "U32": (4, "I"), "U8": (1, "B")}


class Reader:
    """The page's section "The file", line by line."""

    def __init__(self, content: bytes) -> None:
        (length,) = struct.unpack_from("<Q", content)
        assert length <= len(content) - 8
        assert length % 8 == 0
        header = json.loads(content[8 : 8 + length].decode("utf-8"))
        self.metadata = header.pop("__metadata__")
        self.entries = header
        self.data = content[8 + length :]
        for entry in header.values():
            begin, end = entry["data_offsets"]
            assert 0 <= begin <= end <= len(self.data)
            assert end - begin == math.prod(entry["shape"]) * SIZES[entry["dtype"]][0]
        assert self.metadata["format"] == "bnas-packed"
        assert int(self.metadata["version"]) <= 1
        self.program = json.loads(self.metadata["program"])

    def bytes_of(self, name: str) -> bytes:
        begin, end = self.entries[name]["data_offsets"]
        return self.data[begin:end]

    def tensor(self, name: str) -> tuple[tuple, list[int]]:
        """All elements, the last index fastest, and the shape."""
        entry = self.entries[name]
        count = math.prod(entry["shape"])
        return struct.unpack(f"<{count}{SIZES[entry['dtype']][1]}", self.bytes_of(name)), entry["shape"]

    def checksum(self) -> str:
        digest = hashlib.sha256(self.metadata["program"].encode())
        for name in sorted(self.entries):
            entry = self.entries[name]
            digest.update(f"\n{name} {entry['dtype']} {','.join(map(str, entry['shape']))}\n".encode())
            digest.update(self.bytes_of(name))
        return digest.hexdigest()

    def weight(self, op: dict, o: int, c: int, y: int, x: int) -> int:
        """One binary weight, -1 or +1: words [O, kh, kw, words], bit c of the channels of a group."""
        words, (_, kh, kw, per_pixel) = self.tensor(op["tensors"]["weight"])
        word = words[((o * kh + y) * kw + x) * per_pixel + c // 32]
        return 1 if word >> c % 32 & 1 else -1

    def binary_conv2d(self, op: dict, image: list) -> list:
        """Sums, then the scale; `image` is [C][H][W] of -1/+1. Returned as [O][Ho][Wo]."""
        a = op["attributes"]
        (filters, kh, kw, _), depth = self.tensor(op["tensors"]["weight"])[1], a["in_channels"] // a["groups"]
        scale = self.tensor(op["tensors"]["scale"])[0] if "scale" in op["tensors"] else [1.0] * filters
        top, left, bottom, right = a["padding"]
        (sy, sx), (dy, dx) = a["stride"], a["dilation"]
        H, W = len(image[0]), len(image[0][0])
        Ho, Wo = (H + top + bottom - dy * (kh - 1) - 1) // sy + 1, (W + left + right - dx * (kw - 1) - 1) // sx + 1
        out = [[[0.0] * Wo for _ in range(Ho)] for _ in range(filters)]
        weights = {
            (o, c, i, j): self.weight(op, o, c, i, j)
            for o in range(filters)
            for c in range(depth)
            for i in range(kh)
            for j in range(kw)
        }
        for o, y, x in np.ndindex(filters, Ho, Wo):
            total = 0
            for (filter_, c, i, j), weight in weights.items():
                row, column = y * sy - top + i * dy, x * sx - left + j * dx
                inside = 0 <= row < H and 0 <= column < W
                channel = o // (filters // a["groups"]) * depth + c
                if filter_ == o:
                    total += weight * (image[channel][row][column] if inside else a["pad_value"])
            out[o][y][x] = float(np.float32(total) * np.float32(scale[o]))
        return out


@pytest.fixture(scope="module")
def network():
    return packed(trained(Cell("bats", channels=12)))


@pytest.fixture(scope="module")
def content(network):
    return file.encode(network)


def test_the_header_the_checksum_and_every_tensor(network, content):
    reader = Reader(content)
    assert reader.checksum() == reader.metadata["sha256"]
    assert reader.program["input_shape"] == [3, 9, 9]
    assert set(reader.entries) == set(network.tensors)
    for name, tensor in network.tensors.items():
        elements, shape = reader.tensor(name)
        assert shape == list(tensor.shape)
        assert np.array_equal(np.array(elements, tensor.dtype), tensor.reshape(-1))


def test_the_words_of_tensors_are_aligned(content):
    for entry in Reader(content).entries.values():
        if entry["dtype"] != "U8":
            assert entry["data_offsets"][0] % 4 == 0


def test_the_checksum_sees_a_flipped_bit(content):
    flipped = bytearray(content)
    flipped[-1] ^= 1
    reader = Reader(bytes(flipped))
    assert reader.checksum() != reader.metadata["sha256"]


def test_a_binary_convolution_by_the_page_alone(network, content):
    reader = Reader(content)
    # Grouped, dilated by 2, stride 2.
    op = next(
        op for op in reader.program["ops"] if op["name"] == "dilated.conv" or op["attributes"].get("dilation") == [2, 2]
    )
    assert op["kind"] == "binary_conv2d"
    values = {}
    runtime = PackedNetwork(network)
    runtime.run(images(1), lambda done, value: values.__setitem__(done.output, value))
    expected = values[op["output"]][0].numpy()
    image = values[op["inputs"][0]].unpack()[0].astype(int).tolist()
    assert np.array_equal(np.array(reader.binary_conv2d(op, image), np.float32), expected)
