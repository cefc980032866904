"""What the terminal shows: progress, tables, errors."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from bnas.cost import NetworkCost
from bnas.progress import PlainReporter, Record, Reporter, Summary, numbers

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class RichReporter:
    """A progress bar with the newest metrics, the best so far, samples per second and the time left."""

    def __init__(self, best: str) -> None:
        self._summary = Summary(best)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}"),
            console=console,
        )
        self._task: TaskID | None = None

    def start(self, title: str, rounds_total: int, rounds_done: int, earlier: Sequence[Record] = ()) -> None:
        for record in earlier:
            self._summary.add(record)
        if rounds_done:
            console.print(f"{title}: continues after round {rounds_done} of {rounds_total}", markup=False)
        self._progress.start()
        self._task = self._progress.add_task(title, total=rounds_total, completed=rounds_done, metrics="")

    def round(self, record: Record) -> None:
        self._summary.add(record)
        shown = [f"{key} {value:.4g}" for key, value in numbers(record, _SHOWN).items()]
        rate = record.get("time", {}).get("samples_per_second")
        shown += [f"{rate:,.0f} samples/s"] if rate is not None else []
        shown += [self._summary.best_text()] if self._summary.best_text() else []
        if self._task is not None:
            self._progress.update(self._task, completed=record["round"], metrics="  ".join(shown))

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def finish(self, text: str) -> None:
        self._progress.stop()
        console.print(text, markup=False)


_SHOWN = ("loss", "accuracy", "val_accuracy")


def make_reporter(best: str) -> Reporter:
    """A progress bar on a terminal, plain lines elsewhere."""
    return RichReporter(best) if console.is_terminal else PlainReporter(metrics=_SHOWN, best=best)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column is left-aligned, numbers to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    console.print(made)


def count(value: float) -> str:
    """A count in thousands, millions or billions: 12.3 M."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}" if value % 1 else f"{int(value)}"


def size(value: float) -> str:
    """Bytes in KiB or MiB (1,024)."""
    if value >= 2**20:
        return f"{value / 2**20:.2f} MiB"
    return f"{value / 2**10:.1f} KiB" if value >= 2**10 else f"{value:.0f} B"


def print_cost(cost: NetworkCost) -> None:
    """The table of `bnas summary`: one line a layer that has weights, then the totals."""
    columns = ("layer", "kind", "output C x H x W", "real MACs", "binary MACs", "weights at 1 bit", "at 32 bits")
    rows = [
        (
            layer.name,
            layer.kind,
            " x ".join(map(str, layer.output_shape)),
            count(layer.macs_real),
            count(layer.macs_binary),
            size(layer.weight_bits / 8),
            size(layer.weight_bits_real / 8),
        )
        for layer in cost.layers
        if layer.parameters or layer.macs_real or layer.macs_binary
    ]
    rows.append(
        (
            "total",
            f"{count(cost.parameters)} parameters",
            f"{size(cost.activation_bytes)} in all",
            count(cost.macs_real),
            count(cost.macs_binary),
            size(cost.weight_bytes),
            size(cost.weight_bytes_real),
        )
    )
    table("", columns, rows)
    console.print(f"real + binary / 64 = {count(cost.macs_total)} MACs", markup=False)
