"""`bnas space` as a command: what a search space holds, as tables and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas import seeding
from bnas.errors import BnasError
from experiments.console import count, facts, say, size, table, write_json
from experiments.job_files import set_up
from experiments.plot import draw_genotype, save_figure
from experiments.space_page import describe_space


def run(name: str, images: str, classes: int, settings: Sequence[str], to: Path | None, json_file: Path | None) -> int:
    """The command; its exit code."""
    shape = _shape(images)
    job = set_up({"space": {"name": name}}, f"bnas space {name}", settings)
    space = job.make_space()
    retrain = job.spec(job.retrain, shape, classes)
    page = describe_space(space, job.spec(job.search, shape, classes), retrain)
    _show(page, images, classes)
    if to is not None:
        drawn = space.random(seeding.numpy_generator(job.seed, "space-page"))
        save_figure(draw_genotype(space, drawn, title=f"{name}: an architecture drawn at random", spec=retrain), to)
        say(f"wrote {to}")
    if json_file is not None:
        write_json(json_file, page)
    return 0


def _shape(images: str) -> tuple[int, int, int]:
    parts = images.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise BnasError(f"--images {images}: expected channels x height x width, such as 3x32x32")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def _show(page: Mapping[str, Any], images: str, classes: int) -> None:
    facts(
        [
            ("space", page["space"]),
            ("architectures", f"{page['architectures']:.3g}"),
            ("arguments", ", ".join(f"{key}={value}" for key, value in page["arguments"].items()) or "none"),
            ("stays real", ", ".join(page["real_layers"]) or "nothing"),
            ("never derived", ", ".join(page["never_derived"]) or "nothing"),
        ]
    )
    table("\ndecisions", ("names", "keeps", "choices"), _decisions(page["decisions"]))
    table(
        f"\nthe network that is retrained, {images} images, {classes} classes",
        ("", "real MACs", "binary MACs", "real + binary / 64", "weights"),
        [
            (
                name,
                *(count(cost[key]) for key in ("macs_real", "macs_binary", "macs_effective")),
                size(cost["weight_bytes"]),
            )
            for name, cost in page["costs"].items()
        ],
    )


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """One row for each run of decisions that have the same choices and are kept alike."""
    rows: list[list[Any]] = []
    for decision in decisions:
        key = (decision["keeps"] or "-", ", ".join(decision["choices"]))
        if rows and rows[-1][2:] == list(key):
            rows[-1][1] = decision["name"]
        else:
            rows.append([decision["name"], decision["name"], *key])
    return [(first if first == last else f"{first} ... {last}", keeps, choices) for first, last, keeps, choices in rows]
