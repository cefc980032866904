"""What a run ran on: versions, machine, threads, device. "Exactly the same" holds where these are the same."""

import platform
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bnas


def environment() -> dict[str, Any]:
    """JSON-ready facts of this process; `cuda_device` is None where there is none."""
    has_cuda = torch.cuda.is_available()
    return {
        "bnas": bnas.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if has_cuda else None,
        "cuda_device": torch.cuda.get_device_name() if has_cuda else None,
        "host": socket.gethostname(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """ "torch 2.6.0 -> 2.13.0, threads 2 -> 8", or "" where nothing that can change a result differs."""
    keys = [key for key in now if key != "host" and before.get(key) != now[key]]
    return ", ".join(f"{key} {before.get(key)} -> {now[key]}" for key in keys)


def processor() -> str:
    """The processor's name for people, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
