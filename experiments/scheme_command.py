"""`bnas schemes`: every binarization scheme in one table, and its values and surrogate gradients as a picture."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bnas.binary import SCHEMES, make_scheme
from bnas.binary.anneal import set_progress
from bnas.binary.binarizer import Binarizer
from bnas.binary.schemes import packing, scheme_options
from bnas.errors import BnasError
from experiments.console import say, write_json
from experiments.plot import SUFFIXES, save_figure

LIMIT, POINTS, MOST_COLUMNS = 2.0, 161, 4


def described(name: str) -> dict[str, Any]:
    """What there is to say of a scheme with its default options, as values that JSON can hold."""
    scheme = make_scheme(name)
    weight = scheme.weight(torch.ones(scheme.weight_shape((8, 8, 3, 3))))
    activation = scheme.activation(8)
    found = packing(scheme)
    first, _, rest = (SCHEMES[name].__doc__ or "").strip().partition("\n")
    return {
        "name": name,
        "about": first,
        "more": textwrap.dedent(rest).strip(),
        "weights": {"value": weight.value_text(), "gradient": weight.gradient_text()},
        "activations": {"value": activation.value_text(), "gradient": activation.gradient_text()},
        "products": found.products,
        "packing": found.text,
        "options": scheme_options(name),
    }


def run(name: str | None, plot: Path | None, json_file: Path | None) -> int:
    """Print one scheme, or all; draw them; return the exit code."""
    if plot is not None and plot.suffix not in SUFFIXES:
        raise BnasError(f"--plot {plot}: a picture ends in {', '.join(SUFFIXES)}")
    names = [name] if name is not None else list(SCHEMES)
    entries = [described(each) for each in names]
    for entry in entries:
        _print(entry, whole=name is not None)
    if name is None:
        say("x: the tensor; u: what is coded. bnas schemes NAME shows the options of one.")
    if plot is not None:
        save_figure(draw(names), plot)
        say(f"wrote {plot}")
    if json_file is not None:
        write_json(json_file, {"schemes": entries})
    return 0


def _print(entry: dict[str, Any], *, whole: bool) -> None:
    say(f"{entry['name']}: {entry['about']}")
    if whole and entry["more"]:
        say(textwrap.indent(entry["more"], "  "))
    for what in ("weights", "activations"):
        say(f"  {what}: {entry[what]['value']}; gradient {entry[what]['gradient']}")
    say(f"  packs: {entry['packing']}")
    if whole:
        for option, default in entry["options"].items():
            say(f"  option {option}: {default}")
    say("")


def draw(names: Sequence[str]) -> Figure:
    """One small picture a scheme: value and surrogate gradient of weights and activations, halfway through a training."""
    columns = min(MOST_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows + 0.4), layout="constrained")
    x = torch.linspace(-LIMIT, LIMIT, POINTS)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(grid, names, strict=False):
        scheme = make_scheme(name)
        for what, color, width, binarizer, shape in (
            ("weights", "tab:blue", 2.4, scheme.weight(x[None]), (1, -1)),
            ("activations", "tab:orange", 1.2, scheme.activation(1), (1, 1, -1, 1)),
        ):
            value, gradient = curves(binarizer, x.view(shape))
            axes.plot(x, value, color=color, linewidth=width, label=f"{what}: value")
            axes.plot(x, gradient, color=color, linewidth=width, linestyle=":", label="its gradient")
        axes.set_title(name, fontsize=10)
        axes.set_ylim(-2.5, 3.5)
        axes.grid(alpha=0.3)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # Two and two, where the picture has one column only.
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 2 * columns), fontsize=9)
    figure.suptitle("values in evaluation, surrogate gradients halfway through a training", fontsize=10, wrap=True)
    return figure


def curves(binarizer: Binarizer, x: Tensor) -> tuple[list[float], list[float]]:
    """Value in evaluation, and for each point the surrogate gradient of its own value, halfway through a training.

    Where a scheme looks at the whole tensor (means, deviations), the tensor is the axis itself.
    """
    set_progress(binarizer, 0.5)
    leaf = x.clone().requires_grad_()
    y = binarizer.train()(leaf).flatten()
    gradients = [torch.autograd.grad(y[i], leaf, retain_graph=True)[0].flatten()[i].item() for i in range(len(y))]
    with torch.no_grad():
        value = binarizer.eval()(x)
    return value.flatten().tolist(), gradients
