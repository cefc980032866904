"""Basis: levels that are sums of a few learned numbers, fitted to the tensor while it is trained (LQ-Net)."""

import itertools

import torch
from torch import Tensor, nn

from bnas.binary.codes import signs
from bnas.binary.terms import BitTerm, Packing, offset

# Third quartile of a standard normal distribution, from the released code.
_QUARTILE = 0.6745


class Basis(nn.Module):
    """The nearest of all sums of v_i b_i, b_i in {-1, 1} (`signed`) or {0, 1}; ties go to the lower level.

    LQ-Net (Zhang et al. 2018). The basis v is a buffer [bits, rows]: one for each filter of a weight [O, ...] (rows O), or
    one for a layer (rows 1). Each training step it moves by `rate` to the least-squares solution for the codes that it
    chose, v_ls = (B'B + d I)^-1 (B'x + d v); `ridge` d is 1e-4 in the released code and 0 in the paper.
    """

    basis: Tensor
    packs = False

    def __init__(self, bits: int, like: Tensor | None, *, signed: bool, ridge: float, rate: float = 0.1) -> None:
        super().__init__()
        self.bits, self.signed, self.ridge, self.rate = bits, signed, ridge, rate
        digits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)))
        self._codes = 2 * digits - 1 if signed else digits
        self.register_buffer("basis", self._start(1 if like is None else len(like)))
        if like is not None:
            self.reset(like)
        self.packing = Packing(bits, f"{2**bits} levels, {signs(bits)} with fitted scales", offset=not signed)
        self.formula = f"nearest sum of {bits} v_i b_i to u, b_i in {'{-1, 1}' if signed else '{0, 1}'}"

    def _start(self, rows: int) -> Tensor:
        """For an input of variance 1."""
        steps = _QUARTILE * 2 / (2**self.bits - 1) * 2.0 ** torch.arange(self.bits)
        start: Tensor = steps[:, None].repeat(1, rows)
        return start

    @torch.no_grad()
    def reset(self, u: Tensor) -> None:
        """The start for a tensor of this size: times its root mean square."""
        rows = self.basis.shape[1]
        size = u.reshape(rows, -1).square().mean(dim=1).sqrt().to(self.basis)
        self.basis.copy_(self._start(rows).to(self.basis) * (size if self.signed else 1.0))

    def levels(self) -> tuple[Tensor, Tensor]:
        """All sums in rising order [rows, 2^bits], and the codes [rows, 2^bits, bits] that they are of."""
        codes = self._codes.to(self.basis)
        sums = (codes @ self.basis).T
        ordered, order = sums.sort(dim=1)
        return ordered, codes[order]

    def _chosen(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The value of each element, [rows, n], and its code, [rows, n, bits]."""
        levels, codes = self.levels()
        edges = (levels[:, 1:] + levels[:, :-1]) / 2
        index = torch.searchsorted(edges.contiguous(), u.reshape(len(levels), -1).to(edges.dtype).contiguous())
        return levels.gather(1, index), codes.gather(1, index[..., None].expand(-1, -1, self.bits))

    def forward(self, u: Tensor) -> Tensor:
        return self._chosen(u)[0].reshape(u.shape).to(u.dtype)

    def fitted(self, u: Tensor) -> Tensor:
        """The least-squares basis for the present codes, [bits, rows]."""
        codes = self._chosen(u)[1].double()
        x = u.reshape(len(codes), -1, 1).double()
        gram = codes.mT @ codes + self.ridge * torch.eye(self.bits, dtype=torch.float64, device=u.device)
        target = codes.mT @ x + self.ridge * self.basis.T[..., None].double()
        solution: Tensor = (torch.linalg.pinv(gram, hermitian=True) @ target).squeeze(-1).T
        return solution

    @torch.no_grad()
    def observe(self, u: Tensor, value: Tensor) -> None:
        self.basis.lerp_(self.fitted(u).to(self.basis), self.rate)

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        codes = self._chosen(u)[1]
        bits = (codes if self.signed else 2 * codes - 1).to(u.dtype)
        shape = (-1, *(1,) * (u.dim() - 1))
        scales = self.basis.to(u.dtype) * (1.0 if self.signed else 0.5)
        found = [BitTerm(bits[..., i].reshape(u.shape), scales[i].reshape(shape)) for i in range(self.bits)]
        return tuple(found) if self.signed else (*found, offset(u, scales.sum(dim=0).reshape(shape)))

    def edges(self) -> Tensor | None:
        """Midpoints of a layer's levels; filters have each their own."""
        levels = self.levels()[0]
        return (levels[0, 1:] + levels[0, :-1]) / 2 if len(levels) == 1 else None


class BelowTop:
    """d = 1 where u is below the highest level of a code, else 0: behind a ReLU (LQ-Net, released code)."""

    window: float | None = None
    formula = "1[u < highest level]"

    def __init__(self, code: Basis) -> None:
        self.code = code

    def derivative(self, u: Tensor) -> Tensor:
        top = self.code.levels()[0].amax().to(u.dtype)
        return (u < top).to(u.dtype)
