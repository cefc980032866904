"""`bnas errors`: the forward and the gradient error of every binary layer, and of each kind of layer."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from bnas.binary_errors import DIRECTIONS, STEP, LayerErrors, binary_errors
from bnas.errors import BnasError
from experiments.console import Counter, say, table, write_json
from experiments.held_out import held_out
from experiments.network import find_trained, load_trained

MEASURED = ("forward", "forward_scaled", "delivered", "cosine")
COLUMNS = ("forward error", "at best scales", "zero nearer", "delivered", "cosine")
EXPLAINED = f"""
forward error: |y - r| / |r|, y the binary output, r that of what was binarized (the norm's output, the latent weights);
    an output of 0 has error 1, so above 1 Zeroise is nearer, unless a norm behind the layer sets the scale.
    At best scales: each channel of y times its least-squares factor.
delivered: the real change of the loss along the surrogate gradient, by a central difference, over the promised
    one; 1 is right, more means that the surrogate is too small.
cosine: between real and promised changes along {DIRECTIONS} random directions, itself uncertain by {DIRECTIONS**-0.5:.2f}.
    Steps of {STEP:g} mean |W|, training mode, statistics of the batch."""


def run(checkpoint: Path, images: int, seed: int, json_file: Path | None) -> int:
    """The command; its exit code."""
    files = find_trained(checkpoint)
    trained = load_trained(files)
    shown = held_out(files, trained.card, images)
    batch = next(shown.validation.in_order(images))
    with Counter("layers") as counter:
        found = binary_errors(trained.model, *batch, seed=seed, progress=counter)
    if not found:
        raise BnasError(f"{files.checkpoint}: the network is real-valued under scheme {trained.card.spec.scheme}")
    say(f"on {shown.what}")
    if trained.note is not None:
        say(trained.note)
    table("\nlayers", ("layer", "kind", *COLUMNS), [(each.name, each.kind, *_cells(each)) for each in found])
    kinds = by_kind(found)
    table("\nkinds of layers, medians", ("kind", "layers", *COLUMNS), [(k.kind, k.name, *_cells(k)) for k in kinds])
    say(EXPLAINED)
    if json_file is not None:
        content = {
            "images": shown.what,
            "note": trained.note,
            "seed": seed,
            "directions": DIRECTIONS,
            "step": STEP,
            "layers": [each.to_dict() for each in found],
            "kinds": [
                {"layers": int(each.name), **{k: v for k, v in each.to_dict().items() if k != "name"}} for each in kinds
            ],
        }
        write_json(json_file, content)
    return 0


def by_kind(found: Sequence[LayerErrors]) -> list[LayerErrors]:
    """The medians of each kind of layer, in the order in which they occur; the name is how many there are."""
    kinds: dict[str, list[LayerErrors]] = {}
    for each in found:
        kinds.setdefault(each.kind, []).append(each)
    return [
        LayerErrors(str(len(members)), kind, *(_median(members, key) for key in MEASURED))
        for kind, members in kinds.items()
    ]


def _median(members: Sequence[LayerErrors], key: str) -> float | None:
    values = [value for each in members if (value := getattr(each, key)) is not None]
    return statistics.median(values) if values else None


def _cells(each: LayerErrors) -> tuple[str, ...]:
    nearer = {None: "-", True: "yes", False: "no"}[each.zero_is_nearer]
    forward, scaled, delivered, cosine = (
        "-" if v is None else f"{v:.3f}" for v in (getattr(each, k) for k in MEASURED)
    )
    return forward, scaled, nearer, delivered, cosine
