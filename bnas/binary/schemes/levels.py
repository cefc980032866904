"""Schemes of more than two levels: ternary, k bits, learned bases, residual and shifted signs; and binary weights alone."""

from itertools import pairwise

from torch import Tensor

from bnas.binary.axes import mean_abs
from bnas.binary.basis import Basis, BelowTop
from bnas.binary.binarizer import Binarizer
from bnas.binary.codes import Code, Hysteresis, Levels, Sign, StochasticSign, Ternary, Uniform, step
from bnas.binary.estimators import Box, Identity, Range, Triangle
from bnas.binary.outputs import GradientQuantizer, Output
from bnas.binary.powers import PowersOfTwo
from bnas.binary.pre import ClipBetween, ClipTo, Pre, SoftStairs, TanhOverMax, clip_unit, unchanged
from bnas.binary.scales import Constant, Fitted, Learned, MeanAbs, Scale, glorot
from bnas.binary.schemes.scheme import Make, Scheme, activations, check_bits, spread
from bnas.binary.schemes.signs import xnor_weight
from bnas.binary.several import Averaged, Bases, Greedy, LearnedLevels, Magnitudes, Optimal, Residual, Shifted
from bnas.errors import check_choice
from bnas.options import check_number


def binary_connect(coding: str = "sign", magnitude: str = "one", activation: str = "relu") -> Scheme:
    """BinaryConnect (Courbariaux et al. 2015, arXiv 1511.00363): H sign(W), identity gradient, W clipped to [-H, H].

    `coding: stochastic` draws +H with probability clip((W / H + 1) / 2, 0, 1) in training and takes the sign in
    evaluation (the paper then takes real weights). `magnitude`: H is one, or glorot, sqrt(1.5 / (fan_in + fan_out)).
    A: real (`activation`: relu or none) or sign.
    """
    check_choice("coding of scheme binary-connect", coding, ("sign", "stochastic"))
    check_choice("magnitude of scheme binary-connect", magnitude, ("one", "glorot"))

    def of_weight(weight: Tensor) -> Binarizer:
        limit = 1.0 if magnitude == "one" else glorot(weight)
        code: Code = Sign() if coding == "sign" else StochasticSign(limit)
        return Binarizer(Identity(limit), code=code, scale=Scale() if limit == 1 else Constant(limit))

    return Scheme(of_weight, activations("binary-connect", activation))


def bwn(weight_gradient: str = "paper", centre: bool = False, activation: str = "relu") -> Scheme:
    """BWN (Rastegari et al. 2016, arXiv 1603.05279): the weights of scheme xnor.

    A: real (`activation`: relu or none) or sign.
    """
    return Scheme(xnor_weight("bwn", weight_gradient, centre), activations("bwn", activation))


def eedn() -> Scheme:
    """EEDN (Esser et al. 2016, arXiv 1603.08270): trinary weights with hysteresis, {0, 1} spikes.

    W: -1, 0, 1 with thresholds +-0.5, kept within 0.1 of them; identity gradient, W clipped to [-1, 1]. A: 1[x >= 0],
    gradient max(0, 1 - |x|). The numbers are recalled, not read in the paper.
    """
    return Scheme(
        lambda weight: Binarizer(Identity(1.0), pre=clip_unit, code=Hysteresis(weight)),
        lambda channels: Binarizer(Triangle(), code=step()),
        weight_start=spread,
    )


def twn(over: str = "layer", activation: str = "relu") -> Scheme:
    """TWN (Li et al. 2016, arXiv 1605.04711): 0 where |w| <= 0.7 mean |W|, else the sign, times the least-squares scale.

    `over`: threshold and scale per layer (released code) or per filter. Identity gradient.
    A: real (`activation`: relu or none) or sign.
    """
    check_choice("over of scheme twn", over, ("layer", "filter"))
    code = Ternary(lambda w: 0.7 * mean_abs(w, over), "ternary, |u| > 0.7 mean|u|")
    return Scheme(
        lambda weight: Binarizer(Identity(), code=code, scale=Fitted(code, over)), activations("twn", activation)
    )


def power_of_two(weight_bits: int = 3, activation: str = "sign") -> Scheme:
    """The weights of INQ (Zhou et al. 2017, arXiv 1702.03044): 0 or a power of two, K = 2^(`weight_bits` - 2) of them, +-.

    The largest power is that of max |W| of the layer; identity gradient. A: sign, gradient 1[|x| <= 1], or real as in the
    paper (`activation`: relu or none). INQ quantizes for good the largest weights first and trains the rest; here all are
    quantized in each step from latent weights. Packs to K + 1 signs a weight.
    """
    check_number("weight_bits of scheme power-of-two", weight_bits, at_least=2, at_most=5, whole=True)
    return Scheme(
        lambda weight: Binarizer(Identity(), code=PowersOfTwo(weight_bits)), activations("power-of-two", activation)
    )


def dorefa(weight_bits: int = 1, activation_bits: int = 2, gradient_bits: int = 0, maximum: str = "detached") -> Scheme:
    """DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160).

    W of 1 bit: mean |W| sign(W) of the layer, identity gradient; of k: 2 q_k(tanh W / (2 max|tanh W|) + 1/2) - 1 with the
    `maximum` detached (larq) or through (tensorpack: the gradient goes through it). A: q_k(clip(x, 0, 1)).
    `gradient_bits`: the gradient of each layer's output too, with noise; 0 leaves it as it is.
    """
    check_bits("dorefa", "activation_bits", activation_bits)
    check_number("gradient_bits of scheme dorefa", gradient_bits, at_least=0, at_most=16, whole=True)
    return Scheme(
        dorefa_weight("dorefa", weight_bits, maximum),
        lambda channels: unit_steps(activation_bits),
        lambda channels: GradientQuantizer(gradient_bits) if gradient_bits else Output(),
    )


def dorefa_weight(scheme: str, bits: int, maximum: str) -> Make:
    """The weight binarizer of DoReFa-Net, which PACT took over."""
    check_bits(scheme, "weight_bits", bits)
    check_choice(f"maximum of scheme {scheme}", maximum, ("detached", "through"))
    if bits == 1:
        return lambda weight: Binarizer(Identity(), scale=MeanAbs("bypass", over="layer"))
    pre = TanhOverMax(through_max=maximum == "through")
    return lambda weight: Binarizer(Identity(), pre=pre, code=Uniform(2**bits - 1, lambda: (-1.0, 1.0), "[-1, 1]"))


def unit_steps(bits: int) -> Binarizer:
    """q_k(clip(x, 0, 1)), gradient 1[0 <= x <= 1]: activations of DoReFa-Net and WRPN."""
    return Binarizer(Range(0.0, 1.0), code=Uniform(2**bits - 1, lambda: (0.0, 1.0), "[0, 1]"))


def pact(weight_bits: int = 2, activation_bits: int = 2, clip_start: float = 8.0, maximum: str = "detached") -> Scheme:
    """PACT (Choi et al. 2018): W of DoReFa-Net; A clip(x, 0, a) in 2^k - 1 steps, a learned per layer from `clip_start`.

    Gradients 1[0 <= x < a] to x and 1[x >= a] to a. The paper adds an L2 penalty on a.
    """
    check_bits("pact", "activation_bits", activation_bits)
    check_number("clip_start of scheme pact", clip_start, above=0)

    def of_activation(channels: int) -> Binarizer:
        clip = ClipTo(clip_start)
        return Binarizer(Identity(), pre=clip, code=Uniform(2**activation_bits - 1, clip.bounds, "[0, a]"))

    return Scheme(dorefa_weight("pact", weight_bits, maximum), of_activation)


def wrpn(weight_bits: int = 2, activation_bits: int = 2) -> Scheme:
    """WRPN (Mishra et al. 2018, arXiv 1709.01134).

    W: clip(w, -1, 1) in 2^(k-1) - 1 steps on each side of 0 (2 bits: ternary), gradient 1[|w| <= 1]; of 1 bit, as BWN.
    A: clip(x, 0, 1) in 2^k - 1 steps. The paper's networks are 2 or 3 times as wide.
    """
    check_bits("wrpn", "weight_bits", weight_bits)
    check_bits("wrpn", "activation_bits", activation_bits)
    steps = 2 * (2 ** (weight_bits - 1) - 1)

    def of_activation(channels: int) -> Binarizer:
        return unit_steps(activation_bits)

    if weight_bits == 1:
        return Scheme(xnor_weight("wrpn", "paper", False), of_activation)
    return Scheme(
        lambda weight: Binarizer(Box(), code=Uniform(steps, lambda: (-1.0, 1.0), "[-1, 1]")),
        of_activation,
        weight_start=spread,
    )


def dsq(weight_bits: int = 1, activation_bits: int = 1, sharpness: float = 0.2) -> Scheme:
    """DSQ (Gong et al. 2019, arXiv 1908.05033): equal steps between learned bounds, gradient of smooth stairs.

    W and A: bounds from -1 and 1 (the paper does not say), `sharpness` a learned per tensor.
    """
    check_bits("dsq", "weight_bits", weight_bits)
    check_bits("dsq", "activation_bits", activation_bits)
    check_number("sharpness of scheme dsq", sharpness, above=0, below=0.5)

    def stairs(bits: int) -> Binarizer:
        pre = SoftStairs(2**bits - 1, -1.0, 1.0, sharpness)
        return Binarizer(Identity(), pre=pre, code=Uniform(2**bits - 1, pre.bounds, "[l, u]", ties_up=True))

    return Scheme(lambda weight: stairs(weight_bits), lambda channels: stairs(activation_bits))


# Optimal levels of the positive half of a unit Gaussian, from the paper.
_HALF_WAVE = {"uniform": (0.0, 0.538, 1.076, 1.614), "nonuniform": (0.0, 0.453, 1.51)}


def hwgq(levels: str = "uniform") -> Scheme:
    """HWGQ (Cai et al. 2017, arXiv 1702.00953): W of BWN with identity gradient; A the nearest of fixed levels of a half wave.

    A: 0 for x <= 0; `levels` uniform {0.538, 1.076, 1.614} or nonuniform {0.453, 1.51}; gradient 1[0 < x <= top].
    """
    check_choice("levels of scheme hwgq", levels, tuple(_HALF_WAVE))
    values = _HALF_WAVE[levels]
    # Between 0 and the first level there is no midpoint: everything above 0 has a level.
    edges = (0.0, *((a + b) / 2 for a, b in pairwise(values[1:])))
    return Scheme(
        lambda weight: Binarizer(Identity(), scale=MeanAbs("bypass")),
        lambda channels: Binarizer(Range(0.0, values[-1], open_low=True), code=Levels(values, edges)),
    )


def lqnet(weight_bits: int = 1, activation_bits: int = 2, ridge: float = 1e-4) -> Scheme:
    """LQ-Net (Zhang et al. 2018, arXiv 1807.10029): the nearest sum of a basis that follows the data in training.

    W: a basis per filter, codes {-1, 1}, identity gradient. A: a basis per layer, codes {0, 1}, gradient 1[x < top], behind
    max(x, 0). `ridge` 1e-4 towards the old basis as in the released code; 0 is the paper's least squares.
    """
    check_bits("lqnet", "weight_bits", weight_bits)
    check_bits("lqnet", "activation_bits", activation_bits)
    check_number("ridge of scheme lqnet", ridge, at_least=0)

    def of_activation(channels: int) -> Binarizer:
        code = Basis(activation_bits, None, signed=False, ridge=ridge)
        return Binarizer(BelowTop(code), pre=ClipBetween(0.0), code=code)

    return Scheme(
        lambda weight: Binarizer(Identity(), code=Basis(weight_bits, weight.detach(), signed=True, ridge=ridge)),
        of_activation,
    )


def rebnet(levels: int = 2) -> Scheme:
    """ReBNet (Ghasemzadeh et al. 2018, arXiv 1711.01243): A the sum of `levels` residual signs with learned scales.

    W: |g| sign(W), g learned per layer, gradient 1[|w| <= 1], W clipped. Gradients go through residuals and scales.
    """
    check_number("levels of scheme rebnet", levels, at_least=1, at_most=8, whole=True)
    return Scheme(
        lambda weight: Binarizer(Box(), scale=Learned(weight, over="layer", positive=True)),
        lambda channels: Residual(Box(), LearnedLevels(levels), levels),
    )


def abcnet(weight_bases: int = 5, activation_bases: int = 5, over: str = "layer") -> Scheme:
    """ABC-Net (Lin et al. 2017, arXiv 1711.11294): W and A as sums of signs at several thresholds.

    W: signs of W - mean + u_i std with scales of least squares, identity gradient through each sign, `over` the layer or
    each filter. A: sum of b_n sign(x + v_n - 1/2), v and b learned, gradient 1[0 <= x + v <= 1]. From a real network.
    """
    check_choice("over of scheme abcnet", over, ("layer", "filter"))
    check_number("weight_bases of scheme abcnet", weight_bases, at_least=1, at_most=8, whole=True)
    check_number("activation_bases of scheme abcnet", activation_bases, at_least=1, at_most=8, whole=True)
    return Scheme(
        lambda weight: Bases(Identity(), weight_bases, over),
        lambda channels: Shifted(Range(0.0, 1.0), activation_bases),
    )


def horq(order: int = 2, input_scale: str = "sample") -> Scheme:
    """HORQ (Li et al. 2017, arXiv 1708.08687): W of XNOR-Net, A a residual of `order` signs with scales mean |r|.

    The paper has a scale for each column that a filter reads. Here it is one of each `sample` (the same in a linear layer)
    or of each `position`, which do not pack, as each input has its own; or with `input_scale: average` a moving average in
    evaluation, as in scheme least-squares, which packs. Gradient 1[|x| <= 1].
    """
    check_number("order of scheme horq", order, at_least=1, at_most=8, whole=True)
    check_choice("input_scale of scheme horq", input_scale, ("sample", "position", "average"))

    def of_activation(channels: int) -> Binarizer:
        average = input_scale == "average"
        greedy = Greedy("sample" if average else input_scale)
        return Residual(Box(), Averaged(greedy, order) if average else greedy, order)

    return Scheme(xnor_weight("horq", "paper", False), of_activation)


LEAST_SQUARES = ("ls-1", "gf-2", "gf-3", "gf-4", "ls-2", "ls-T")


def least_squares(
    weights: str = "ls-1", activations: str = "ls-2", clip: float = 2.0, input_scale: str = "sample"
) -> Scheme:
    """Least-squares binary quantization (Pouransari et al. 2020, arXiv 2001.02786); scales carry no gradient.

    ls-1: mean |x| sign(x); gf-k: greedily on the residual, k times; ls-2: the two scales of smallest error; ls-T: two equal
    ones (-2v, 0, 2v). W per filter. A behind clip(x, -`clip`, `clip`), per `sample`, or with `input_scale: average` by
    moving averages in evaluation. Gradient 1[|x| <= 1] of every sign.
    """
    check_choice("weights of scheme least-squares", weights, LEAST_SQUARES)
    check_choice("activations of scheme least-squares", activations, LEAST_SQUARES)
    check_choice("input_scale of scheme least-squares", input_scale, ("sample", "average"))
    check_number("clip of scheme least-squares", clip, above=0)

    def residual(method: str, over: str, pre: Pre = unchanged) -> Residual:
        count = 1 if method == "ls-1" else 2 if method.startswith("ls") else int(method[3:])
        greedy = method == "ls-1" or method.startswith("gf")
        magnitudes: Magnitudes = Greedy(over) if greedy else Optimal(over, tied=method == "ls-T")
        if over == "sample" and input_scale == "average":
            magnitudes = Averaged(magnitudes, count)
        return Residual(Box(), magnitudes, count, pre=pre)

    def of_weight(weight: Tensor) -> Binarizer:
        single = weights == "ls-1"
        return Binarizer(Box(), scale=MeanAbs("detached")) if single else residual(weights, "filter")

    return Scheme(
        of_weight,
        lambda channels: residual(activations, "sample", ClipBetween(-clip, clip)),
    )
