"""The entries of a comparison: for each name in `compare` and each seed, the job that differs from the whole one."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from bnas.binary import SCHEMES
from bnas.errors import BnasError, nearest
from experiments.config import OF_COMPARISONS, Job, plain
from experiments.job_files import make_job
from strategies import STRATEGIES

# A name whose options go into every entry, before its own.
EVERY = "every"
# Options belong to what is named beside them: where the name changes they start anew.
_OPTIONS_OF = (
    (("search", "strategy"), ("search", "options")),
    (("search", "scheme"), ("search", "scheme_options")),
    (("retrain", "scheme"), ("retrain", "scheme_options")),
    (("space", "name"), ("space", "args")),
    (("space", "name"), ("search", "size")),
    (("space", "name"), ("retrain", "size")),
)
_STRATEGY, _SCHEME = ("search", "strategy"), ("search", "scheme")
Table = Mapping[str, Any]


class Entry(NamedTuple):
    """One row's share of a comparison: a name, a seed, and the job of both."""

    name: str
    seed: int
    job: Job

    @property
    def folder(self) -> str:
        return f"{self.name}-seed{self.seed}"


def entries(job: Job) -> tuple[Entry, ...]:
    """All entries, seed by seed, so that a comparison that is cut off has whole pairs.

    A bare name is that of a strategy (of the search) or of a scheme (of the retraining); `compare_options` gives a name
    of one's own its meaning, or changes what a known one means. `BnasError` for what is neither.
    """
    if not job.compare:
        raise BnasError(
            "compare is empty: name at least one strategy or scheme, such as "
            f"--set compare=[darts, random]; there are strategies {', '.join(STRATEGIES)} "
            f"and schemes {', '.join(SCHEMES)}"
        )
    doubled = sorted({name for name in job.compare if job.compare.count(name) > 1})
    if doubled:
        raise BnasError(
            f"compare: {doubled[0]} is named twice; a name of your own with compare_options tells two apart"
        )
    _check_names(job)
    base = plain(dataclasses.asdict(job))
    for key in OF_COMPARISONS:
        if key != "genotype":
            del base[key]
    seeds = range(job.seed, job.seed + job.seeds)
    return tuple(Entry(name, seed, _entry(job, base, name, seed)) for seed in seeds for name in job.compare)


def _check_names(job: Job) -> None:
    for name in job.compare_options:
        if name not in (*job.compare, EVERY):
            known = (*job.compare, EVERY)
            raise BnasError(f"compare_options: {name} is not in compare ({', '.join(known)}).{nearest(name, known)}")
        if not isinstance(job.compare_options[name], Mapping):
            raise BnasError(f"compare_options.{name}: expected a table of keys of the job")


def _entry(job: Job, base: Table, name: str, seed: int) -> Job:
    changes = _merged(
        job.compare_options.get(EVERY, {}), _merged(_meaning(job, name), job.compare_options.get(name, {}))
    )
    for key in ("seed", *OF_COMPARISONS, "plugins"):
        if key in changes:
            raise BnasError(f"compare_options.{name}: {key} is one for the whole comparison")
    try:
        return make_job(changed(base, {**changes, "seed": seed}))
    except BnasError as error:
        raise error.within(f"compare: {name}") from None


def changed(content: Table, changes: Table) -> dict[str, Any]:
    """The keys of a job with some of them changed; the options of what gets another name start anew."""
    merged = dict(content)
    for of, options in _OPTIONS_OF:
        if _at(changes, of) not in (None, _at(content, of)):
            merged = _merged(merged, {options[0]: {options[1]: None}})
    if _at(changes, _STRATEGY) is not None and _at(content, _SCHEME) == STRATEGIES[_at(content, _STRATEGY)].scheme:
        # The scheme is the old strategy's own: the new one brings its own.
        merged = _merged(merged, {"search": {"scheme": "auto"}})
    return _merged(merged, changes)


def _meaning(job: Job, name: str) -> dict[str, Any]:
    """What a bare name changes."""
    if name in STRATEGIES and name in SCHEMES:
        raise BnasError(
            f"compare: {name} is a strategy and a scheme; give it another name and say which in compare_options"
        )
    if name in STRATEGIES:
        if job.genotype is not None:
            raise BnasError(
                f"compare: {name} is a search strategy, but genotype {job.genotype} leaves nothing to search: "
                f"set genotype to null, or compare schemes"
            )
        return {"search": {"strategy": name}}
    if name in SCHEMES:
        return {"retrain": {"scheme": name}}
    if name in job.compare_options:
        return {}
    known = [*STRATEGIES, *SCHEMES]
    raise BnasError(
        f"compare: {name} is neither a strategy ({', '.join(STRATEGIES)}) nor a scheme ({', '.join(SCHEMES)}), and "
        f"compare_options does not say what it means.{nearest(name, known)}"
    )


def _at(content: Table, path: tuple[str, str]) -> Any:
    inner = content.get(path[0])
    return inner.get(path[1]) if isinstance(inner, Mapping) else None


def _merged(content: Table, changes: Table) -> dict[str, Any]:
    """`content` with the values of `changes`, tables within tables; null empties a table."""
    merged = dict(content)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
