"""`bnas sensitivity`: which layers of a trained network must stay real, and which need not, as a table and a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from bnas.errors import BnasError
from bnas.sensitivity import PARTS, LayerSensitivity, Sensitivity, sensitivity
from experiments.console import Counter, say, table, write_json
from experiments.held_out import held_out
from experiments.network import find_trained, load_trained
from experiments.plot import SUFFIXES, save_figure

# Colours of Okabe and Ito (2008), which colour-blind readers can tell apart.
COLORS = {"weights": "#0072B2", "input": "#E69F00", "both": "#4D4D4D"}
HEADINGS = {"binary": "binary layers, made real", "real": "real layers, made binary"}


def run(checkpoint: Path, images: int, plot: Path | None, json_file: Path | None) -> int:
    """The command; its exit code."""
    if plot is not None and plot.suffix.lower() not in SUFFIXES:
        raise BnasError(f"--plot {plot}: a picture ends in {', '.join(SUFFIXES)}")
    files = find_trained(checkpoint)
    trained = load_trained(files)
    shown = held_out(files, trained.card, images)
    with Counter("layers") as counter:
        found = sensitivity(trained.model, shown.validation, shown.calibration, progress=counter)
    show(found, shown.what, trained.note)
    target = plot or files.folder / "sensitivity.png"
    save_figure(draw(found, f"{trained.card.genotype.space} under {trained.card.spec.scheme}"), target)
    say(f"wrote {target}")
    if json_file is not None:
        write_json(json_file, {"images": shown.what, "note": trained.note, **found.to_dict()})
    return 0


def show(found: Sensitivity, what: str, note: str | None) -> None:
    """Print the table of both kinds of layers."""
    say(f"accuracy {found.trained:.4f}; with norms calibrated anew {found.baseline:.4f}, which the changes are from")
    say(f"on {what}")
    say(f"the standard error of such an accuracy is {found.standard_error:.4f}: smaller changes may be chance")
    if note is not None:
        say(note)
    for was, heading in HEADINGS.items():
        rows = [layer for layer in found.layers if layer.was == was]
        if rows:
            table(
                f"\n{heading}: change of the accuracy",
                ("layer", "kind", *PARTS, "filters that are duplicates"),
                [_row(layer) for layer in rows],
            )


def _row(layer: LayerSensitivity) -> tuple[str, ...]:
    twice = "-" if layer.duplicates is None else f"{layer.duplicates} of {layer.filters}"
    return (layer.name, layer.kind, *(_change(getattr(layer, part)) for part in PARTS), twice)


def _change(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def draw(found: Sensitivity, title: str) -> Figure:
    """Bars of the change of the accuracy, layer by layer from the image on, the two kinds of layers below each other."""
    panels = {was: [layer for layer in found.layers if layer.was == was] for was in HEADINGS}
    panels = {was: rows for was, rows in panels.items() if rows}
    heights = [0.42 * len(rows) + 0.8 for rows in panels.values()]
    figure = Figure(figsize=(8, sum(heights) + 0.8), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (was, rows) in zip(grid, panels.items(), strict=True):
        for place, part in enumerate(PARTS):
            known = [(at, getattr(layer, part)) for at, layer in enumerate(rows) if getattr(layer, part) is not None]
            at = [index + 0.27 * (place - 1) for index, _ in known]
            axes.barh(at, [100 * value for _, value in known], 0.25, color=COLORS[part], label=part)
        axes.set_yticks(range(len(rows)), [f"{layer.name}  {layer.kind}" for layer in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_axisbelow(True)
        axes.axvline(0, color="#1A1A1A", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(HEADINGS[was], fontsize=10, loc="left")
    grid[-1].set_xlabel(f"change of the accuracy in points, from {100 * found.baseline:.1f} %, {found.images} images")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
