"""An architecture as a value: named choices for the decisions that a search space leaves open."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnas.errors import BnasError

FORMAT = "bnas-genotype"
VERSION = 1
ABSENT = "absent"
# A genotype is a page of text; anything larger is not one, and is not read into memory.
LARGEST_FILE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Decision:
    """One categorical choice that a space leaves open.

    Decisions with the same `group` compete: `keep` of them survive in a genotype and the others are absent (the edges
    into one node of a cell).
    """

    name: str
    choices: tuple[str, ...]
    group: str | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        if not self.choices or len(set(self.choices)) != len(self.choices) or ABSENT in self.choices:
            raise ValueError(f"decision {self.name}: choices {self.choices} are empty, repeated or reserved")
        if (self.group is None) != (self.keep is None):
            raise ValueError(f"decision {self.name}: a group and its keep go together")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Genotype:
    """One architecture, by names, so that reordering a list of operations breaks no file.

    `space_args` are the arguments that change the space's decisions, `choices` the chosen names; both are kept sorted.
    A decision of a competing group that is not listed is absent. `SearchSpace.check` says whether it is of that space.
    """

    space: str
    space_args: tuple[tuple[str, Any], ...]
    choices: tuple[tuple[str, str], ...]

    @staticmethod
    def make(space: str, space_args: Mapping[str, Any], choices: Mapping[str, str]) -> "Genotype":
        """From plain mappings; choices named `absent` are left out."""
        kept = {name: choice for name, choice in choices.items() if choice != ABSENT}
        arguments = {name: _frozen(value) for name, value in space_args.items()}
        return Genotype(space, tuple(sorted(arguments.items())), tuple(sorted(kept.items())))

    def choice(self, decision: str) -> str:
        """The choice for that decision, `absent` when it is not kept."""
        return dict(self.choices).get(decision, ABSENT)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "space": self.space,
            "space_args": dict(self.space_args),
            "choices": dict(self.choices),
        }

    def to_json(self, about: Mapping[str, Any] | None = None) -> str:
        """Readable JSON. `about` (who found it, with which seed, its source) is carried along and means nothing."""
        content = self.to_dict()
        if about:
            content["about"] = dict(about)
        return json.dumps(content, indent=2) + "\n"

    @staticmethod
    def from_dict(content: Any) -> "Genotype":
        """Checked form of parsed JSON or YAML; `BnasError` says what is wrong with it."""
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise BnasError(f'this is not a genotype: it has no "format": "{FORMAT}"')
        version = content.get("version")
        if version != VERSION:
            raise BnasError(f"genotype of version {version!r}; this release reads version {VERSION}")
        space, arguments, choices = content.get("space"), content.get("space_args", {}), content.get("choices")
        if not isinstance(space, str):
            raise BnasError(f"genotype: 'space' is the name of a search space, got {space!r}")
        if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
            raise BnasError(f"genotype: 'space_args' is a table of names and values, got {arguments!r}")
        if not isinstance(choices, Mapping):
            raise BnasError(f"genotype: 'choices' is a table decision -> choice, got {choices!r}")
        for name, choice in choices.items():
            if not isinstance(name, str) or not isinstance(choice, str):
                raise BnasError(f"genotype: choice {name!r}: {choice!r} is not a pair of names")
        return Genotype.make(space, arguments, choices)

    @staticmethod
    def from_json(text: str) -> "Genotype":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BnasError(f"this is not a genotype: not JSON ({error})") from None
        return Genotype.from_dict(content)

    @property
    def content_digest(self) -> str:
        """16 hex digits over the choices as they stand: the key of everything that depends on shared weights."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
