"""SCALE: the magnitude that multiplies a code, and what its gradient is.

A scale is a module with `value(x) -> scale` and `forward(coded, x) -> coded * scale`. Weights [O, I, kh, kw] or
[O, I] have one scale per filter o, of shape [O, 1, ...], or one per layer, of length 1 in every dimension.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bnas.binary.axes import mean_abs, named, reduced
from bnas.errors import check_choice


def mean_abs_per_filter(weight: Tensor) -> Tensor:
    """alpha_o = mean of |W| over filter o, shape [O, 1, ...]: the least-squares scale of sign(W).

    Rastegari et al. 2016, arXiv 1603.05279, eq. 6.
    """
    return mean_abs(weight, "filter")


def least_squares(code: Tensor, x: Tensor, over: str, curvature: Tensor | None = None) -> Tensor:
    """The scale a that makes sum d (x - a code)^2 smallest over each filter or layer: sum(d x c) / sum(d c^2).

    `curvature` d weighs the elements; None is 1 everywhere. A code that is 0 throughout has the scale 0.
    """
    weighted = code if curvature is None else code * curvature
    dims = reduced(x, over)
    norm = (weighted * code).sum(dim=dims, keepdim=True)
    return (weighted * x).sum(dim=dims, keepdim=True) / norm.clamp_min(torch.finfo(x.dtype).tiny)


class Scale(nn.Module):
    """No scale: the code itself. Base of the others.

    `of_pre`: the scale is a function of u = PRE(x), not of x. `formula`, `added`: for people, what multiplies the
    code, and what is added.
    """

    of_pre: ClassVar[bool] = False

    added: str = ""
    # Whether it is computed from each input, so that no packed network can have it.
    of_input: bool = False
    # Of the gradient, where it is not the chain rule.
    note: str = ""

    @property
    def formula(self) -> str:
        return ""

    def value(self, x: Tensor) -> Tensor | None:
        """The scale for the tensor x, broadcastable to it; None means 1."""
        return None

    def offset(self, x: Tensor) -> Tensor | None:
        """What is added after scaling, broadcastable to x; None means 0."""
        return None

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        """coded * value(x) + offset(x), with this scale's own gradient. Shapes: coded and x are equal."""
        return coded

    def reset(self, x: Tensor) -> None:
        """Start anew for the tensor x (a learned scale after its weight was replaced)."""


class MeanAbs(Scale):
    """alpha = mean |W_o|, or another `over` of axes.AXES; five gradients of What = alpha C(W), g = dL/dWhat, mask m:

    - `exact`: the chain rule, through alpha too: alpha m g + sign(W) / n * sum over the filter of g C;
    - `detached`: alpha is a constant: alpha m g (the form of Bi-Real net's paper);
    - `bypass`: the value is scaled, the gradient is not: m g (Bi-Real net's released code);
    - `paper`: g (1/n + alpha m), as printed in XNOR-Net (arXiv 1603.05279, section 3.1);
    - `trainer`: `paper` * n (1 - 1/I), what XNOR-Net's released trainer applies to the stored weights.
    """

    GRADIENTS: ClassVar[tuple[str, ...]] = ("exact", "detached", "bypass", "paper", "trainer")

    NOTES: ClassVar[Mapping[str, str]] = {
        "exact": "",
        "detached": "the scale a constant",
        "bypass": "passing the scale by",
        "paper": "g (1/n + scale *) as printed",
        "trainer": "n (1 - 1/I) g (1/n + scale *)",
    }

    def __init__(self, gradient: str = "exact", over: str = "filter") -> None:
        super().__init__()
        check_choice("gradient of a mean-abs scale", gradient, self.GRADIENTS)
        self.gradient, self.over = gradient, over
        self.of_input = over in ("sample", "position")
        self.note = self.NOTES[gradient]

    @property
    def formula(self) -> str:
        return f"mean{named(self.over)}|x|"

    def value(self, x: Tensor) -> Tensor:
        return mean_abs(x, self.over)

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        alpha = self.value(x)
        if self.gradient == "exact":
            return coded * alpha
        alpha = alpha.detach()
        if self.gradient == "detached":
            return coded * alpha
        if self.gradient == "bypass":
            return bypass(coded, alpha)
        n = x[0].numel()
        factor = 1.0 if self.gradient == "paper" else n * (1 - 1 / x.shape[1])
        printed: Tensor = _Printed.apply(coded, x, alpha, n, factor)
        return printed


class Fitted(Scale):
    """The least-squares scale of a code, per filter or layer, that the gradient passes by (TWN, arXiv 1605.04711).

    `curvature`: of the weight's shape, what weighs the squares; None is 1. Where a solver keeps it at the square root of
    Adam's second moment, a sign has the scale of loss-aware binarization (LAB, Hou et al. 2017, arXiv 1611.01600).
    """

    def __init__(self, code: Callable[[Tensor], Tensor], over: str, curvature: Tensor | None = None) -> None:
        super().__init__()
        self.note = "passing the scale by"
        self.code, self.over, self.curvature = code, over, curvature

    @property
    def formula(self) -> str:
        return f"a{named(self.over)} of least squares"

    def value(self, x: Tensor) -> Tensor:
        return least_squares(self.code(x), x, self.over, self.curvature)

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        return bypass(coded, self.value(x.detach()))


class PowerOfTwo(Scale):
    """2^round(log2(mean |u_o|)), a bit shift, without a gradient (IR-Net, Qin et al. 2020, arXiv 1909.10788)."""

    of_pre: ClassVar[bool] = True
    formula = "2^round(log2 mean_o|u|)"

    def value(self, x: Tensor) -> Tensor:
        mean = mean_abs_per_filter(x.detach()).clamp_min(torch.finfo(x.dtype).tiny)
        return torch.exp2(torch.log2(mean).round())

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        return coded * self.value(x)


class Constant(Scale):
    """A number that is never learned, such as BinaryConnect's H (Courbariaux et al. 2015, arXiv 1511.00363, code).

    `bypassed`: the gradient of the binary weight reaches the latent one unscaled.
    """

    def __init__(self, number: float) -> None:
        super().__init__()
        self.note = "passing the scale by"
        self.number = number

    @property
    def formula(self) -> str:
        return f"{self.number:g}"

    def value(self, x: Tensor) -> Tensor:
        return torch.full((1,) * x.dim(), self.number, dtype=x.dtype, device=x.device)

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        return bypass(coded, self.value(x))


def glorot(weight: Tensor) -> float:
    """H = sqrt(1.5 / (fan_in + fan_out)) of a weight [O, I, ...]."""
    receptive = math.prod(weight.shape[2:])
    return math.sqrt(1.5 / (weight.shape[1] * receptive + weight.shape[0] * receptive))


class Learned(Scale):
    """One learned scale per filter, [O, 1, ...], exact gradient (Bulat & Tzimiropoulos 2019, arXiv 1909.13863).

    `start`: `mean_abs` starts it at mean |W_o|; `one` at 1, as the authors' released layers do. No norm follows the
    convolution in a BATS cell, so with 1 a sum of some hundred +-1 swamps the identity beside it: much worse.
    `over` layer: one for the whole layer. `positive`: |scale| multiplies (ReBNet).
    """

    STARTS: ClassVar[tuple[str, ...]] = ("mean_abs", "one")

    def __init__(
        self, weight: Tensor, start: str = "mean_abs", *, over: str = "filter", positive: bool = False
    ) -> None:
        super().__init__()
        check_choice("start of a learned scale", start, self.STARTS)
        self.start, self.over, self.positive = start, over, positive
        self.scale = nn.Parameter(torch.ones_like(mean_abs(weight, over)))
        self.reset(weight)

    @property
    def formula(self) -> str:
        name = f"a{named(self.over)}"
        return f"|{name}|" if self.positive else name

    @torch.no_grad()
    def reset(self, x: Tensor) -> None:
        self.scale.copy_(mean_abs(x, self.over) if self.start == "mean_abs" else torch.ones_like(self.scale))

    def value(self, x: Tensor) -> Tensor:
        return self.scale.abs() if self.positive else self.scale

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        return coded * self.value(x)


def bypass(coded: Tensor, alpha: Tensor) -> Tensor:
    """coded * alpha with the gradient of coded alone."""
    bypassed: Tensor = _Bypass.apply(coded, alpha)
    return bypassed


# Forms of a weight's scale that a search may choose between.
FORMS = ("none", "mean_abs", "learned")


def make_form(form: str, weight: Tensor, own: Scale) -> Scale:
    """The scale of that form (one of FORMS) for a weight; `own`, the scheme's, where it is of this form.

    So a scheme keeps its own gradient of mean |W|; elsewhere `mean_abs` has the exact one, and `learned` starts there.
    """
    check_choice("scale form", form, FORMS)
    kinds: Mapping[str, type[Scale]] = {"none": Scale, "mean_abs": MeanAbs, "learned": Learned}
    if type(own) is kinds[form]:
        return own
    return Scale() if form == "none" else MeanAbs() if form == "mean_abs" else Learned(weight)


class MixedScale(Scale):
    """Several of FORMS in one place of a super-network.

    `chosen` says which of them count, each with its gate (None: 1); the super-network sets it for a pass.
    """

    def __init__(self, weight: Tensor, own: Scale) -> None:
        super().__init__()
        self.forms = nn.ModuleDict({form: make_form(form, weight, own) for form in FORMS})
        self.chosen: list[tuple[str, Tensor | None]] = [(FORMS[0], None)]

    def value(self, x: Tensor) -> Tensor | None:
        (form, gate), *others = self.chosen
        if gate is None and not others:
            single: Tensor | None = self.forms[form].value(x)  # type: ignore[operator]
            return single
        total = torch.zeros_like(mean_abs_per_filter(x))
        for name, weight in self.chosen:
            value = self.forms[name].value(x)  # type: ignore[operator]
            total = total + (1.0 if value is None else value) * (1.0 if weight is None else weight)
        return total

    def forward(self, coded: Tensor, x: Tensor) -> Tensor:
        terms = [self.forms[f](coded, x) if gate is None else gate * self.forms[f](coded, x) for f, gate in self.chosen]
        total: Tensor = sum(terms[1:], terms[0])
        return total

    def reset(self, x: Tensor) -> None:
        for form in self.forms.values():
            form.reset(x)  # type: ignore[operator]


class _Bypass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coded: Tensor, alpha: Tensor) -> Tensor:
        return coded * alpha

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


class _Printed(torch.autograd.Function):
    """coded * alpha whose gradient is split: alpha g to the code (its estimator adds the mask), g / n to x itself."""

    @staticmethod
    def forward(ctx: Any, coded: Tensor, x: Tensor, alpha: Tensor, n: int, factor: float) -> Tensor:
        ctx.save_for_backward(alpha)
        ctx.n, ctx.factor = n, factor
        return coded * alpha

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (alpha,) = ctx.saved_tensors
        g = grad_outputs[0] * ctx.factor
        return g * alpha, g / ctx.n, None, None, None
