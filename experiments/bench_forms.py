"""Steps of training in several forms of one network: time in turn, peak memory, where the time goes. One table for all."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bnas.errors import check_choice
from experiments.bench_timing import Call, in_turn, ratio_text
from experiments.console import say, table
from experiments.plan_phases import process_bytes

TOLERANCE = 1e-5
PRECISIONS = ("float32", "bfloat16")
# What is where in a profile, by a part of the operation's name; the first that fits.
PARTS = {
    "convolution, backward": ("convolution_backward",),
    "convolution of bits": ("bnas::convolution_of_bits",),
    "signs as bits": ("bnas::signs_as_bits",),
    "convolution, forward": ("mkldnn_convolution", "convolution", "conv2d"),
    "norms": ("batch_norm",),
    "pooling": ("pool",),
}


# What shrinks a step that does not fit.
KEYS = ("--batch", "--cells", "--channels")


@dataclass(frozen=True)
class Setup:
    """What a step is of: sizes and precision."""

    batch: int
    cells: int
    channels: int
    precision: str
    device: str

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)

    def values(self) -> dict[str, object]:
        return dict(zip(KEYS, (self.batch, self.cells, self.channels), strict=True))


@dataclass(frozen=True)
class Row:
    """One form of one network; times in milliseconds, memory in bytes over what was held before.

    `ratio`: how many times as quick as the first form.
    """

    network: str
    form: str
    exact: bool
    ms: float | None = None
    spread: float | None = None
    peak: int | None = None
    ratio: float | None = None


def differ(network: str, form: str) -> list[Row]:
    """The row of a form whose results are not those of the plain form: it gets no time."""
    return [Row(network, form, exact=False)]


def timed(network: str, forms: Mapping[str, Call], rounds: int, device: str, parts_of: Sequence[str] = ()) -> list[Row]:
    """A row for each form; the parts of the last one are printed, or of those named."""
    peaks = {form: _peak(step, device) for form, step in forms.items()}
    times = in_turn(forms, rounds)
    first = next(iter(times.values())).us
    for form in parts_of or list(forms)[-1:]:
        _show_parts(network, form, forms[form])
    return [
        Row(network, form, True, its.us / 1e3, its.spread / 1e3, peaks[form], first / its.us)
        for form, its in times.items()
    ]


def close(a: Tensor, b: Tensor) -> bool:
    """Equal within rounding, relative to the largest element."""
    return bool((a - b).abs().max() <= TOLERANCE * a.abs().max().clamp_min(1e-12))


def show(title: str, rows: Sequence[Row]) -> None:
    table(
        f"\n{title}",
        ("network", "form", "ms", "peak memory", f"times as quick as {rows[0].form}"),
        [
            (
                row.network,
                row.form,
                "results differ" if row.ms is None or row.spread is None else f"{row.ms:.0f} ± {row.spread:.0f}",
                "-" if row.peak is None else f"{row.peak / 2**20:.0f} MiB",
                ratio_text(row.ratio),
            )
            for row in rows
        ],
    )


def _peak(step: Call, device: str) -> int | None:
    """The most memory that a step holds beyond what is held before it; None where the system does not tell."""
    # The first one takes what stays: averages of the optimizers.
    step()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    try:
        # glibc gives back what the forms before left free; 5 sets the process's peak to what it holds now.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = process_bytes("VmRSS")
    step()
    return max(0, process_bytes("VmHWM") - before)


def _show_parts(network: str, form: str, step: Call) -> None:
    """Where the time of a form goes, by kinds of operations."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    spent: dict[str, float] = {}
    for event in found.key_averages():
        part = next((part for part, words in PARTS.items() if any(word in event.key for word in words)), "the rest")
        spent[part] = spent.get(part, 0.0) + event.self_cpu_time_total
    total = sum(spent.values())
    shares = ", ".join(f"{part} {100 * s / total:.0f} %" for part, s in sorted(spent.items(), key=lambda e: -e[1]))
    say(f"{network}, where the time of the form '{form}' goes: {shares}")
