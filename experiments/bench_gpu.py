"""`bnas bench gpu`: each form of the binary kernels against cuDNN and cuBLAS in bfloat16, on the GPU that is here.

First the integers, against the NumPy reference; only a form that has them right gets a time. Every time is of a CUDA graph,
the candidates of a shape take turns, and a ratio is baseline / ours: above 1 is quicker.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import bnas
from bnas.environment import environment
from bnas.errors import BnasError
from bnas.kernels import gpu, ops
from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.seeding import torch_generator
from experiments.console import say, table, write_json

Call = Callable[[], Any]
Timer = Callable[[Sequence[Call]], list[list[float]]]
"""Microseconds of one call of each, several times, in turn."""


@dataclass(frozen=True)
class Case:
    """A shape, and how many times as quick as bfloat16 a form is meant to be on it (H100)."""

    group: str
    geometry: Geometry
    goals: Mapping[str, float]


def _resnet18(channels: int, size: int, goals: Mapping[str, float]) -> Case:
    return Case("resnet18", Geometry(128, size, size, channels, channels, (3, 3), padding=(1, 1, 1, 1)), goals)


CONV_GOALS = {"int8": 1.3, "b1": 3.0}
CASES = (
    _resnet18(64, 56, {}),
    _resnet18(128, 28, CONV_GOALS),
    _resnet18(256, 14, CONV_GOALS),
    _resnet18(512, 7, CONV_GOALS),
    Case("linear", Geometry.of_matmul(1, 4096, 4096), {"best": 3.0}),
)


@dataclass(frozen=True)
class Row:
    """One form on one shape, from bits to bits. The tile is the quickest; no time where the integers are wrong."""

    group: str
    shape: str
    batch: int
    form: str
    exact: bool
    problem: str = ""
    tile: str = "-"
    packed_us: float | None = None
    packed_spread: float | None = None
    bf16_us: float | None = None
    bf16_spread: float | None = None
    ratio_bf16: float | None = None
    goal: float | None = None
    # Of the table of all back ends; what bfloat16 takes the place of here.
    fp32_us: None = None
    int8_us: None = None
    ratio_fp32: None = None
    ratio_int8: None = None
    peak_fraction: None = None

    @property
    def verdict(self) -> str:
        """Words for a reader who looks for what is slower."""
        if self.ratio_bf16 is None:
            return self.problem
        missed = self.goal is not None and self.ratio_bf16 < self.goal
        return ("slower" if self.ratio_bf16 < 1 else "") + (f" goal {self.goal:g} missed" if missed else "")


def run(model: Path | None, json_file: Path | None) -> int:
    """The command; exit code 1 where a form has wrong integers."""
    device = gpu.device()
    if device.type != "cuda":
        raise BnasError("times of Triton's interpreter mean nothing: unset TRITON_INTERPRET")
    from bnas.kernels.triton_measure import in_turn

    rows = [row for case in CASES for row in measure(case, in_turn)]
    if model is not None:
        rows.append(whole(model, in_turn))
    show(rows)
    if json_file is not None:
        write_json(json_file, to_dict(rows))
    return 0 if all(row.exact for row in rows) else 1


def to_dict(rows: Sequence[Row]) -> dict[str, Any]:
    import triton

    here = environment()
    versions = {name: here[name] for name in ("bnas", "python", "torch", "numpy", "cuda")} | {
        "triton": triton.__version__
    }
    return {
        "device": here["cuda_device"] or here["processor"],
        "versions": versions,
        "threads": here["threads"],
        "rows": [asdict(row) for row in rows],
    }


def show(rows: Sequence[Row]) -> None:
    """Print them, and in words which form was wrong."""

    def time_of(us: float | None, spread: float | None) -> str:
        return "-" if us is None or spread is None else f"{us:.1f} ± {spread:.1f}"

    table(
        "\nbinary kernels, bits to bits, against cuDNN and cuBLAS in bfloat16 (CUDA graphs; above 1 is quicker)",
        ("shape", "form", "tile", "us", "bf16 us", "ratio", ""),
        [
            (
                f"{row.group} {row.shape}",
                row.form,
                row.tile,
                time_of(row.packed_us, row.packed_spread),
                time_of(row.bf16_us, row.bf16_spread),
                "-" if row.ratio_bf16 is None else f"{row.ratio_bf16:.2f}",
                row.verdict,
            )
            for row in rows
        ],
    )
    for row in rows:
        if not row.exact:
            say(f"{row.shape}: {row.form} has wrong integers on this device: {row.problem}")


def measure(case: Case, timer: Timer, forms: Sequence[str] | None = None) -> list[Row]:
    """A row for each form and one for the quickest, "best"; `forms` limits them."""
    from bnas.kernels.triton_forms import FORMS, forms_for
    from bnas.kernels.triton_launch import Tile

    geometry = case.geometry
    bits, weight, epilogue = _operands(geometry)
    expected = ops.by_reference(geometry, bits.cpu(), weight.cpu(), _on_cpu(epilogue))
    for_kernels = Epilogue(epilogue.scale, epilogue.value, _flips(epilogue))
    candidates: list[tuple[str, Tile, Call]] = []
    problems: dict[str, str] = {}
    names = forms or forms_for(bits.device)
    for name in names:
        for tile in FORMS[name].fitting(epilogue):
            call = _call(name, tile, geometry, bits, weight, for_kernels)
            problem = _problem(call, expected)
            if problem:
                problems[name] = f"tile {tile}: {problem}"
            else:
                candidates.append((name, tile, call))
    baseline, *times = timer([_bf16(geometry, bits.device), *(call for _, _, call in candidates)])
    quickest = sorted(zip(times, candidates, strict=True), key=lambda entry: median(entry[0]))
    rows = []
    for name in (*names, "best"):
        mine = next(((its, tile) for its, (form, tile, _) in quickest if name in (form, "best")), None)
        problem = "; ".join(problems.values()) if name == "best" else problems.get(name, "")
        rows.append(_row(case, name, mine, baseline, problem))
    return rows


def _row(case: Case, form: str, mine: tuple[list[float], Any] | None, baseline: list[float], problem: str) -> Row:
    us, bf16 = (None if mine is None else median(mine[0])), median(baseline)
    return Row(
        group=case.group,
        shape=_shape(case.geometry),
        batch=case.geometry.images,
        form=form,
        tile="-" if mine is None else str(mine[1]),
        packed_us=us,
        packed_spread=None if mine is None else _spread(mine[0]),
        bf16_us=bf16,
        bf16_spread=_spread(baseline),
        ratio_bf16=None if us is None else bf16 / us,
        goal=case.goals.get(form),
        exact=not problem,
        problem=problem,
    )


def whole(model: Path, timer: Timer) -> Row:
    """A packed network at batch 1: one replay of the CUDA graph that holds it, from normalized image to logits."""
    from bnas.deploy.device_network import DeviceNetwork

    network = bnas.load(model, backend="triton")
    if not isinstance(network, DeviceNetwork):
        raise TypeError("the triton back end loads a DeviceNetwork")
    image = torch.randn((1, *network.program.input_shape), generator=torch_generator(0, "bench")).to(network.device)
    exact = torch.equal(network.capture()(image), network(image))
    (times,) = timer([lambda: network.run(image)])
    shape = " x ".join(map(str, network.program.input_shape))
    return Row(
        group="whole",
        shape=f"{model.name}, image {shape}",
        batch=1,
        form="network",
        packed_us=median(times),
        packed_spread=_spread(times),
        exact=exact,
        problem="" if exact else "the captured run and the eager one differ",
    )


def by_the_clock(functions: Sequence[Call], rounds: int = 3) -> list[list[float]]:
    """A timer for devices without events and graphs."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, its in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            its.append((time.perf_counter() - start) * 1e6)
    return times


def _operands(geometry: Geometry) -> tuple[Tensor, Tensor, Epilogue]:
    """Random words with clear tails, and thresholds at 0."""
    generator, device = torch_generator(0, "bench"), gpu.device()

    def packed(rows: tuple[int, ...], groups: int) -> Tensor:
        channels = geometry.group_channels * groups
        x = torch.randint(0, 2, (rows[0], channels, *rows[1:]), generator=generator).float().to(device)
        half = torch.full((channels,), 0.5, device=device)
        words: Tensor = ops.pack(x, half, half < 0, groups)
        return words

    bits = packed((geometry.images, geometry.height, geometry.width), geometry.groups)
    weight = packed((geometry.filters, *geometry.kernel), 1).squeeze(-2)
    ones = torch.ones(geometry.filters, device=device)
    return bits, weight, Epilogue(ones, ones - 1, ones < 0)


def _flips(epilogue: Epilogue) -> Tensor | None:
    return None if epilogue.flip is None else epilogue.flip.view(torch.uint8)


def _on_cpu(epilogue: Epilogue) -> Epilogue:
    scale, value, flip = (None if t is None else t.cpu() for t in (epilogue.scale, epilogue.value, epilogue.flip))
    return Epilogue(scale, value, flip)


def _call(name: str, tile: Any, geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> Call:
    from bnas.kernels.triton_forms import FORMS

    prepared = FORMS[name].prepare(geometry, weight)
    return lambda: FORMS[name].run(tile, geometry, bits, weight, prepared, epilogue)


def _problem(call: Call, expected: Tensor) -> str:
    import triton

    try:
        got = call().cpu()
    except (RuntimeError, triton.errors.TritonError) as error:
        return f"{type(error).__name__}: {error}"
    wrong = int((got != expected).sum())
    return f"{wrong} of {expected.numel()} words differ" if wrong else ""


def _bf16(geometry: Geometry, device: torch.device) -> Call:
    """+-1 in bfloat16, channels last, already unpacked: the best that cuDNN or cuBLAS can be given."""
    x = torch.ones(
        (geometry.images, geometry.channels, geometry.height, geometry.width), dtype=torch.bfloat16, device=device
    )
    weight = torch.ones(
        (geometry.filters, geometry.group_channels, *geometry.kernel), dtype=torch.bfloat16, device=device
    )
    if geometry.height == geometry.width == geometry.taps == 1:
        flat, matrix = x.flatten(1), weight.flatten(1)
        return lambda: F.linear(flat, matrix)
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    padding = geometry.padding[:2]
    return lambda: F.conv2d(x, weight, None, geometry.stride, padding, geometry.dilation, geometry.groups)


def _shape(geometry: Geometry) -> str:
    if geometry.height == geometry.width == geometry.taps == 1:
        return f"{geometry.images} x {geometry.channels} x {geometry.filters}"
    kernel = "x".join(map(str, geometry.kernel))
    return f"{geometry.channels} -> {geometry.filters}, {kernel}, {geometry.height} x {geometry.width}"


def _spread(times: Sequence[float]) -> float:
    """Median absolute deviation."""
    middle = median(times)
    return median(abs(t - middle) for t in times)
