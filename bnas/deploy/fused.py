"""A packed network as prepared steps (see `fusion`): weights laid out once, buffers planned once for each number of images.

A batch runs a few images at a time, so that what lies between the steps stays in the cache.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bnas.deploy.binding import Binding, MakeBits, RunOp
from bnas.deploy.file import Packed
from bnas.deploy.fusion import Step
from bnas.deploy.prepared import MakeLayer, prepare

# Buffers are kept for this many numbers of images.
SIZES_KEPT = 4
# Most memory between the steps of images that run together. Measured with 32 MiB of third-level cache: twice as much makes
# no difference, four times as much costs some percent, and a single image at a time as much.
BYTES_AT_ONCE = 8 * 2**20


class FusedProgram:
    """Runs a packed network in fused steps.

    `run_op` runs one operation that is not fused; `make_bits` wraps words as a value.
    """

    def __init__(self, packed: Packed, layer: MakeLayer, run_op: RunOp, make_bits: MakeBits) -> None:
        self._prepared, self._run_op, self._make_bits = prepare(packed, layer), run_op, make_bits
        self._bound: OrderedDict[int, Binding] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    @property
    def steps(self) -> tuple[Step, ...]:
        return self._prepared.steps

    def __call__(self, x: Tensor) -> Tensor:
        """The program's output for x [N, C, H, W], N >= 1."""
        return self._run(x, lambda bound: bound())

    def profile(self, x: Tensor, clock: Callable[[], float]) -> list[tuple[Step, float]]:
        """One run: its steps in order, with the time that each took by `clock`."""
        spent = dict.fromkeys((step.output for step in self.steps), 0.0)

        def in_steps(binding: Binding) -> None:
            before = clock()
            for bound in binding.steps:
                bound.run()
                now = clock()
                spent[bound.step.output] += now - before
                before = now

        self._run(x, in_steps)
        return [(step, spent[step.output]) for step in self.steps]

    @torch.no_grad()
    def _run(self, x: Tensor, run: Callable[[Binding], None]) -> Tensor:
        with self._one_at_a_time:
            logits = []
            for some in x.tensor_split(-(-len(x) // self.images_at_once)):
                binding = self.binding(len(some))
                binding.input.copy_(some)
                run(binding)
                # A copy: the original lies in memory that the next run uses.
                logits.append(binding.output.clone())
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    @cached_property
    def images_at_once(self) -> int:
        """How many images run together at most."""
        return max(1, BYTES_AT_ONCE // self._prepared.bytes_of_image())

    def binding(self, N: int) -> Binding:
        """The steps for that many images."""
        bound = self._bound.get(N)
        if bound is None:
            bound = self._bound[N] = Binding(self._prepared, N, self._run_op, self._make_bits)
            if len(self._bound) > SIZES_KEPT:
                self._bound.popitem(last=False)
        return bound
