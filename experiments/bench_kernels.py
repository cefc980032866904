"""`bnas bench kernels`: packed layers by shape against the same layers in other arithmetic, on the CPU.

A packed layer is timed from real features to real features: comparison, packing, convolution, scale, one pass each way.
First its integer sums are compared with the reference; where they differ there is no time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnas.errors import check_choice
from bnas.kernels import reference
from bnas.kernels.cpu.forms import detail
from bnas.kernels.cpu.layer import BinaryLayer, Epilogue, LayerPlan, Outputs, Threshold
from bnas.kernels.cpu.peak import products_per_second
from bnas.kernels.packing import pack_weights
from bnas.seeding import numpy_generator
from experiments.bench_rivals import Shape, in_int8, in_torch
from experiments.bench_timing import Timing, in_turn, on_threads, ratio_text, where
from experiments.console import say, table, write_json

GROUPS: Mapping[str, Sequence[Shape]] = {
    "resnet18": [Shape(c, c, size, 3) for c, size in ((64, 56), (128, 28), (256, 14), (512, 7))],
    "cifar_cell": [
        *(Shape(c, c, size, 3) for c, size in ((36, 32), (72, 16), (144, 8))),
        # As in cells of `bats`: 12 channels a group.
        *(Shape(c, c, size, 3, groups=c // 12) for c, size in ((36, 32), (144, 8))),
        Shape(36, 36, 32, 5, dilation=2, groups=3),
    ],
    "linear": [Shape(512, 1000), Shape(1024, 1024), Shape(4096, 4096)],
}
BATCHES = (1, 64)


@dataclass(frozen=True)
class Row:
    """One shape at one batch size. Times in microseconds; None where a rival is not here, or nothing was timed."""

    group: str
    shape: str
    batch: int
    backend: str
    exact: bool
    packed_us: float | None = None
    packed_spread: float | None = None
    fp32_us: float | None = None
    bf16_us: float | None = None
    int8_us: float | None = None
    int8_by: str | None = None
    ratio_fp32: float | None = None
    ratio_bf16: float | None = None
    ratio_int8: float | None = None
    peak_fraction: float | None = None


def run(
    groups: Sequence[str] | None,
    batches: Sequence[int] | None,
    threads: int | None,
    rounds: int,
    json_file: Path | None,
) -> int:
    """The command; exit code 1 where integers are wrong."""
    for group in groups or ():
        check_choice("--group", group, GROUPS)
    with on_threads(threads), torch.no_grad():
        here = where()
        peak = products_per_second()
        rows = [
            measure(group, shape, batch, rounds, peak)
            for group in groups or GROUPS
            for shape in GROUPS[group]
            for batch in batches or BATCHES
        ]
    say(f"{here['device']}, {detail()}, {here['threads']} threads, {here['clock']}")
    say(f"popcount peak of one thread, measured: {peak / 1e9:.0f} G products a second")
    show(rows)
    if json_file is not None:
        write_json(json_file, {**here, "peak_products_per_second": peak, "rows": [asdict(row) for row in rows]})
    return 0 if all(row.exact for row in rows) else 1


def measure(group: str, shape: Shape, batch: int, rounds: int, peak: float) -> Row:
    """Compare, then time."""
    x, w = operands(shape, batch)
    packed, exact = packed_layer(shape, x, w)
    backend = f"cpu, {packed.form.name}"
    if not exact:
        return Row(group, str(shape), batch, backend, exact)
    rivals = {**in_torch(shape, torch.from_numpy(x), torch.from_numpy(w)), **in_int8(shape, x, w)}
    times = in_turn({"packed": packed, **rivals}, rounds)
    mine, fp32, bf16 = times["packed"], least(times, "fp32"), least(times, "bf16")
    int8 = least(times, "int8")
    by = min((name for name in times if name.startswith("int8")), key=lambda name: times[name].us, default=None)
    threads = torch.get_num_threads()
    return Row(
        group=group,
        shape=str(shape),
        batch=batch,
        backend=backend,
        exact=True,
        packed_us=mine.us,
        packed_spread=mine.spread,
        fp32_us=fp32,
        bf16_us=bf16,
        int8_us=int8,
        int8_by=by,
        ratio_fp32=ratio(fp32, mine),
        ratio_bf16=ratio(bf16, mine),
        ratio_int8=ratio(int8, mine),
        peak_fraction=shape.products(batch) / (mine.us * 1e-6) / (peak * threads),
    )


def operands(shape: Shape, batch: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Real features [N, C, H, W] and -1/+1 weights, or matrices."""
    generator = numpy_generator(0, "bench", str(shape), batch)
    sides = (shape.size, shape.size) if shape.kernel else ()
    kernel = (shape.kernel, shape.kernel) if shape.kernel else ()
    x = generator.standard_normal((batch, shape.channels, *sides)).astype(np.float32)
    w = np.where(generator.random((shape.filters, shape.channels // shape.groups, *kernel)) < 0.5, -1, 1)
    return x, w.astype(np.float32)


def packed_layer(shape: Shape, x: NDArray[np.float32], w: NDArray[np.float32]) -> tuple[LayerPlan, bool]:
    """The layer ready to run on x in channels-last order, and whether its sums are the reference's."""
    images, kernels = (a[:, :, None, None] if a.ndim == 2 else a for a in (x, w))
    stride, padding, dilation, groups = shape.options if shape.kernel else (1, 0, 1, 1)
    options: dict[str, Any] = {
        "channels": shape.channels,
        "stride": (stride, stride),
        "padding": (padding,) * 4,
        "dilation": (dilation, dilation),
        "groups": groups,
    }
    threshold = Threshold(np.zeros(shape.channels, np.float32), np.zeros(shape.channels, np.bool_))
    words = pack_weights(kernels)
    layer = BinaryLayer(None, words, **options, epilogue=Epilogue(scale=np.full(shape.filters, 0.5, np.float32)))
    by_pixel = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if shape.kernel == 0:
        # A matrix product is one image with a pixel for each row.
        by_pixel = by_pixel.transpose(1, 0, 2, 3)
        images = by_pixel.transpose(0, 3, 1, 2)
    bits = reference.threshold_pack(images, threshold.value, threshold.flip, groups)
    expected = reference.conv2d(bits, words, **options)
    sums = np.empty(expected.shape, np.int32)
    layer.plan(by_pixel, Outputs(sums=sums), threshold=threshold)()
    plan = layer.plan(by_pixel, Outputs(real=np.empty(expected.shape, np.float32)), threshold=threshold)
    return plan, np.array_equal(sums, expected)


def least(times: Mapping[str, Timing], kind: str) -> float | None:
    """Microseconds of the quickest of that kind."""
    return min((timing.us for name, timing in times.items() if name.startswith(kind)), default=None)


def ratio(rival: float | None, mine: Timing) -> float | None:
    """How many times as quick as the rival."""
    return None if rival is None else rival / mine.us


def show(rows: Sequence[Row]) -> None:
    """The table, and geometric means of each group and batch size."""
    table(
        "\npacked layers, packing included, real features to real features",
        ("", "batch", "packed us", "fp32", "bf16", "int8", "of peak"),
        [
            (
                f"{row.group} {row.shape}",
                row.batch,
                "wrong integers" if row.packed_us is None else f"{row.packed_us:.0f} ± {row.packed_spread:.0f}",
                ratio_text(row.ratio_fp32),
                ratio_text(row.ratio_bf16),
                ratio_text(row.ratio_int8),
                "-" if row.peak_fraction is None else f"{row.peak_fraction:.2f}",
            )
            for row in rows
        ],
    )
    say(
        "ratios: time of the rival by ours, so above 1 we are quicker; fp32 is the better of torch's two memory orders,"
    )
    say("int8 the faster of torch and onnxruntime (its operands quantized beforehand)")
    for group, batch in dict.fromkeys((row.group, row.batch) for row in rows):
        found = [row.ratio_fp32 for row in rows if (row.group, row.batch) == (group, batch) and row.ratio_fp32]
        if found:
            say(
                f"{group}, batch {batch}: geometric mean {geometric_mean(found):.1f}x over fp32, least {min(found):.1f}x"
            )
