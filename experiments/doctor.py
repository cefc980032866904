"""`bnas doctor`: what this machine has for bnas, and whether the arithmetic of each back end is right here."""

import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnas.binary.threshold import Threshold, compare
from bnas.data import READERS, read
from bnas.environment import processor
from bnas.errors import BnasError
from bnas.kernels import BACKENDS, Backend
from bnas.kernels.packing import pack_activations, pack_matrix, pack_weights
from experiments.console import console, size, write_json
from experiments.job_files import load_job, shipped_jobs

# Linux' names of what popcount kernels profit from, and ours.
FEATURES = {
    "popcnt": "POPCNT",
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vpopcntdq": "VPOPCNTDQ",
    "avx512_bf16": "AVX512-BF16",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
}
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

State = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. "missing" is for what bnas does without; "failed" for what is wrong."""

    name: str
    text: str
    state: State = "ok"


Report = Mapping[str, tuple[Finding, ...]]


def examine(data: str | None = None, path: str | None = None) -> Report:
    """All sections; `data` and `path` name a data set to be read and described too."""
    return {
        "versions": versions(),
        "machine": machine(),
        "devices": devices(),
        "back ends": backends(),
        "data": data_sets(data, path),
        "jobs": jobs(),
    }


def run(data: str | None, path: str | None, json_file: Path | None) -> int:
    """The command; its exit code."""
    report = examine(data, path)
    show(report)
    if json_file is not None:
        write_json(json_file, to_dict(report))
    return 0 if is_sound(report) else 1


def is_sound(report: Report) -> bool:
    return all(finding.state != "failed" for findings in report.values() for finding in findings)


def to_dict(report: Report) -> dict[str, Any]:
    sections = {name: [asdict(finding) for finding in findings] for name, findings in report.items()}
    return {"sound": is_sound(report), **sections}


def show(report: Report) -> None:
    """Print it on one screen: sections that are names and short words run on, the others take a line each."""
    marks = {"ok": "", "missing": "[yellow]not there:[/yellow] ", "failed": "[bold red]failed:[/bold red] "}
    for section, findings in report.items():
        console.print(f"[bold]{section}[/bold]")
        if section == "versions":
            console.print("  " + ", ".join(f"{finding.name} {finding.text}" for finding in findings), markup=False)
            continue
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            text = finding.text.replace("[", r"\[")
            console.print(f"  {finding.name:<{width}}  {marks[finding.state]}{text}", soft_wrap=True)
    console.print("everything that was tested works" if is_sound(report) else "[bold red]something failed[/bold red]")


def versions() -> tuple[Finding, ...]:
    """python, bnas, and what bnas asks for, the extras with it but for those of its tests."""
    try:
        required = metadata.requires("bnas") or []
    except metadata.PackageNotFoundError:
        required = []
    names = [re.split(r"[^\w.-]", text)[0] for text in required if 'extra == "test"' not in text]
    return (Finding("python", platform.python_version()), *(_version(name) for name in ("bnas", *names)))


def _version(package: str) -> Finding:
    try:
        return Finding(package, metadata.version(package))
    except metadata.PackageNotFoundError:
        return Finding(package, "not installed", "missing")


def machine() -> tuple[Finding, ...]:
    here = Path.cwd()
    free = shutil.disk_usage(here)
    return (
        Finding("processor", f"{processor()}, {_processors()}"),
        Finding("features", f"{_features()}; torch uses {torch.backends.cpu.get_cpu_capability()}"),
        Finding("threads", f"{torch.get_num_threads()} by torch, unless a job says `threads`"),
        Finding("memory", _memory()),
        Finding("disk", f"{size(free.free)} free of {size(free.total)} in {here}"),
    )


def _processors() -> str:
    there = os.cpu_count() or 1
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return f"{there} logical cores" + (f", {ours} of them for this process" if ours != there else "")


def _features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The features of the first core that matter here, those that are there and those that are not."""
    if not cpuinfo.exists():
        return "not told by this system"
    flags: set[str] = set()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    # One family's names say nothing on the other one.
    family = [flag for flag in FEATURES if (flag in ("asimd", "sve")) == ("asimd" in flags)]
    there = [FEATURES[flag] for flag in family if flag in flags]
    absent = [FEATURES[flag] for flag in family if flag not in flags]
    return (", ".join(there) or "none") + (f"; without {', '.join(absent)}" if absent else "")


def _memory(meminfo: Path = Path("/proc/meminfo"), limit: Path = CGROUP_LIMIT) -> str:
    if not meminfo.exists():
        return "not told by this system"
    kibibytes = {}
    for line in meminfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            kibibytes[key] = int(value.split()[0])
    text = f"{size(kibibytes['MemAvailable'] * 1024)} available of {size(kibibytes['MemTotal'] * 1024)}"
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return text + (f"; this container may use {size(int(allowed))}" if allowed.isdigit() else "")


def devices() -> tuple[Finding, ...]:
    found = [Finding("cpu", "float32, bfloat16")]
    if not torch.cuda.is_available():
        return (*found, Finding("cuda", "no GPU, or a torch without CUDA", "missing"))
    return (
        *found,
        *(_tested(f"cuda:{index}", partial(_describe_gpu, index)) for index in range(torch.cuda.device_count())),
    )


def _describe_gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    x, w = _signs(0, 2, 32, 9, 9), _signs(1, 8, 32, 3, 3)
    there = F.conv2d(x.to(f"cuda:{index}"), w.to(f"cuda:{index}")).cpu()
    _must_equal("a convolution of +1 and -1", there.round().numpy(), F.conv2d(x, w).round().numpy())
    precisions = "float32, float16" + (", bfloat16" if torch.cuda.is_bf16_supported() else "")
    return (
        f"{properties.name}, {size(properties.total_memory)}, capability {properties.major}.{properties.minor}, "
        f"CUDA {torch.version.cuda}, {precisions}"
    )


def backends() -> tuple[Finding, ...]:
    """Each back end of the packed kernels, tested against torch on shapes with tails, groups, strides and padding."""
    return tuple(_tested(name, partial(_test_backend, make)) for name, make in BACKENDS.items())


def _tested(name: str, test: Callable[[], str]) -> Finding:
    try:
        return Finding(name, test())
    except BnasError as error:
        # What a back end says of itself: its package or its device is not here.
        return Finding(name, str(error), "missing")
    except Exception as error:
        # A back end that breaks in whatever way is what this report is there to show.
        return Finding(name, f"{type(error).__name__}: {error}", "failed")


class WrongResultError(Exception):
    """A self-test's integers are not torch's."""


def _test_backend(make: Callable[[], Backend]) -> str:
    backend = make()
    groups, stride, padding, dilation = 2, (2, 1), (1, 2, 0, 1), (1, 2)
    x, w = _signs(0, 2, 66, 7, 9), _signs(1, 6, 33, 3, 3)
    top, left, bottom, right = padding
    for pad_value in (0, 1, -1):
        ours = backend.conv2d(
            pack_activations(x.numpy(), groups),
            pack_weights(w.numpy()),
            channels=66,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            pad_value=pad_value,
        )
        padded = F.pad(x, (left, right, top, bottom), value=pad_value)
        theirs = F.conv2d(padded, w, stride=stride, dilation=dilation, groups=groups).round().permute(0, 2, 3, 1)
        _must_equal(f"conv2d with padding {pad_value}", np.asarray(ours), theirs.numpy())
    a, b = _signs(2, 5, 70), _signs(3, 3, 70)
    products = np.asarray(backend.matmul(pack_matrix(a.numpy()), pack_matrix(b.numpy()), 70))
    _must_equal("matmul", products, (a @ b.T).round().numpy())
    generator = torch.Generator().manual_seed(4)
    values = torch.randint(-3, 4, (2, 66, 3, 3), generator=generator).float()
    threshold = Threshold(torch.randint(-3, 4, (66,), generator=generator).float(), torch.arange(66) % 2 == 0)
    packed = backend.threshold_pack(values.numpy(), threshold.value.numpy(), threshold.flip.numpy(), groups)
    # Compared as words: a bit set in a tail would spoil sums later.
    _must_equal("threshold_pack", np.asarray(packed), pack_activations(compare(values, threshold).numpy(), groups))
    return "conv2d, matmul and threshold_pack equal torch's integers" + (
        f" ({backend.detail})" if backend.detail else ""
    )


def _signs(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).mul(2).sub(1).float()


def _must_equal(what: str, ours: Any, theirs: Any) -> None:
    if ours.shape != theirs.shape:
        raise WrongResultError(f"{what}: shape {ours.shape} where torch has {theirs.shape}")
    wrong = int((ours != theirs).sum())
    if wrong:
        raise WrongResultError(f"{what}: {wrong} of {ours.size} values differ from torch's")


def data_sets(name: str | None, path: str | None) -> tuple[Finding, ...]:
    """The readers that need no path; with `name`, that data set read and described."""
    if name is None and path is not None:
        raise BnasError("--path needs --data: which data set lies there?")
    found = [_tested("digits", lambda: _describe_data("digits", None))]
    on_disk = [reader for reader in READERS if reader != "digits"]
    found.append(Finding("from disk", f"{', '.join(on_disk)}: try one by --data NAME --path FOLDER"))
    if name is not None:
        try:
            found.append(Finding(name, _describe_data(name, path)))
        except BnasError as error:
            found.append(Finding(name, str(error), "failed"))
    return tuple(found)


def _describe_data(name: str, path: str | None) -> str:
    data = read(name, path)
    shape = " x ".join(map(str, data.input_shape))
    text = f"{len(data.train):,} training and {len(data.test):,} test images of {shape}, {data.num_classes} classes"
    return "; ".join((text, *data.notes))


def jobs() -> tuple[Finding, ...]:
    return tuple(_job(name) for name in shipped_jobs())


def _job(name: str) -> Finding:
    try:
        job = load_job(name)
    except BnasError as error:
        return Finding(name, str(error), "failed")
    return Finding(name, f"{job.space.name} by {job.search.strategy} on {job.data.name}")
