"""What the terminal shows: progress, tables, messages."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from bnas import atomic, plain_json
from bnas.progress import PlainReporter, Record, Reporter, Summary, numbers, readable_time

if TYPE_CHECKING:
    # It imports torch, which takes seconds; a message needs none of it.
    from bnas.cost import LayerCost, NetworkCost

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
if not console.is_terminal:
    # A file or a pipe has no edge at which a table would have to be folded.
    console.width = 1000

# A record of a retraining has the first two or three of them.
_SHOWN = ("loss", "accuracy", "val_accuracy", "parameter_free", "depth", "entropy", "sign_flips")


def say(text: str) -> None:
    """One message as it is."""
    console.print(text, markup=False, soft_wrap=not console.is_terminal)


def hint(what: str, command: str) -> None:
    """A command to type, on a line of its own without line breaks of ours, so that it can be copied."""
    console.print(f"{what}: {command}", markup=False, soft_wrap=True)


def fail(text: str) -> None:
    """An error's message."""
    errors.print(Text.assemble(("error: ", "bold red"), text), soft_wrap=not errors.is_terminal)


class _TwoLines(Progress):
    """A bar with the newest figures on a line of their own."""

    figures = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.figures:
            yield Padding(Text(self.figures, style="dim", no_wrap=True, overflow="ellipsis"), (0, 0, 0, 2))


class RichReporter:
    """A progress bar with the time left, and below it the newest metrics, the best so far and samples per second."""

    def __init__(self, best: str) -> None:
        self._summary = Summary(best)
        self._progress = _TwoLines(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("rounds{task.fields[left]}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._total = 0

    def start(self, title: str, rounds_total: int, rounds_done: int, earlier: Sequence[Record] = ()) -> None:
        for record in earlier:
            self._summary.add(record)
        self._total = rounds_total
        if rounds_done:
            say(f"{title}: goes on after round {rounds_done} of {rounds_total}")
        self._progress.start()
        self._task = self._progress.add_task(title, total=rounds_total, completed=rounds_done, left="")

    def round(self, record: Record) -> None:
        self._summary.add(record)
        self._progress.figures = "  ".join(figures(record, self._summary))
        left = self._total - record["round"]
        time = f", {readable_time(self._summary.seconds_left(left))} left" if left else ""
        if self._task is not None:
            self._progress.update(self._task, completed=record["round"], left=time)

    def message(self, text: str) -> None:
        say(text)

    def finish(self, text: str) -> None:
        self._progress.stop()
        say(text)


def figures(record: Record, summary: Summary) -> list[str]:
    """What a line of progress says of a round."""
    rate = record.get("time", {}).get("samples_per_second")
    found = [f"{key} {value:.4g}" for key, value in numbers(record, _SHOWN).items()]
    found += [summary.best_text()] if summary.best_text() else []
    return found + ([f"{rate:,.0f} images/s"] if rate is not None else [])


def make_reporter(best: str) -> Reporter:
    """A progress bar on a terminal, plain lines elsewhere."""
    return RichReporter(best) if console.is_terminal else PlainReporter(metrics=_SHOWN, best=best)


class Counter:
    """Called with (done, total); on a terminal, a bar that goes away at the end."""

    def __init__(self, what: str) -> None:
        self._progress = Progress(
            TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), console=console, transient=True
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Counter":
        if console.is_terminal:
            self._progress.start()
            self._task = self._progress.add_task("", total=None)
        return self

    def __exit__(self, *error: object) -> None:
        if self._task is not None:
            self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column is left-aligned, numbers to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    console.print(made)


def facts(rows: Sequence[tuple[str, Any]]) -> None:
    """Print what is known of one thing: names and values, both left-aligned."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(Text(name), Text(str(value)))
    console.print(made)


def write_json(path: Path, content: Any) -> None:
    """The content of a table as a file; numbers that JSON does not have become the words "nan", "inf" and "-inf"."""
    atomic.write_text(path, plain_json.dumps(content, indent=2) + "\n")
    say(f"wrote {path}")


def count(value: float) -> str:
    """A count in thousands, millions or billions: 12.3 M."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}" if value % 1 else f"{int(value)}"


def size(value: float) -> str:
    """Bytes in KiB, MiB or GiB (1,024)."""
    if value >= 2**30:
        return f"{value / 2**30:.2f} GiB"
    if value >= 2**20:
        return f"{value / 2**20:.2f} MiB"
    return f"{value / 2**10:.1f} KiB" if value >= 2**10 else f"{value:.0f} B"


def print_cost(cost: "NetworkCost") -> None:
    """The table of `bnas summary`: one line a layer that has weights, below the block it is in, and the totals."""
    columns = ("layer", "output", "real MACs", "binary MACs", "1-bit bytes", "32-bit bytes")
    made = Table(box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    block: tuple[str, ...] = ()
    for layer in cost.layers:
        if not (layer.parameters or layer.macs_real or layer.macs_binary):
            continue
        above = _block(layer.name)
        for depth, name in enumerate(above):
            if above[: depth + 1] != block[: depth + 1]:
                made.add_row(Text("  " * depth + name, style="dim"))
        block = above
        made.add_row(*_cost_row(layer, len(above)))
    totals = (cost.macs_real, cost.macs_binary)
    bytes = (cost.weight_bytes, cost.weight_bytes_real)
    made.add_row("total", "", *map(count, totals), *map(size, bytes), style="bold")
    console.print(made)
    say(
        f"{cost.parameters:,} parameters; real + binary / 64 = {count(cost.macs_effective)} MACs; "
        f"all outputs of layers together {size(cost.activation_bytes)}"
    )


def _block(name: str) -> tuple[str, ...]:
    """cells.0.edges.edge_0_2.identity.norm -> (cells.0, edges.edge_0_2.identity); what has a short name has no block."""
    parts = name.split(".")[:-1]
    return tuple(".".join(some) for some in (parts[:2], parts[2:]) if some)


def _cost_row(layer: "LayerCost", depth: int) -> tuple[str, ...]:
    return (
        f"{'  ' * depth}{layer.name.split('.')[-1]}  {layer.kind}",
        "x".join(map(str, layer.output_shape)),
        count(layer.macs_real),
        count(layer.macs_binary),
        size(layer.weight_bits / 8),
        size(layer.weight_bits_real / 8),
    )
