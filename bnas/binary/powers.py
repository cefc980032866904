"""Powers of two: weights whose products are shifts, and the signs that they are sums of (INQ)."""

import torch
from torch import Tensor

from bnas.binary.codes import pm1, signs, wide
from bnas.binary.terms import BitTerm, Packing


class PowersOfTwo:
    """0 or +-2^n with n2 <= n <= n1, of a whole tensor: n1 = floor(log2(4/3 max|u|)), n2 = n1 + 1 - 2^(bits - 2).

    2^n stands for 3/4 2^n <= |u| < 3/2 2^n, and 2^n2 from half of itself on, below which is 0 (Zhou et al. 2017, arXiv
    1702.03044, eq. 2 to 4).

    Terms: with K = 2^(bits - 2) powers, a value is the sum of K + 1 signs times 2^n2 (1/2, 1/2, 1, 2, ..., 2^(K - 2)): its
    binary digits, and one more for 0. A weight of 2 bits packs to 2 (ternary), of 3 to 3, of 4 to 5, of 5 to 9: for more
    than 3 bits the number of the level would be smaller, but what runs are XNOR products, one for each sign.
    """

    packs = False

    def __init__(self, bits: int) -> None:
        self.powers = 2 ** (bits - 2)
        count = self.powers + 1
        self.packing = Packing(count, f"0 and {self.powers} powers of two, {signs(count)}")
        self.formula = f"nearest of 0, +-2^n to u, {self.powers} n up to log2(4/3 max|u|)"

    def lowest(self, u: Tensor) -> Tensor:
        """2^n2, a float32 scalar (float64 for float64)."""
        largest = wide(u).abs().amax()
        # frexp is exact, where a logarithm could fall to the wrong side of a whole number.
        top = torch.frexp(largest * 4 / 3).exponent - 1
        return torch.ldexp(torch.ones_like(largest), top + 1 - self.powers)

    def numbers(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u in whole multiples m of 2^n2, 0 or +-2^i, as int64; and 2^n2."""
        unit = self.lowest(u)
        doubling = torch.exp2(torch.arange(self.powers, dtype=unit.dtype, device=u.device))
        edges = torch.cat([unit.reshape(1) / 2, 0.75 * unit * doubling[1:]])
        place = torch.bucketize(u.abs().to(unit.dtype).contiguous(), edges, right=True)
        size = torch.where(place > 0, 2 ** (place - 1).clamp_min(0), 0)
        return torch.where(u < 0, -size, size), unit

    def __call__(self, u: Tensor) -> Tensor:
        m, unit = self.numbers(u)
        return (m * unit).to(u.dtype)

    def terms(self, u: Tensor) -> tuple[BitTerm, ...]:
        m, unit = self.numbers(u)
        half = (unit / 2).to(u.dtype)
        # 2 m = (2 a - (2^K - 1)) + (2 b - 1) with the digits of a and one more digit b.
        extra = (m > 0).long()
        a = m + 2 ** (self.powers - 1) - extra
        digits = [BitTerm(pm1((a >> i) % 2 == 1, u), half * 2.0**i) for i in range(self.powers)]
        return (BitTerm(pm1(extra == 1, u), half), *digits)

    def edges(self) -> Tensor | None:
        return None
