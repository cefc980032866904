"""What the commands about packed networks do: export, verify, evaluate, predict. Each returns the exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bnas import atomic
from bnas.data import READERS, read
from bnas.deploy.verify import VerifyReport
from bnas.errors import BnasError
from experiments import deployment, export_command, sources
from experiments.commands import DONE
from experiments.console import Counter, facts, fail, hint, say, size, table, write_json
from experiments.export_targets import chosen_target
from experiments.genotype_formats import format_for, write_genotype
from search_spaces import space_of

DIFFERENT = 1
MOST_CLASSES_SHOWN = 10
BINARY_FORMATS = ("png",)


def export(
    source: Path,
    what: str | None,
    to: Path | None,
    format: str | None,
    round: int | None,
    check: bool,
    json_file: Path | None,
) -> int:
    chosen, to = chosen_target(what, to)
    if chosen == "genotype":
        return _export_genotype(source, to, format, round, json_file)
    if format is not None or round is not None:
        raise BnasError("--format and --round choose a genotype; add --what genotype")
    if chosen in ("onnx", "c"):
        return export_command.other(chosen, source, to, check, json_file)
    target, packed = deployment.export_packed(source, to)
    total, binary = target.stat().st_size, packed.binary_weight_bytes()
    say(f"wrote {target}: {size(total)}, of it {size(binary)} of binary weights")
    hint("next", f"bnas verify {target}")
    if json_file is not None:
        write_json(json_file, {"file": str(target), "bytes": total, "binary_weight_bytes": binary})
    return DONE


def _export_genotype(
    source: Path, to: Path | None, format: str | None, round: int | None, json_file: Path | None
) -> int:
    genotype = sources.read_genotype(source, round)
    chosen = format_for(format) if format else (format_for(to) if to is not None else "json")
    content = write_genotype(space_of(genotype), genotype, chosen)
    if to is not None:
        atomic.write_bytes(to, content)
        say(f"wrote {to}")
    elif chosen in BINARY_FORMATS and sys.stdout.isatty():
        raise BnasError(f"a terminal does not show {chosen}: name a file with --to")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    if json_file is not None:
        write_json(json_file, genotype.to_dict())
    return DONE


def verify(packed: Path, checkpoint: Path | None, backend: str | None, json_file: Path | None) -> int:
    report, what = deployment.verify_packed(packed, checkpoint, backend)
    first = [] if report.ok else [("first difference", report.first_difference)]
    facts(
        [
            ("verified", "yes" if report.ok else "no"),
            *first,
            ("layers equal", _layers_equal(report)),
            ("compared on", what),
            ("backend", report.backend),
            ("end to end: equal argmax", f"{report.argmax_equal:.2%}"),
            ("end to end: flipped signs", f"{report.sign_flips:,} of {report.signs:,}"),
            ("end to end: largest logit error", f"{report.max_logit_error:.3g}"),
        ]
    )
    if json_file is not None:
        write_json(json_file, {**report.to_dict(), "compared_on": what})
    if report.ok:
        return DONE
    fail(f"{packed} is not the trained network")
    return DIFFERENT


def _layers_equal(report: VerifyReport) -> str:
    if not report.layers:
        return "not compared, as the operations differ"
    return f"{sum(layer.equal for layer in report.layers)} of {len(report.layers)}"


def evaluate(
    networks: Sequence[Path],
    ensemble: bool,
    data: str | None,
    path: str | None,
    limit: int | None,
    backend: str | None,
    json_file: Path | None,
) -> int:
    if path is not None and data is None:
        raise BnasError(f"--path {path} needs the kind of data set: --data, one of {', '.join(READERS)}")
    if len(networks) > 1 and not ensemble:
        raise BnasError(
            f"{len(networks)} networks are evaluated together only as an ensemble: add --ensemble, or name one"
        )
    if ensemble and len(networks) < 2:
        raise BnasError("--ensemble is the mean of several networks: name two or more")
    images = read(data, path) if data else None
    with Counter("images") as counter:
        if ensemble:
            result = deployment.evaluate_ensemble(networks, images, limit, backend=backend, progress=counter)
        else:
            result = deployment.evaluate(networks[0], images, limit, backend=backend, progress=counter)
    facts(
        [
            ("accuracy", f"{result.accuracy:.4f}"),
            ("test images", f"{result.images:,}"),
            ("network", result.what),
            *([("note", result.note)] if result.note else []),
        ]
    )
    if json_file is not None:
        write_json(json_file, result.to_dict())
    return DONE


def predict(packed: Path, image: Path, resize: bool, backend: str | None, json_file: Path | None) -> int:
    result = deployment.predict(packed, image, resize=resize, backend=backend)
    probabilities = result.probabilities
    shown = list(probabilities.items())[:MOST_CLASSES_SHOWN]
    table("", ("class", "probability"), [(name, f"{p:.4f}") for name, p in shown])
    if len(shown) < len(probabilities):
        say(f"and {len(probabilities) - len(shown)} more classes")
    say(f"back end: {result.backend}")
    if json_file is not None:
        write_json(json_file, result.to_dict())
    return DONE
