"""A job: what is searched, on which data, by which strategy, and how the winner is retrained. Frozen and checked."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from bnas import strict
from bnas.binary import SCHEMES, make_scheme
from bnas.data import READERS, Augmentation, ImageSet, Normalization
from bnas.deploy.targets import TARGETS
from bnas.errors import BnasError
from bnas.options import check_number, option
from bnas.space import NetSpec, SearchSpace
from bnas.training.extra_losses import EXTRA_LOSSES, check_teacher, loss_options
from bnas.training.recipe import Recipe
from bnas.training.stages import STAGE_MODES, ListedStage, Stage, listed_stages, plan_stages
from search_spaces import SPACES, make_space
from strategies import STRATEGIES

Table = Mapping[str, Any]
T = TypeVar("T")

# torch takes any number of threads and dies of too many.
MOST_THREADS = 1024


class JobError(BnasError):
    """What a key of the job asks for cannot be had here; the message starts with the key.

    Whoever knows the file that the job was read from puts its name in front (`within`).
    """


@contextlib.contextmanager
def about(key: str) -> Iterator[None]:
    """Turn a `BnasError` of the block into a `JobError` that names `key`."""
    try:
        yield
    except BnasError as error:
        raise JobError(f"{key}: {error}") from None


def setting(default: T, help: str) -> T:
    """A field that no paper could have given: where things run and lie, not how a method works."""
    return field(default=default, metadata=_help(help))


def _help(text: str) -> Table:
    return {"help": text}


@dataclass(frozen=True)
class DataJob:
    """Which images."""

    name: str = setting("digits", f"a data set: {', '.join(READERS)}")
    path: str | None = setting(None, "folder or file that it is read from; digits need none")
    options: Table = field(default_factory=dict, metadata=_help("options of its reader"))
    train_images: int | None = setting(None, "only so many training images, the same share of each class; null: all")
    mean: tuple[float, ...] | None = setting(None, "of each channel, pixels from 0 to 1; null: of the training split")
    std: tuple[float, ...] | None = setting(None, "likewise, with mean or not at all")

    def __post_init__(self) -> None:
        if self.train_images is not None:
            check_number("train_images", self.train_images, at_least=1, whole=True)
        if (self.mean is None) != (self.std is None):
            raise BnasError("mean and std are given together, or both are computed from the training split")

    def normalization(self, train: ImageSet) -> Normalization:
        """As given, or computed from the training images."""
        if self.mean is None or self.std is None:
            return Normalization.of(train)
        given = Normalization(self.mean, self.std)
        given.check(train.shape[0])
        return given


@dataclass(frozen=True)
class SpaceJob:
    """Which architectures."""

    name: str = setting("bats", "a search space")
    args: Table = field(default_factory=dict, metadata=_help("its arguments, which change what there is to decide"))


@dataclass(frozen=True)
class SearchJob:
    """How the space is searched. `options` are the strategy's, `size` the space's."""

    strategy: str = setting("darts", f"a strategy: {', '.join(STRATEGIES)}")
    options: Table = field(default_factory=dict, metadata=_help("options of the strategy"))
    scheme: str = option(
        "auto",
        "what is binary while searching; auto: what the strategy's paper has (binary-activations, or xnor for "
        "child_parent and abandon). Scores with shared weights run on bits only where weights are binary, too",
        "paper",
    )
    scheme_options: Table = field(default_factory=dict, metadata=_help("options of the scheme"))
    size: Table = field(default_factory=dict, metadata=_help("how large the super-network is"))
    batch_size: int = option(64, "images a step, of each half", "code")
    train_fraction: float = option(0.5, "share of the training split that trains weights; the rest judges", "code")
    augmentation: Augmentation = field(default_factory=Augmentation, metadata=_help("how training images are varied"))


@dataclass(frozen=True)
class RetrainJob:
    """How a found architecture is trained from its start."""

    scheme: str = option("bats", "how weights and activations are binarized", "paper")
    scheme_options: Table = field(default_factory=dict, metadata=_help("options of the scheme"))
    size: Table = field(default_factory=dict, metadata=_help("how large the found network is built"))
    recipe: Recipe = field(default_factory=Recipe, metadata=_help("how it is trained"))
    stages: str = option(
        "auto",
        "two: real weights first; one: joint; auto: two from 100 epochs on; layerwise: binary weights in the deepest "
        "quarter of the layers, then in half, three quarters and all of them, a quarter of the epochs each",
        "ours",
        choices=STAGE_MODES,
    )
    stage_list: tuple[ListedStage, ...] = field(
        default=(),
        metadata=_help(
            "stages of your own instead: a list of {epochs, scheme, scheme_options, binary_share, weight_decay}"
        ),
    )
    first_stage_weight_decay: float = option(1e-5, "of the real weights, in the first of two stages", "ours")
    losses: Table = field(
        default_factory=dict,
        metadata=_help(
            f"extra losses and their options: {', '.join(EXTRA_LOSSES)}, such as {{kernel: {{weight: 1e-4}}}}"
        ),
    )
    init_from: str | None = option(
        None, "checkpoint or folder of a retraining to start from; a classifier of another size starts anew", "ours"
    )
    teacher: str | None = setting(
        None, "folder or checkpoint of a trained network, for the losses that learn from one; null: none"
    )
    init_from_search: bool = option(False, "start from the super-network's weights (needs equal sizes)", "ours")
    augmentation: Augmentation = field(default_factory=Augmentation, metadata=_help("how training images are varied"))
    round_steps: int = setting(0, "steps between two checkpoints; 0: an epoch, at most 200 steps")


@dataclass(frozen=True)
class Job:
    """Everything that `bnas search` and `bnas retrain` need to know."""

    seed: int = setting(0, "one seed for everything random")
    device: str = setting("auto", "auto (cuda where there is one), cpu, cuda, cuda:1")
    deterministic: bool = setting(False, "on CUDA: only operations that repeat bit for bit")
    threads: int = setting(0, "CPU threads; 0: as many as torch takes")
    plugins: tuple[str, ...] = setting((), "import paths of modules that add spaces, strategies, schemes or targets")
    deploy_target: str | None = setting(
        None, f"leave out of the space what this cannot run: {', '.join(TARGETS)}; null: nothing"
    )
    seeds: int = setting(1, "of bnas compare: how many seeds, from `seed` on, each entry has")
    compare: tuple[str, ...] = setting(
        (), "what bnas compare compares: strategies, schemes, or names of compare_options"
    )
    compare_options: Table = field(
        default_factory=dict,
        metadata=_help("of bnas compare: entry -> what differs in this job, such as {search: {options: {epochs: 5}}}"),
    )
    spaces: Table = field(
        default_factory=dict,
        metadata=_help(
            "of bnas cross: search space -> what differs in this job there, such as {search: {size: {cells: 3}}}"
        ),
    )
    genotype: str | None = setting(None, "a genotype file or published name that is trained; null: one is searched")
    data: DataJob = field(default_factory=DataJob, metadata=_help("which images"))
    space: SpaceJob = field(default_factory=SpaceJob, metadata=_help("which architectures"))
    search: SearchJob = field(default_factory=SearchJob, metadata=_help("how the space is searched"))
    retrain: RetrainJob = field(
        default_factory=RetrainJob, metadata=_help("how a found architecture is trained from its start")
    )

    def make_space(self) -> SearchSpace:
        return make_space(self.space.name, self.space.args)

    def spec(self, part: SearchJob | RetrainJob, input_shape: tuple[int, int, int], num_classes: int) -> NetSpec:
        """What the network of that part of the job is for."""
        return NetSpec(input_shape, num_classes, part.scheme, dict(part.scheme_options), dict(part.size))


# What a single search or retraining does not depend on.
OF_COMPARISONS = ("seeds", "compare", "compare_options", "spaces", "genotype")
# May differ between two starts of one run. Images and given networks may move to another folder; that they are the same
# is checked.
MAY_CHANGE = ("device", "deterministic", "data.path", "retrain.teacher", "retrain.init_from")
# Smaller values need less memory.
MEMORY_KEYS = {
    "search": ("search.batch_size", "search.size.channels", "search.size.cells"),
    "retrain": ("retrain.recipe.batch_size", "retrain.size.channels", "retrain.size.cells"),
}


def completed(job: Job) -> Job:
    """The job with every option of its strategy, space and sizes filled in; `BnasError` names a key that is wrong."""
    check_number("threads", job.threads, at_least=0, at_most=MOST_THREADS, whole=True)
    check_number("seeds", job.seeds, at_least=1, whole=True)
    check_number("search.batch_size", job.search.batch_size, at_least=1, whole=True)
    check_number("search.train_fraction", job.search.train_fraction, above=0, below=1)
    check_number("retrain.round_steps", job.retrain.round_steps, at_least=0, whole=True)
    check_number("retrain.first_stage_weight_decay", job.retrain.first_stage_weight_decay, at_least=0)
    with about("data.name"):
        READERS[job.data.name]
    if job.deploy_target is not None:
        with about("deploy_target"):
            TARGETS[job.deploy_target]
    with about("space.name"):
        SPACES[job.space.name]
    with about("space.args"):
        space = job.make_space()
    with about("search.strategy"):
        strategy = STRATEGIES[job.search.strategy]
    if job.search.scheme == "auto":
        job = dataclasses.replace(job, search=dataclasses.replace(job.search, scheme=strategy.scheme))
    options = strict.build(strategy.options, job.search.options, key="search.options")
    for name, part in (("search", job.search), ("retrain", job.retrain)):
        with about(f"{name}.scheme"):
            SCHEMES[part.scheme]
        with about(f"{name}.scheme_options"):
            # Some options are looked at only when a binarizer is made.
            scheme = make_scheme(part.scheme, part.scheme_options)
            scheme.weight(torch.ones(2, 2))
            scheme.activation(2)
    sizes = [
        strict.build(space.size_class, {**start, **part.size}, key=f"{name}.size")
        for name, part, start in (("search", job.search, {}), ("retrain", job.retrain, space.retrain_size))
    ]
    losses = loss_options(job.retrain.losses, "retrain.losses")
    with about("retrain"):
        check_teacher(losses, job.retrain.teacher is not None, "retrain.teacher")
    if job.retrain.init_from is not None and job.retrain.init_from_search:
        raise JobError("retrain.init_from: a network starts from one place; set init_from_search to false")
    with about("retrain.stage_list" if job.retrain.stage_list else "retrain.stages"):
        plan_retraining(job)
    return dataclasses.replace(
        job,
        space=dataclasses.replace(job.space, args=plain({**space.args, **job.space.args})),
        search=dataclasses.replace(job.search, options=dataclasses.asdict(options), size=dataclasses.asdict(sizes[0])),
        retrain=dataclasses.replace(
            job.retrain,
            size=dataclasses.asdict(sizes[1]),
            losses={name: dataclasses.asdict(options) for name, options in losses.items()},
        ),
    )


def plain(value: Any) -> Any:
    """With lists for tuples, as a file holds them."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def plan_retraining(job: Job) -> tuple[Stage, ...]:
    """The stages of the job's retraining."""
    part = job.retrain
    if part.stage_list:
        return listed_stages(part.stage_list, part.scheme, part.scheme_options, part.recipe.epochs)
    return plan_stages(
        part.scheme,
        part.scheme_options,
        part.recipe.epochs,
        mode=part.stages,
        first_weight_decay=part.first_stage_weight_decay,
    )


def strategy_options(job: Job) -> Any:
    """The options of the job's strategy as their dataclass."""
    return strict.build(STRATEGIES[job.search.strategy].options, job.search.options, key="search.options")


def fingerprint(job: Job, part: str) -> dict[str, Any]:
    """The flat keys that a run of that part ("search" or "retrain") depends on.

    A search with a budget depends on the size of the retraining, too: it is the cost of that network which is limited.
    """
    others = ("retrain" if part == "search" else "search", *OF_COMPARISONS)
    flat = dict(_flat(dataclasses.asdict(job), ""))
    limited = any(value is not None for key, value in flat.items() if key.startswith("search.options.budget."))
    return {
        key: value
        for key, value in flat.items()
        if key.split(".")[0] not in others or (part == "search" and limited and key.startswith("retrain.size."))
    }


def _flat(table: Table, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def resolve_device(name: str) -> torch.device:
    """The device of that name; `BnasError` says which there are when it is not one of them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name not in there:
        raise JobError(f"device: there is no '{name}' here; there is auto, {', '.join(there)}")
    return torch.device(name)
