"""CODE: the values that a tensor may take, without a gradient."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bnas.binary.sign import sign_pm1


class Code(Protocol):
    """A function u -> value of equal shape. `levels` names the values; `packs`: one bit a value, +1 or -1."""

    @property
    def packs(self) -> bool: ...

    def __call__(self, u: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Sign:
    """+1 where u >= 0, else -1."""

    packs: bool = True

    def __call__(self, u: Tensor) -> Tensor:
        return sign_pm1(u)
