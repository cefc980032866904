"""The whole chain at its smallest: 48 images of 8x8 pixels, cells of one node, a few steps. A second on one core."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from experiments import cli
from experiments.config import Job
from experiments.job_files import make_job

# For processes of their own: what is tested here, and not what may be installed.
CHECKOUT = str(Path(__file__).parents[2])
CLASSES = ("left", "middle", "right")
SIZE = {"cells": 3, "channels": 4, "groups": 4, "shuffle_groups": 2}
# A few rounds each, of a few steps.
OPTIONS: dict[str, dict[str, Any]] = {
    "darts": {"epochs": 2, "round_steps": 2, "alpha_learning_rate": 0.05},
    "evolution": {"epochs": 1, "round_steps": 2, "population": 3, "generations": 2, "score_images": 8},
    "child_parent": {"repeats": 1, "drop": 4, "draw_steps": 1},
    "abandon": {"repeats": 1, "warmup_epochs": 1, "draw_steps": 1},
    "random": {"samples": 2, "epochs": 1, "round_steps": 2},
    "successive_halving": {"samples": 2, "eta": 2, "epochs": 1, "round_steps": 2},
}


class Said(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def write_images(path: Path, classes: tuple[str, ...] = CLASSES, side: int = 8) -> Path:
    """A bright stripe whose place is the class, in noise: 48 images to train on and 24 to test."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"classes": np.array(classes)}
    for split, count in (("train", 48), ("test", 24)):
        labels = np.arange(count) % len(classes)
        images = rng.integers(0, 60, (count, 1, side, side), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, :, 2 * label : 2 * label + 2] += 150
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def content(images: Path, **search: Any) -> dict[str, Any]:
    """A job as a file holds it; `search` replaces keys of that part."""
    strategy = search.get("strategy", "darts")
    return {
        "device": "cpu",
        "threads": 1,
        "data": {"name": "npz", "path": str(images)},
        "space": {"name": "bats", "args": {"nodes": 1}},
        "search": {"strategy": strategy, "options": OPTIONS[strategy], "size": SIZE, "batch_size": 8} | search,
        "retrain": {
            "size": SIZE | {"auxiliary": False},
            "recipe": {"epochs": 1, "batch_size": 8, "learning_rate": 4e-3},
        },
    }


def job(images: Path, **search: Any) -> Job:
    return make_job(content(images, **search))


def write_job(path: Path, values: Mapping[str, Any]) -> Path:
    # JSON is YAML, too.
    path.write_text(json.dumps(values))
    return path


def bnas(capsys: pytest.CaptureFixture[str], *words: object) -> Said:
    """The command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bnas", *map(str, words)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    out, err = capsys.readouterr()
    return Said(code or 0, out, err)


def started(*words: object, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-c", "from experiments.cli import main; main()", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": CHECKOUT}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)
