"""Search spaces: what may vary in a binary network. Built on `bnas`; they know no strategy."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bnas.errors import BnasError, unknown
from bnas.genotype import Genotype
from bnas.registry import Registry
from bnas.space import SearchSpace
from bnas.strict import SPOKEN
from search_spaces.bats import Bats
from search_spaces.bnas_gist import BnasGist
from search_spaces.fixed import Fixed
from search_spaces.group_mobilenet import GroupMobileNet
from search_spaces.opened import OpenedSpace
from search_spaces.separable import BnasBeihang, CpNas, Darts
from search_spaces.widths import Widths

SPACES: Registry[Callable[..., SearchSpace]] = Registry(
    "search space",
    {
        "bats": Bats,
        "bnas_gist": BnasGist,
        "cp_nas": CpNas,
        "bnas_beihang": BnasBeihang,
        "darts": Darts,
        "widths": Widths,
        "group_mobilenet": GroupMobileNet,
        "fixed": Fixed,
    },
)


def make_space(name: str, args: Mapping[str, Any] | None = None) -> SearchSpace:
    """The space of that name; an argument it does not have is an error that lists those it has.

    `open` is an argument of every space: what `OpenedSpace` leaves open besides.
    """
    factory = SPACES[name]
    parameters = inspect.signature(factory).parameters
    # Files have lists where Python has tuples.
    args = {argument: tuple(v) if isinstance(v, list) else v for argument, v in (args or {}).items()}
    parts = args.pop("open", ())
    for argument, value in args.items():
        if argument not in parameters:
            raise unknown(f"argument of space {name}", argument, [*parameters, "open"])
        wanted = type(parameters[argument].default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise BnasError(
                f"space {name}: argument {argument} takes {SPOKEN.get(wanted, wanted.__name__)}, got {value!r}"
            )
    space = factory(**args)
    return space if parts == () else OpenedSpace(space, parts)


def space_of(genotype: Genotype) -> SearchSpace:
    """The space that a genotype names, made with its arguments; the genotype is checked against it."""
    space = make_space(genotype.space, dict(genotype.space_args))
    space.check(genotype)
    return space
