"""A trained network as its checkpoint tells it: genotype, spec, classes, normalization, weights."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnas import saved
from bnas.data import Normalization
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.rundir import RunDir, RunFiles, retraining_at
from bnas.space import NetSpec
from bnas.training.retraining import Retraining
from bnas.training.stages import binarize_deepest
from experiments.job_files import load_plugins_of
from search_spaces import space_of


@dataclass(frozen=True)
class NetworkCard:
    """What must be known of a network beside its weights, to build, feed and read it."""

    genotype: Genotype
    spec: NetSpec
    classes: tuple[str, ...]
    normalization: Normalization
    data: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "genotype": self.genotype.to_dict(),
            "spec": self.spec.to_dict(),
            "classes": list(self.classes),
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
            "data": self.data,
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "NetworkCard":
        return NetworkCard(
            Genotype.from_dict(content["genotype"]),
            NetSpec.from_dict(content["spec"]),
            tuple(str(name) for name in content["classes"]),
            Normalization(tuple(content["mean"]), tuple(content["std"])),
            str(content["data"]),
        )

    def build(self, scheme: str | None = None, options: Mapping[str, Any] | None = None) -> nn.Module:
        """The untrained network, under another scheme where one is given."""
        spec = self.spec
        if scheme is not None:
            spec = NetSpec(spec.input_shape, spec.num_classes, scheme, dict(options or {}), spec.size)
        return space_of(self.genotype).build(self.genotype, spec)


class DescribedRetraining:
    """A retraining whose checkpoint also holds the network's card, so that one file is enough to export from."""

    def __init__(self, work: Retraining, card: NetworkCard) -> None:
        self.work, self.card = work, card

    @property
    def rounds_total(self) -> int:
        return self.work.rounds_total

    @property
    def rounds_done(self) -> int:
        return self.work.rounds_done

    def run_round(self) -> Mapping[str, Any]:
        return self.work.run_round()

    def state_dict(self) -> dict[str, Any]:
        stage = self.work.stages[self.work.stage]
        card = {**self.card.to_dict(), "scheme": stage.scheme, "scheme_options": dict(stage.scheme_options)}
        card["binary_share"] = stage.binary_share
        return {**self.work.state_dict(), "network": card}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.work.load_state_dict(state)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its trained weights, in evaluation mode; `note` when it is not what a finished run would give."""

    model: nn.Module
    card: NetworkCard
    note: str | None


def load_trained(files: RunFiles) -> TrainedNetwork:
    """The network of a retraining's checkpoint, as far as it is trained."""
    found = saved.read(files, kind="retrain")
    if found is None:
        raise BnasError(f"there is no checkpoint {files.checkpoint}; `bnas retrain {files.folder.parent}` makes it")
    state = found.state
    load_plugins_of(files)
    try:
        card = NetworkCard.from_dict(state["network"])
        model = card.build(state["network"]["scheme"], state["network"]["scheme_options"])
        binarize_deepest(model, state["network"].get("binary_share", 1.0))
        weights: Mapping[str, Tensor] = state["trainer"]["ema"] or state["trainer"]["model"]
        model.load_state_dict(dict(weights))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, BnasError) as error:
        # torch lists every tensor that differs, over many lines.
        said = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
        raise BnasError(f"{files.checkpoint} does not hold a network that can be built ({said})") from error
    note = found.note
    if not found.is_finished:
        note = f"{files.checkpoint}: trained for {found.rounds_done} of {found.rounds_total} rounds"
    return TrainedNetwork(model.eval(), card, note)


def find_trained(path: Path) -> RunFiles:
    """The files of the retraining that `path` names: its folder, its checkpoint, or a run with just one."""
    if not path.exists():
        raise BnasError(f"there is no file or folder {path}")
    if path.is_file():
        return RunFiles(path.parent, path)
    if (files := retraining_at(path)) is not None:
        return files
    run = RunDir(path)
    ids = run.retrainings()
    if len(ids) == 1:
        return run.files_for_retrain(ids[0])
    if ids:
        listed = ", ".join(str(run.files_for_retrain(id).folder) for id in ids)
        raise BnasError(f"{path} has {len(ids)} retrainings: name one of {listed}")
    raise BnasError(f"{path}: there is no retrained network here; `bnas retrain {path}` makes one")
