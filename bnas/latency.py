"""Latency of a network as the sum of the measured times of the steps that the packed runtime takes: their keys, the table.

A step is known by all that its time depends on: its operations' kinds, attributes and tensors' shapes, the values that
they read and write, and which of them are the same.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from bnas import atomic
from bnas.deploy.file import Packed
from bnas.deploy.fusion import Step, fuse, one_by_one
from bnas.deploy.pack import export
from bnas.deploy.rewrite import joins_for_comparisons, rewrite
from bnas.deploy.shapes import Value, infer
from bnas.errors import BnasError
from bnas.space import NetSpec

FORMAT = "bnas-latency"
VERSION = 3
_NUMBER = re.compile(r"#\d+ ?")


@dataclass(frozen=True)
class Timing:
    """Microseconds of one step for one image: median and half of the middle 50 % of `runs` times that it was taken."""

    median_us: float
    spread_us: float
    runs: int


def packed_for(network: nn.Module, spec: NetSpec) -> Packed:
    """The network as it would be packed, weights as they stand; `BnasError` names a layer that cannot be."""
    channels = spec.input_shape[0]
    return export(
        network,
        input_shape=spec.input_shape,
        classes=[str(label) for label in range(spec.num_classes)],
        mean=[0.0] * channels,
        std=[1.0] * channels,
    )


def operations(packed: Packed, *, fused: bool = False) -> list[tuple[str, Step | None]]:
    """(key, step) of what one run consists of, in the order of `PackedNetwork.profile`; equal keys take equal time.

    fused: for a back end that runs operations together. The last entry, without a step, is what a run does besides.
    """
    if fused:
        rewritten = joins_for_comparisons(rewrite(packed.program, packed.tensors))
        program, values, steps = rewritten.program, rewritten.values, fuse(rewritten.program)
    else:
        program = packed.program
        values = infer(program, {name: tensor.shape for name, tensor in packed.tensors.items()})
        steps = one_by_one(program)
    found: list[tuple[str, Step | None]] = [(_key(step, packed, values), step) for step in steps]
    return [*found, (f"the run itself: {values[program.input]} -> {values[program.output]}", None)]


def _key(step: Step, packed: Packed, values: Mapping[str, Value]) -> str:
    """Operations in turn; values by numbers of their own, so that the key tells which of them are the same."""
    numbers: dict[str, int] = {}

    def named(name: str) -> str:
        value = values[name]
        groups = f" in {value.groups} groups" if value.groups not in (None, 1) else ""
        return f"#{numbers.setdefault(name, len(numbers) + 1)} {value}{groups}"

    parts = []
    for op in step.ops:
        text = [f"{op.kind}: {' + '.join(map(named, op.inputs))} -> {named(op.output)}"]
        text += [f"{name} {op.attributes[name]}" for name in sorted(op.attributes)]
        text += [f"{role} {list(packed.tensors[op.tensors[role]].shape)}" for role in sorted(op.tensors)]
        parts.append(", ".join(text))
    return "; ".join(parts)


def _parts(key: str) -> Counter[str]:
    """The operations of a step, without the numbers of their values."""
    return Counter(_NUMBER.sub("", key).split("; "))


def _convolution(key: str) -> str | None:
    return next((part for part in _parts(key) if part.startswith("binary_conv2d: ")), None)


@dataclass(frozen=True)
class LatencyTable:
    """Measured steps by key; `about` says where: back end, whether its steps are fused, device, threads, versions."""

    rows: Mapping[str, Timing]
    about: Mapping[str, Any]

    @property
    def fused(self) -> bool:
        return bool(self.about.get("fused", False))

    def of(self, packed: Packed, where: str = "the table") -> float:
        """Microseconds of one image through that network."""
        return self.predict(self.keys(packed), where)

    def keys(self, packed: Packed) -> Counter[str]:
        """How often the network takes each step."""
        return Counter(key for key, _ in operations(packed, fused=self.fused))

    def predict(self, keys: Mapping[str, int], where: str = "the table") -> float:
        """Microseconds of the steps, each as often as it occurs; `row` says which measurement stands for a step.

        `BnasError` names a step for which there is none.
        """
        rows = {key: self.row(key) for key in keys}
        missing = sorted(key for key, row in rows.items() if row is None)
        if missing:
            more = f" and {len(missing) - 1} more steps" if len(missing) > 1 else ""
            raise BnasError(
                f"{where} has no measurement of '{missing[0]}'{more}: measure with `bnas profile JOB --table FILE`, "
                f"which adds what is missing"
            )
        return sum(self.rows[row].median_us * keys[key] for key, row in rows.items() if row is not None)

    def row(self, key: str) -> str | None:
        """The key of the row for a step: its own, else that of the measured step most like it; None: there is none.

        Only a step with the same convolution is like it: what else is fused to it takes a small part of the time, and
        has too many forms in a large space for all of them to be measured.
        """
        if key in self.rows:
            return key
        parts = _parts(key)

        def distance(other: str) -> tuple[int, str]:
            theirs = _parts(other)
            return ((parts - theirs) + (theirs - parts)).total(), other

        return min(self._by_convolution.get(_convolution(key), ()), key=distance, default=None)

    @cached_property
    def _by_convolution(self) -> Mapping[str | None, Sequence[str]]:
        found: dict[str | None, list[str]] = {}
        for key in self.rows:
            if _convolution(key) is not None:
                found.setdefault(_convolution(key), []).append(key)
        return found

    def save(self, path: Path) -> None:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "about": dict(self.about),
            "rows": {key: asdict(timing) for key, timing in sorted(self.rows.items())},
        }
        atomic.write_text(path, json.dumps(content, indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> "LatencyTable":
        """The table in that file; `BnasError` for what is not one."""
        with atomic.explaining("read", path):
            text = path.read_text()
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise BnasError(f"{path} is not a latency table: its format is {content['format']!r}, not '{FORMAT}'")
            if content["version"] != VERSION:
                raise BnasError(f"{path} has version {content['version']!r}; this release reads version {VERSION}")
            rows = {key: Timing(**timing) for key, timing in content["rows"].items()}
            return LatencyTable(rows, dict(content["about"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BnasError(f"{path} is not a latency table: {type(error).__name__}: {error}") from None


class TableLatency:
    """Microseconds of built networks of `spec` by the table in a file."""

    def __init__(self, path: str, spec: NetSpec) -> None:
        self._path, self._spec = path, spec
        self._table = LatencyTable.load(Path(path))

    def __call__(self, network: nn.Module) -> float:
        return self._table.of(packed_for(network, self._spec), self._path)
