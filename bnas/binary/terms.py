"""Terms: a binarized tensor as a sum of +-1 tensors times scales, which is what XNOR products are made of.

One term is what a binary network packs to one bit an element. Several terms stand for finer levels, each exactly:
a ternary value is (s1 + s2) / 2; a level of n is one sign for each threshold, or one for each binary digit of its number;
a value of {0, 1} is (s + 1) / 2, where the 1 is a term whose signs are all +1 (`constant`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class BitTerm(NamedTuple):
    """One packable term: `sign_pm1` holds -1 and +1, `scale` broadcasts to it (None means 1).

    `constant`: every sign is +1, so that the term is an offset and its product a sum of the other operand.
    """

    sign_pm1: Tensor
    scale: Tensor | None
    constant: bool = False


class Packing(NamedTuple):
    """How a tensor packs: its number of `terms` that hold bits, 0 where it does not; `why` in a few words.

    `offset`: a constant term is added to them.
    """

    terms: int
    why: str
    offset: bool = False

    @property
    def all_terms(self) -> int:
        """Of all terms, the offset included; 0 where the tensor does not pack."""
        return self.terms + self.offset if self.terms else 0


def total(terms: Sequence[BitTerm]) -> Tensor:
    """The tensor that the terms stand for."""
    products = [term.sign_pm1 if term.scale is None else term.sign_pm1 * term.scale for term in terms]
    value = products[0]
    for product in products[1:]:
        value = value + product
    return value


def offset(like: Tensor, value: Tensor | float) -> BitTerm:
    """The same value everywhere."""
    scale = value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype, device=like.device)
    return BitTerm(torch.ones_like(like), scale, constant=True)


def scaled(terms: Sequence[BitTerm], scale: Tensor | None) -> tuple[BitTerm, ...]:
    """Every term times a scale; None is 1."""
    if scale is None:
        return tuple(terms)
    return tuple(term._replace(scale=scale if term.scale is None else term.scale * scale) for term in terms)


def attach(value: Tensor, terms: Sequence[BitTerm]) -> Tensor:
    """Let a tensor of several terms bring them along to the layer that multiplies it.

    Whatever makes another tensor of it on the way loses them, and the layer then multiplies the values themselves. The
    result lies in the order [N, C, H, W], so that to flatten it is a view; the terms lie as they did.
    """
    value = value.contiguous()
    value.bnas_terms = tuple(terms)  # type: ignore[attr-defined]
    return value


def attached(value: Tensor) -> tuple[BitTerm, ...] | None:
    """The terms that `attach` gave this very tensor, or the [N, C, H, W] of which it is the view [N, C H W]."""
    terms: tuple[BitTerm, ...] | None = getattr(value, "bnas_terms", None)
    whole = value._base
    if terms is not None or whole is None or value.dim() != 2 or len(value) != len(whole):
        return terms
    if value.numel() == whole.numel() and value.is_contiguous() and whole.is_contiguous():
        terms = getattr(whole, "bnas_terms", None)
    return None if terms is None else tuple(term._replace(sign_pm1=term.sign_pm1.flatten(1)) for term in terms)
