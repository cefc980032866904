"""`bnas squeeze`: the narrower architecture that a widened network's slopes ask for, as a genotype file."""

from pathlib import Path

from bnas import atomic
from experiments.console import hint, say, table, write_json
from experiments.network import find_trained, load_trained
from search_spaces import space_of
from search_spaces.squeeze import squeezed


def run(checkpoint: Path, threshold: float, to: Path | None, json_file: Path | None) -> int:
    """The command; its exit code."""
    files = find_trained(checkpoint)
    trained = load_trained(files)
    card = trained.card
    found, kept = squeezed(space_of(card.genotype), card.genotype, card.spec, trained.model, threshold)
    rows = [
        (name, card.genotype.choice(name), f"{count} of {total}", found.choice(name))
        for name, (count, total) in kept.items()
    ]
    table(f"channels with |gamma| above {threshold:g}", ("width", "was", "channels that count", "becomes"), rows)
    if trained.note is not None:
        say(trained.note)
    target = to or files.folder / "squeezed.json"
    atomic.write_text(target, found.to_json({"squeezed_from": card.genotype.content_digest, "threshold": threshold}))
    say(f"wrote {target}")
    hint("next", f"bnas retrain {target} --job {files.job}")
    if json_file is not None:
        write_json(json_file, {"threshold": threshold, "genotype": found.to_dict(), "kept": kept})
    return 0
