"""Stairs: a binarizer of single numbers as comparisons, which is what a packed network makes its bits by.

Along the number x each sign of the value changes at a few edges. So the sign is the parity of how many of them x has
passed: one comparison for a sign, a few for the binary digits of a level or for the sign of a residual.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bnas.binary.binarizer import Binarizer


class Stair(NamedTuple):
    """One term: +1 where an odd number of `edges` [T] is reached (x >= edge), else -1, times a scale without dimensions.

    A `constant` term has the edge -inf.
    """

    edges: Tensor
    scale: Tensor | None
    constant: bool


@torch.no_grad()
def stairs(binarizer: Binarizer) -> tuple[Stair, ...] | None:
    """The terms of a binarizer in evaluation, in its order; None where its edges depend on the tensor.

    They are found by looking: at each edge, and between each two. A sign that starts at +1 is taken as its negative.
    """
    edges = binarizer.edges()
    if edges is None:
        return None
    edges = edges.float().unique()
    between = torch.cat([edges[:1] - 1, (edges[1:] + edges[:-1]) / 2, edges[-1:] + 1])
    terms = binarizer.terms(torch.cat([between, edges]).view(-1, 1, 1, 1))
    # An edge that belongs to what is below it is reached only by the next number.
    after = torch.nextafter(edges, torch.full_like(edges, torch.inf))
    found = []
    for term in terms:
        positive = term.sign_pm1.flatten() > 0
        inside, at = positive[: len(between)], positive[len(between) :]
        changes = inside[1:] != inside[:-1]
        reached = torch.where(at == inside[:-1], after, edges)[changes].double()
        scale = None if term.scale is None else term.scale.detach().reshape(())
        if len(reached) == 0:
            reached = edges.new_full((1,), -torch.inf, dtype=torch.float64)
            negative = not inside[0]
        else:
            negative = bool(inside[0])
        if negative:
            scale = edges.new_tensor(-1.0) if scale is None else -scale
        found.append(Stair(reached, scale, term.constant))
    return tuple(found)
