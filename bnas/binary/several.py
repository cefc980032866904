"""Several: binarizers that add up several +-1 tensors, each with a scale of its own.

One generator, `parts`, gives both the value with its gradient and the terms that are packed.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from bnas.binary.axes import mean_abs, named, reduced
from bnas.binary.binarizer import Binarizer, of_input
from bnas.binary.codes import signs
from bnas.binary.estimators import Estimator, surrogate
from bnas.binary.pre import Pre, formula, points, unchanged
from bnas.binary.terms import BitTerm, Packing


class Several(Binarizer):
    """y = sum over l of scale_l sign(u_l); the parts are yielded by `parts(x)` as (signs with a gradient, scale)."""

    def __init__(self, estimator: Estimator, count: int, *, pre: Pre = unchanged) -> None:
        super().__init__(estimator, pre=pre)
        self.count = count

    @property
    def packing(self) -> Packing:
        return Packing(self.count, signs(self.count))

    @property
    def packs(self) -> bool:
        # Its scales are its own: what reads or replaces `scale` would have no effect.
        return False

    @property
    def compares(self) -> bool:
        return False

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def edges(self) -> Tensor | None:
        return None

    def signs(self, u: Tensor) -> Tensor:
        """sign(u) with the estimator's gradient."""
        return surrogate(u, self.code(u), self.estimator)

    def forward(self, x: Tensor) -> Tensor:
        products = [bits * scale for bits, scale in self.parts(x)]
        return sum(products[1:], products[0])

    def terms(self, x: Tensor) -> tuple[BitTerm, ...]:
        return tuple(BitTerm(bits.detach(), scale) for bits, scale in self.parts(x))


class Magnitudes(Protocol):
    """The scales of a residual binarizer; `formula` for people."""

    @property
    def formula(self) -> str: ...

    @property
    def over(self) -> str:
        """One of axes.AXES."""
        ...

    def __call__(self, residual: Tensor, level: int, earlier: list[Tensor]) -> Tensor:
        """Of level `level` (from 0), whose residual is given, after the scales of the earlier levels."""
        ...


class Residual(Several):
    """r_1 = PRE(x); e_l = m_l sign(r_l); r_(l+1) = r_l - e_l; y = sum of e_l. Autograd runs through the residuals.

    ReBNet (Ghasemzadeh et al. 2018, arXiv 1711.01243), HORQ (Li et al. 2017, arXiv 1708.08687), least squares
    (Pouransari et al. 2020, arXiv 2001.02786): they differ in the magnitudes m_l.
    """

    def __init__(self, estimator: Estimator, magnitudes: Magnitudes, count: int, *, pre: Pre = unchanged) -> None:
        super().__init__(estimator, count, pre=pre)
        self.magnitudes = magnitudes

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        residual, earlier = self.pre(x), list[Tensor]()
        for level in range(self.count):
            magnitude = self.magnitudes(residual, level, earlier)
            bits = self.signs(residual)
            yield bits, magnitude
            residual = residual - bits * magnitude
            earlier.append(magnitude)

    @property
    def packing(self) -> Packing:
        if self.magnitudes.over in ("sample", "position"):
            return of_input("with option input_scale: average they are constants and pack")
        return super().packing

    def edges(self) -> Tensor | None:
        """r_l = 0: all sums of +-m_1, ..., +-m_(l - 1), for each level l."""
        if self.magnitudes.over != "layer":
            return None
        nothing, earlier = torch.zeros(1), list[Tensor]()
        zeros = [nothing.double()]
        for level in range(self.count - 1):
            earlier.append(self.magnitudes(nothing, level, earlier).detach().cpu())
            zeros.append(torch.cat([zeros[-1] - earlier[-1], zeros[-1] + earlier[-1]]))
        return points(self.pre, torch.cat(zeros))

    def value_text(self) -> str:
        u = formula(self.pre)
        return f"sum of {self.count} m_l sign(r_l), r_1 = {u}, r_(l+1) = r_l - m_l sign(r_l), {self.magnitudes.formula}"


class LearnedLevels(nn.Module):
    """|g_l|, learned, from [M, ..., 1] / sum (ReBNet)."""

    formula, over = "m_l = |g_l| learned", "layer"

    def __init__(self, count: int) -> None:
        super().__init__()
        steps = torch.arange(count, 0, -1, dtype=torch.get_default_dtype())
        self.levels = nn.Parameter(steps / steps.sum())

    def forward(self, residual: Tensor, level: int, earlier: list[Tensor]) -> Tensor:
        return self.levels[level].abs()


class Greedy:
    """mean |r_l| over each filter, sample or position, without a gradient: the least-squares scale of this sign alone."""

    def __init__(self, over: str) -> None:
        self.over = over
        self.formula = f"m_l = mean{named(over)}|r_l|"

    def __call__(self, residual: Tensor, level: int, earlier: list[Tensor]) -> Tensor:
        return mean_abs(residual.detach(), self.over)


class Optimal:
    """The two scales of smallest squared error: ls-2, or with `tied` two equal ones, levels -2v, 0, 2v: ls-T.

    ls-2: sorted by |x| and split after the k smallest, of means s and l, the best pair of that split is
    v1 = (l + s) / 2, v2 = (l - s) / 2, with the squared error sum x^2 - k s^2 - (n - k) l^2; the best k wins. ls-T: the k
    smallest become 0 and the others +-2v with 2v = l, error sum x^2 - (n - k) l^2. (The released solver of arXiv
    2001.02786 looks at every third candidate only.)
    """

    def __init__(self, over: str, *, tied: bool) -> None:
        self.over, self.tied = over, tied
        self.formula = f"{'m_1 = m_2' if tied else 'm'} of least squares{named(over)}"

    def __call__(self, residual: Tensor, level: int, earlier: list[Tensor]) -> Tensor:
        if level:
            return earlier[0] if self.tied else mean_abs(residual.detach(), self.over)
        x = residual.detach()
        kept = reduced(x, self.over)
        rows = x.abs().flatten(1) if self.over != "layer" else x.abs().flatten()[None]
        return self._first(rows).reshape([1 if d in kept else length for d, length in enumerate(x.shape)]).to(x.dtype)

    def _first(self, sizes: Tensor) -> Tensor:
        """v1 of each row of sizes [R, n]."""
        n = sizes.shape[1]
        ordered = sizes.double().sort(dim=1).values
        sums = torch.cat([ordered.new_zeros(len(ordered), 1), ordered.cumsum(dim=1)], dim=1)[:, :n]
        small = torch.arange(n, device=sizes.device, dtype=torch.float64)
        large = n - small
        low = sums / small.clamp_min(1)
        high = (ordered.sum(dim=1, keepdim=True) - sums) / large
        explained = large * high.square() + (0 if self.tied else small * low.square())
        best = explained.argmax(dim=1, keepdim=True)
        chosen_low, chosen_high = low.gather(1, best), high.gather(1, best)
        # With an empty lower half one sign is already the best; the second scale is then 0 by itself.
        chosen_low = torch.where(best == 0, chosen_high, chosen_low)
        return chosen_high / 2 if self.tied else (chosen_low + chosen_high) / 2


class Averaged(nn.Module):
    """Other magnitudes in training, their moving average (decay 0.99) in evaluation: a constant for each level.

    So evaluation needs no statistics of its own input (Pouransari et al. 2020, arXiv 2001.02786, released code).
    """

    average: Tensor
    seen: Tensor

    def __init__(self, of: Magnitudes, count: int, decay: float = 0.99) -> None:
        super().__init__()
        # In evaluation, as of a layer.
        self.of, self.decay, self.over = of, decay, "layer"
        self.formula = f"{of.formula}, in evaluation their moving average"
        self.register_buffer("average", torch.zeros(count))
        self.register_buffer("seen", torch.zeros(count, dtype=torch.bool))

    def forward(self, residual: Tensor, level: int, earlier: list[Tensor]) -> Tensor:
        if not self.training:
            return self.average[level].to(residual.dtype)
        found = self.of(residual, level, earlier)
        with torch.no_grad():
            mean = found.mean().to(self.average.dtype)
            moved = self.decay * self.average[level] + (1 - self.decay) * mean
            self.average[level] = torch.where(self.seen[level], moved, mean)
            self.seen[level] = True
        return found


class Shifted(Several):
    """Signs of x at several thresholds with learned scales: sum of b_n sign(x + v_n - 1/2), for activations.

    ABC-Net (Lin et al. 2017, arXiv 1711.11294): v_n and b_n are learned; the estimator's u is x + v_n.
    """

    def __init__(self, estimator: Estimator, count: int) -> None:
        super().__init__(estimator, count)
        # Thresholds spread over the window of a unit-variance input; the paper does not say where they start.
        self.shifts = nn.Parameter(0.5 - torch.linspace(-0.5, 0.5, count) if count > 1 else torch.full((1,), 0.5))
        self.scales = nn.Parameter(torch.full((count,), 1 / count))

    def signs(self, u: Tensor) -> Tensor:
        return surrogate(u, self.code(u - 0.5), self.estimator)

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for shift, scale in zip(self.shifts, self.scales, strict=True):
            yield self.signs(x + shift), scale

    def edges(self) -> Tensor | None:
        return 0.5 - self.shifts.detach()

    def value_text(self) -> str:
        return f"sum of {self.count} b_n sign(u - 1/2), u = x + v_n"


class Bases(Several):
    """Signs of the deviation from `count` points, with scales of least squares: sum of a_i sign(x - mean + u_i std).

    ABC-Net for weights; u_i spread evenly over [-1, 1]; mean and std (divided by n) of the layer or of each filter. The
    scales a solve min |x - sum a_i B_i|^2 anew each time and have no gradient, nor have mean and std.
    """

    def __init__(self, estimator: Estimator, count: int, over: str) -> None:
        super().__init__(estimator, count)
        self.over = over
        self.points = [-1 + 2 * i / (count - 1) for i in range(count)] if count > 1 else [0.0]

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        fixed = x.detach()
        dims = reduced(x, self.over)
        mean, deviation = fixed.mean(dims, keepdim=True), fixed.var(dims, keepdim=True, correction=0).sqrt()
        bases = [self.signs(x - mean + point * deviation) for point in self.points]
        yield from zip(bases, self._scales(fixed, torch.stack(bases).detach()), strict=True)

    def _scales(self, x: Tensor, bases: Tensor) -> Tensor:
        """[M, 1, ...] or [M, O, 1, ...]: least squares of smallest norm, where two bases may be equal."""
        rows = 1 if self.over == "layer" else len(x)
        columns = bases.reshape(self.count, rows, -1).permute(1, 2, 0).double()
        gram, target = columns.mT @ columns, columns.mT @ x.reshape(rows, -1, 1).double()
        solution = (torch.linalg.pinv(gram, hermitian=True) @ target).squeeze(-1)
        scales: Tensor = solution.T.reshape(self.count, rows, *(1,) * (x.dim() - 1)).to(x.dtype)
        return scales

    def value_text(self) -> str:
        return f"sum of {self.count} a_i sign(u), u = x - mean + u_i std, a of least squares{named(self.over)}"
