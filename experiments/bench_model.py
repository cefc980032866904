"""`bnas bench model.bnas`: a packed network on each back end against the same network with real values, on the CPU.

First the fused run is compared with the operations one by one, and with the reference; where they differ there is no time.
"""

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from bnas.deploy.file import Packed
from bnas.deploy.fusion import Step
from bnas.deploy.ir import Op
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError, nearest
from bnas.genotype import Genotype
from bnas.kernels.cpu.peak import products_per_second
from bnas.seeding import torch_generator
from bnas.space import NetSpec
from experiments import bench_int8, bench_kernels
from experiments.bench_kernels import BATCHES, Row, least, ratio
from experiments.bench_networks import NETWORKS, make
from experiments.bench_rivals import Shape, has_bfloat16
from experiments.bench_timing import Call, in_turn, on_threads, ratio_text, where
from experiments.console import say, table, write_json
from experiments.deployment import is_packed_file, load_packed
from search_spaces import make_space

# The reference is orders of magnitude slower: it is timed by fewer turns, and only at batch 1.
REFERENCE_ROUNDS = 3


def run(path: Path, batches: Sequence[int] | None, threads: int | None, rounds: int, json_file: Path | None) -> int:
    """The command; exit code 1 where results differ."""
    packed, real = make(path.name) if path.name in NETWORKS else _from_file(path)
    with on_threads(threads), torch.no_grad():
        here = where()
        network = PackedNetwork(packed)
        say(f"{path.name}: {network}")
        say(f"{here['device']}, {here['threads']} threads, {here['clock']}")
        int8 = None if real is None else _int8(real, network)
        rows = [row for batch in batches or BATCHES for row in whole(path.name, network, real, batch, rounds, int8)]
        _show(rows)
        _show_parts(network, (batches or BATCHES)[0], rounds)
        peak = products_per_second()
        layers = [bench_kernels.measure("layer", shape, 1, rounds, peak) for shape in _shapes(network)]
        bench_kernels.show(layers)
    if json_file is not None:
        write_json(json_file, {**here, "rows": [asdict(row) for row in (*rows, *layers)]})
    return 0 if all(row.exact for row in (*rows, *layers)) else 1


def _from_file(path: Path) -> tuple[Packed, nn.Module | None]:
    """The packed network, and its twin with real values where the file says what was packed."""
    if not path.exists() and not is_packed_file(path):
        known = ", ".join(NETWORKS)
        raise BnasError(f"there is no file {path}; networks made here: {known}.{nearest(path.name, NETWORKS)}")
    packed = load_packed(path).packed
    about = packed.program.about
    if "genotype" not in about or "spec" not in about:
        return packed, None
    genotype = Genotype.from_dict(about["genotype"])
    spec = NetSpec.from_dict({**about["spec"], "scheme": "real", "scheme_options": {}})
    return packed, make_space(genotype.space, dict(genotype.space_args)).build(genotype, spec).eval()


def _int8(real: nn.Module, network: PackedNetwork) -> bytes | None:
    """The rival in int8; where there is none, the reason is said."""
    images = torch.randn((1, *network.program.input_shape), generator=torch_generator(0, "bench calibration"))
    try:
        return bench_int8.quantized(real, images)
    except BnasError as error:
        say(f"int8: not timed: {error}")
        return None


def whole(
    name: str, network: PackedNetwork, real: nn.Module | None, batch: int, rounds: int, int8: bytes | None = None
) -> list[Row]:
    """A row for each back end that is here; `int8`: the rival as ONNX."""
    generator = torch_generator(0, "bench", batch)
    x = torch.randn((batch, *network.program.input_shape), generator=generator)
    candidates: dict[str, Call] = {f"packed {network.backend}": lambda: network(x)}
    plain = {"reference": PackedNetwork(network.packed, "reference")}
    unfused = PackedNetwork(network.packed, fuse=False)
    exact = torch.equal(network(x), unfused(x)) and torch.equal(network(x[:1]), plain["reference"](x[:1]))
    if not exact:
        return [Row("whole", name, batch, network.backend, exact)]
    if real is not None:
        candidates |= _real(real, x)
    if int8 is not None:
        candidates["int8 onnxruntime"] = bench_int8.session(int8, x)
    times = in_turn(candidates, rounds)
    if batch == 1:
        times |= in_turn({"packed reference": lambda: plain["reference"](x)}, REFERENCE_ROUNDS)
    fp32, bf16, in_int8 = (least(times, kind) for kind in ("fp32", "bf16", "int8"))
    return [
        Row(
            group="whole",
            shape=name,
            batch=batch,
            backend=backend.removeprefix("packed "),
            exact=True,
            packed_us=mine.us,
            packed_spread=mine.spread,
            fp32_us=fp32,
            bf16_us=bf16,
            int8_us=in_int8,
            int8_by=None if in_int8 is None else "int8 onnxruntime",
            ratio_fp32=ratio(fp32, mine),
            ratio_bf16=ratio(bf16, mine),
            ratio_int8=ratio(in_int8, mine),
        )
        for backend, mine in times.items()
        if backend.startswith("packed")
    ]


def _real(real: nn.Module, x: Tensor) -> Mapping[str, Call]:
    last = copy.deepcopy(real).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    by_pixel = x.contiguous(memory_format=torch.channels_last)
    in_float: dict[str, Call] = {"fp32 NCHW": lambda: real(x), "fp32 NHWC": lambda: last(by_pixel)}
    if not has_bfloat16():
        return in_float
    low, in_low = copy.deepcopy(last).bfloat16(), by_pixel.bfloat16()
    return {**in_float, "bf16": lambda: low(in_low)}


def _shapes(network: PackedNetwork) -> list[Shape]:
    """The binary convolutions of the network, each shape once; those whose sides or padding differ are left out."""
    found: dict[Shape, None] = {}
    sizes = network.sizes()
    for op in network.program.ops:
        if op.kind == "binary_conv2d" and (shape := _square(op, network, sizes[op.inputs[0]])):
            found[shape] = None
    return list(found)


def _square(op: Op, network: PackedNetwork, size: tuple[int, ...]) -> Shape | None:
    filters, kh, kw, _ = network.packed.tensors[op.tensors["weight"]].shape
    channels, height, width = size
    (stride, stride_x), (dilation, dilation_x) = op.pair("stride"), op.pair("dilation")
    shape = Shape(channels, filters, height, kh, stride, dilation, op.attributes["groups"])
    same = (height, kh, stride, dilation) == (width, kw, stride_x, dilation_x)
    return shape if same and op.sides("padding") == (shape.padding,) * 4 else None


def _show(rows: Sequence[Row]) -> None:
    table(
        "\nthe whole network",
        ("", "batch", "back end", "packed ms", "fp32", "bf16", "int8"),
        [
            (
                row.shape,
                row.batch,
                row.backend,
                _milliseconds(row),
                ratio_text(row.ratio_fp32),
                ratio_text(row.ratio_bf16),
                ratio_text(row.ratio_int8),
            )
            for row in rows
        ],
    )
    if all(row.fp32_us is None for row in rows):
        say("no rivals: the file does not say which architecture was packed, so that its real twin cannot be built")


def _milliseconds(row: Row) -> str:
    if row.packed_us is None or row.packed_spread is None:
        return "results differ"
    return f"{row.packed_us / 1e3:.2f} ± {row.packed_spread / 1e3:.2f}"


def _show_parts(network: PackedNetwork, batch: int, rounds: int) -> None:
    """Where the time goes: packed layers, comparisons, and real operations by their kinds."""
    if network.fused is None:
        raise BnasError(f"back end {network.backend} runs operations one by one: there are no steps to time")
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    x = torch.zeros((batch, *network.program.input_shape)).contiguous(memory_format=torch.channels_last)
    samples: dict[str, list[float]] = {}
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        spent: dict[str, float] = {}
        counts.clear()
        for step, seconds in network.fused.profile(x, clock):
            spent[_part(step)] = spent.get(_part(step), 0.0) + seconds
            counts[_part(step)] += 1
        for part, seconds in spent.items():
            samples.setdefault(part, []).append(seconds)
    middle = {part: median(its) * 1e3 for part, its in samples.items()}
    total = sum(middle.values())
    table(
        f"\nwhere the time goes at batch {batch}",
        ("", "steps", "ms", "share"),
        [
            (part, counts[part], f"{ms:.3f}", f"{100 * ms / total:.0f} %")
            for part, ms in sorted(middle.items(), key=lambda entry: -entry[1])
        ],
    )


def _part(step: Step) -> str:
    if step.conv is not None:
        return "packed layers"
    return step.ops[0].kind if step.threshold is None else "comparisons"
