"""What a table of measured steps predicts for an architecture, beside what its network takes here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnas import seeding
from bnas.deploy.file import Packed
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.latency import LatencyTable, Timing, packed_for
from bnas.profiling import conditions, differing, time_network
from experiments.assembly import prepare_torch, read_data
from experiments.config import Job, strategy_options

# Of the whole network, after a search.
RUNS = 50


class Builder:
    """Packed networks of a job's retraining, with random weights: times do not depend on them."""

    def __init__(self, job: Job) -> None:
        data = read_data(job)
        self.space = job.make_space()
        self._spec = job.spec(job.retrain, data.input_shape, data.num_classes)

    def __call__(self, genotype: Genotype) -> Packed:
        with seeding.borrowed(0, "profile"):
            return packed_for(self.space.build(genotype, self._spec), self._spec)


@dataclass(frozen=True)
class Comparison:
    """Predicted microseconds of one image, the sum of `steps` steps, and measured ones, or why there are none.

    `estimated`: how many of the steps are not in the table, so that the step most like each stands for it.
    """

    predicted_us: float
    steps: int
    estimated: int
    backend: str
    measured: Timing | None
    why_not: str = ""

    def facts(self) -> list[tuple[str, Any]]:
        estimated = f", {self.estimated} of them not in the table, but one with the same convolution"
        parts = f"the sum of {self.steps} steps{estimated if self.estimated else ''}"
        rows = [("latency, predicted", f"{self.predicted_us:.0f} us, {parts}")]
        if self.measured is None:
            return [*rows, ("latency, measured", self.why_not)]
        m = self.measured
        return [
            *rows,
            ("latency, measured", f"{m.median_us:.0f} +- {m.spread_us:.0f} us, median and half of the middle 50 % of "
             f"{m.runs} runs, one image, back end {self.backend}"),
            ("predicted / measured", f"{self.predicted_us / m.median_us:.2f}"),
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        m = self.measured
        return {
            "predicted_us": self.predicted_us,
            "steps": self.steps,
            "estimated_steps": self.estimated,
            "measured_us": None if m is None else m.median_us,
            "measured_spread_us": None if m is None else m.spread_us,
            "runs": 0 if m is None else m.runs,
            "backend": self.backend,
            "why_not_measured": self.why_not or None,
        }


def compare(packed: Packed, table: LatencyTable, where: str, runs: int) -> Comparison:
    """The network under the table, and by `runs` runs of it where the table was measured under the same conditions."""
    predicted, backend = table.of(packed, where), str(table.about.get("backend"))
    keys = table.keys(packed)
    counts = keys.total(), sum(count for key, count in keys.items() if table.row(key) != key)
    difference = differing(table.about, conditions(backend))
    if difference:
        return Comparison(predicted, *counts, backend, None, f"not here: {where} was measured otherwise ({difference})")
    return Comparison(predicted, *counts, backend, time_network(packed, backend, runs))


def of_winner(job: Job, genotype: Genotype) -> tuple[Sequence[tuple[str, Any]], dict[str, Any]]:
    """Rows and JSON on the latency of what a search found, under `latency`; empty where no table is in play."""
    budget = getattr(strategy_options(job), "budget", None)
    if budget is None or budget.latency_table is None:
        return [], {}
    prepare_torch(job)
    try:
        table = LatencyTable.load(Path(budget.latency_table))
        found = compare(Builder(job)(genotype), table, budget.latency_table, RUNS)
    except BnasError as error:
        # The search is done, and its answer stands.
        return [("latency", f"not compared: {error}")], {"latency": {"problem": str(error)}}
    return found.facts(), {"latency": found.to_dict()}
