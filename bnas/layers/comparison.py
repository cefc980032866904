"""The signs of a norm's output, not yet made: a comparison that its readers take as bits or as numbers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function
from torch.utils._pytree import tree_map_only

from bnas.binary.threshold import Threshold, compare


class Comparison(Tensor):
    """`compare(x, threshold)` of x [N, C, H, W] on a CPU, one comparison a channel.

    It is made when it is asked for, once as bits for each number of groups and once as numbers. To torch it is a tensor
    of these numbers, so that any operation may read it. x must not change meanwhile.
    """

    def __new__(cls, x: Tensor, threshold: Threshold) -> "Comparison":
        made: Comparison = torch.Tensor._make_wrapper_subclass(
            cls, x.shape, strides=x.stride(), dtype=x.dtype, device=x.device
        )
        return made

    def __init__(self, x: Tensor, threshold: Threshold) -> None:
        super().__init__()
        self._x, self._threshold, self._state = x.detach(), threshold, x._version
        self._bits: dict[int, NDArray[np.uint32]] = {}
        self._numbers: Tensor | None = None

    def bits(self, groups: int) -> NDArray[np.uint32]:
        """Words [N, H, W, groups, words]."""
        from bnas.kernels.cpu import threshold_pack

        if groups not in self._bits:
            value, flip = self._threshold
            with record_function("bnas::signs_as_bits"):
                self._bits[groups] = threshold_pack(self._read().float().numpy(), value.numpy(), flip.numpy(), groups)
        return self._bits[groups]

    def numbers(self) -> Tensor:
        """+-1 in x's dtype."""
        if self._numbers is None:
            self._numbers = compare(self._read(), self._threshold)
        return self._numbers

    def forget(self) -> None:
        """As if nobody had asked yet."""
        self._bits, self._numbers = {}, None

    def _read(self) -> Tensor:
        if self._x._version != self._state:
            raise RuntimeError("the input of a comparison was changed before all of its readers had read it")
        return self._x

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        numbers = partial(tree_map_only, Comparison, Comparison.numbers)
        return func(*numbers(tuple(args)), **numbers(dict(kwargs or {})))
