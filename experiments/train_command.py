"""`bnas train`: a known network under a scheme, by the retraining that found networks have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas.data import READERS
from bnas.errors import BnasError, check_choice
from bnas.genotype import Genotype
from experiments import api
from experiments.commands import end_of_training
from experiments.config import Job, JobError
from experiments.console import facts, make_reporter
from experiments.job_files import set_up
from search_spaces import space_of
from search_spaces.fixed import Fixed
from search_spaces.published import about, names

# Ours, as are the numbers below: what a comparison of schemes on one network starts from.
EPOCHS, BATCH = 50, 128
# From this many epochs on SGD with its larger steps arrives further than Adam.
SGD_EPOCHS = 200
OPTIMIZERS: Mapping[bool, Mapping[str, Any]] = {
    False: {"optimizer": "adam", "learning_rate": 2e-3},
    True: {"optimizer": "sgd", "learning_rate": 0.1},
}
AUGMENTATION = {"crop_padding": 4, "flip": True}
# A mirrored digit is another sign, and its images have 8 pixels a side.
OF_DIGITS = {"crop_padding": 1, "flip": False}


def run(
    name: Path,
    scheme: str | None,
    data: str | None,
    path: str | None,
    settings: Sequence[str],
    run: Path | None,
    id: str | None,
    fresh: bool,
    device: str | None,
    max_minutes: float | None,
    json_file: Path | None,
    again: str,
) -> int:
    """The command; its exit code."""
    genotype = _genotype(name)
    job = training_job(
        name, genotype, scheme, data, path, [*settings, *([f"device={device}"] if device is not None else [])]
    )
    recipe = job.retrain.recipe
    space = space_of(genotype)
    read = space.read_by(genotype) if isinstance(space, Fixed) else tuple(job.retrain.size)
    facts(
        [
            ("network", f"{name.stem} (space {genotype.space})"),
            ("scheme", job.retrain.scheme),
            ("size", ", ".join(f"{key}={job.retrain.size[key]}" for key in read)),
            ("recipe", f"{recipe.epochs} epochs of {recipe.optimizer}, learning rate {recipe.learning_rate:g}"),
        ]
    )
    try:
        done = api.retrain(
            job,
            genotype,
            run or Path("runs") / name.stem,
            id=id,
            fresh=fresh,
            reporter=make_reporter("accuracy"),
            max_minutes=max_minutes,
        )
    except JobError as error:
        raise error.within(f"bnas train {name}") from None
    return end_of_training(done, json_file, again)


def _genotype(name: Path) -> Genotype:
    if not name.exists() and not name.suffix and len(name.parts) == 1:
        check_choice("network", str(name), names())
    return api.load_genotype(name)


def training_job(
    name: Path, genotype: Genotype, scheme: str | None, data: str | None, path: str | None, settings: Sequence[str] = ()
) -> Job:
    """The job of a training: the network as published, our recipe for its number of epochs, then the settings."""
    given = any(setting.split("=")[0].strip() == "data.name" for setting in settings)
    if data is None and not given:
        raise BnasError(
            f"bnas train {name}: say on which images, --data {' or '.join(READERS)}, and --path where they lie"
        )
    if path is not None and data is None:
        raise BnasError(f"--path {path} needs the kind of data set: --data, one of {', '.join(READERS)}")
    network = next(iter(about(str(name))["networks"].values())) if api.is_published(name) else {}
    own = scheme is None or scheme == network.get("scheme")
    of_images = {} if data is None else {"name": data, "path": path}

    def job(large: bool) -> Job:
        retrain: dict[str, Any] = {
            "size": dict(network.get("size", {})),
            "stages": "one",
            "augmentation": dict(OF_DIGITS if data == "digits" else AUGMENTATION),
            "recipe": {"epochs": EPOCHS, "batch_size": BATCH, "warmup_fraction": 0.05, **OPTIMIZERS[large]},
        }
        chosen = network.get("scheme") if scheme is None else scheme
        if chosen is not None:
            retrain |= {"scheme": chosen, "scheme_options": dict(network.get("scheme_options", {})) if own else {}}
        space = {"name": genotype.space, "args": dict(genotype.space_args)}
        return set_up({"data": dict(of_images), "space": space, "retrain": retrain}, f"bnas train {name}", settings)

    found = job(False)
    return job(True) if found.retrain.recipe.epochs >= SGD_EPOCHS else found
