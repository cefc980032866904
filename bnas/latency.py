"""Latency of a network as the sum of its packed operations' measured times: the keys of operations, and the table.

An operation is known by its kind, the shapes that it reads and writes, its attributes and its tensors' shapes. The sum
leaves out what happens between operations; `bnas profile --check` compares it with a whole network.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bnas import atomic
from bnas.deploy.file import Packed
from bnas.deploy.ir import Op
from bnas.deploy.pack import export
from bnas.deploy.shapes import infer
from bnas.errors import BnasError
from bnas.space import NetSpec

FORMAT = "bnas-latency"
VERSION = 1


@dataclass(frozen=True)
class Timing:
    """Microseconds of one operation for one image: median and half of the middle 50 % of `runs` runs."""

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


def operations(packed: Packed) -> list[tuple[str, Op]]:
    """(key, operation) of every operation of a program, in order; equal keys take equal time."""
    values = infer(packed.program, {name: tensor.shape for name, tensor in packed.tensors.items()})
    found = []
    for op in packed.program.ops:
        read = " + ".join(str(values[name]) for name in op.inputs)
        parts = [f"{op.kind}: {read} -> {values[op.output]}"]
        parts += [f"{name} {op.attributes[name]}" for name in sorted(op.attributes)]
        parts += [f"{role} {list(packed.tensors[op.tensors[role]].shape)}" for role in sorted(op.tensors)]
        found.append((", ".join(parts), op))
    return found


@dataclass(frozen=True)
class LatencyTable:
    """Measured operations by key; `about` says where: back end, device, threads, versions."""

    rows: Mapping[str, Timing]
    about: Mapping[str, Any]

    def predict(self, keys: Mapping[str, int], where: str = "the table") -> float:
        """Microseconds of the operations, each as often as it occurs. `BnasError` names one that is not in the table."""
        missing = sorted(key for key in keys if key not in self.rows)
        if missing:
            more = f" and {len(missing) - 1} more operations" if len(missing) > 1 else ""
            raise BnasError(
                f"{where} has no measurement of '{missing[0]}'{more}: measure with `bnas profile JOB --table FILE`, "
                f"which adds what is missing"
            )
        return sum(self.rows[key].median_us * count for key, count in keys.items())

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
        keys = Counter(key for key, _ in operations(packed_for(network, self._spec)))
        return self._table.predict(keys, self._path)
