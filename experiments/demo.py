"""`bnas demo`: the whole chain on the embedded digits, from a search to the test accuracy of a file of bits.

It proves the chain and not the search: on such images cells of pools do as well as cells of convolutions, so nothing is
claimed of the found architecture. A random one and the real-valued twin under the same recipe stand beside it.
"""

import dataclasses
from pathlib import Path
from typing import Any

from bnas.cost import measure
from bnas.genotype import Genotype
from experiments import api, deployment
from experiments.config import Job
from experiments.console import console, count, make_reporter, size, table
from experiments.job_files import load_job
from experiments.network import load_trained
from experiments.plot import draw_genotype, save_figure
from search_spaces import space_of

JOB = "digits_bats"


def run_demo(run: Path) -> dict[str, Any]:
    """Run the chain in the folder `run` and print the table; returns its content."""
    job = load_job(JOB)
    found = api.search(job, run, reporter=make_reporter("val_accuracy")).genotype
    if found is None:
        return {}
    picture = run / "genotype.png"
    save_figure(draw_genotype(space_of(found), found, title="found on digits"), picture)
    console.print(f"the genotype: {run / 'genotype.json'}, its picture: {picture}", markup=False)
    real = dataclasses.replace(job, retrain=dataclasses.replace(job.retrain, scheme="real", scheme_options={}))
    rows = [
        _train_and_measure("found", job, found, run),
        _train_and_measure("random", job, api.random_genotype(job), run),
        _train_and_measure("real twin", real, found, run),
    ]
    finished = [row for row in rows if row is not None]
    _print(finished)
    return {"networks": finished}


def _train_and_measure(name: str, job: Job, genotype: Genotype, run: Path) -> dict[str, Any] | None:
    """One row of the table; None when the training was stopped."""
    done = api.retrain(job, genotype, run, id=name.replace(" ", "-"), reporter=make_reporter("accuracy"))
    if done.outcome.status != "finished":
        return None
    trained = load_trained(done.files)
    cost = measure(trained.model, trained.card.spec.input_shape)
    row: dict[str, Any] = {
        "network": name,
        "scheme": job.retrain.scheme,
        "macs_real": cost.macs_real,
        "macs_binary": cost.macs_binary,
        "fp32_bytes": int(cost.weight_bytes_real),
        "packed_bytes": None,
        "verified": None,
        "accuracy": None,
    }
    network = done.files.folder
    if job.retrain.scheme != "real":
        network, _ = deployment.export_packed(done.files.folder)
        report, what = deployment.verify_packed(network)
        console.print(f"exported {network}, verified on {what}: {'yes' if report.ok else 'no'}", markup=False)
        row |= {"packed_bytes": network.stat().st_size, "verified": report.ok}
    row["accuracy"] = deployment.evaluate(network).accuracy
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("network", "test accuracy", "real MACs", "binary MACs", "fp32 weights", "packed file", "verified")
    yes = {True: "yes", False: "no", None: "-"}
    cells = [
        (
            f"{row['network']} ({row['scheme']})",
            f"{row['accuracy']:.4f}",
            count(row["macs_real"]),
            count(row["macs_binary"]),
            size(row["fp32_bytes"]),
            "-" if row["packed_bytes"] is None else size(row["packed_bytes"]),
            yes[row["verified"]],
        )
        for row in rows
    ]
    table("digits, 360 test images (one seed: differences of about 2 points mean nothing)", columns, cells)
