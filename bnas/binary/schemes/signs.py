"""Schemes of one sign for each weight and each activation: they differ in the estimator, the scale and what is before."""

from torch import Tensor

from bnas.binary.affine import LearnedPair, Relative, Standardized
from bnas.binary.annealed_estimators import ErrorDecay, Fourier, Power
from bnas.binary.binarizer import Binarizer
from bnas.binary.codes import SoftSign
from bnas.binary.estimators import Box, Estimator, Identity, Polynomial, SignSwish
from bnas.binary.outputs import Gamma, InputMap
from bnas.binary.pre import (
    Pre,
    Revive,
    Rotate,
    Sharpen,
    Shift,
    centre_and_clip,
    divide_by_deviation,
    standardize,
    standardize_biased,
    unchanged,
)
from bnas.binary.scales import Learned, MeanAbs, PowerOfTwo, Scale
from bnas.binary.schemes.scheme import Make, Scheme, Shape, real_activation, real_weight
from bnas.errors import BnasError, check_choice
from bnas.options import check_number


def real() -> Scheme:
    """The real-valued twin: neither weights nor activations are binarized."""
    return Scheme(real_weight, real_activation)


def binary_activations(strict: bool = False) -> Scheme:
    """Activations sign(x) with a box gradient |x| <= 1, real weights: the first stage of search and of retraining."""
    return Scheme(real_weight, lambda channels: Binarizer(Box(strict=strict)))


def binary_weights(scale_start: str = "mean_abs", strict: bool = True) -> Scheme:
    """Weights as in `bats`, real activations: the third search domain of BATS' ablation (arXiv 2003.01711)."""
    return Scheme(bats(scale_start, strict).weight, real_activation)


def bnn(weight_gradient: str = "identity") -> Scheme:
    """BNN (Courbariaux, Hubara et al. 2016, arXiv 1602.02830).

    W: sign, identity gradient (`weight_gradient: box` zeroes it beyond 1), latent weights clipped to [-1, 1] after each
    update. A: sign, gradient 1[|x| <= 1].
    """
    check_choice("weight_gradient of scheme bnn", weight_gradient, ("identity", "box"))
    estimator = Identity(window=1.0) if weight_gradient == "identity" else Box()
    return Scheme(lambda weight: Binarizer(estimator), lambda channels: Binarizer(Box()))


def xnor(weight_gradient: str = "paper", centre: bool = False, input_scale: str = "none") -> Scheme:
    """XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279).

    W: mean |W_o| sign(W), gradient g (1/n + alpha 1[|w| < 1]) as printed (`weight_gradient`: paper, exact or
    trainer). A: sign, gradient 1[|x| < 1]. `centre`: centre over input channels and clip first, as the trainer does.
    `input_scale`: `map` multiplies the output by the paper's K; the released trainer leaves it out, as `none` does.
    """
    weight = xnor_weight("xnor", weight_gradient, centre)
    check_choice("input_scale of scheme xnor", input_scale, ("none", "map"))
    if input_scale == "none":
        return Scheme(weight, lambda channels: Binarizer(Box(strict=True)))
    return Scheme(
        weight,
        lambda channels: Binarizer(Box(strict=True), scale=MeanAbs("detached", over="position")),
        lambda channels: InputMap(),
    )


def xnor_weight(scheme: str, weight_gradient: str, centre: bool) -> Make:
    """The weight binarizer of XNOR-Net and of those that took it over."""
    check_choice(f"weight_gradient of scheme {scheme}", weight_gradient, ("paper", "exact", "trainer"))
    pre: Pre = centre_and_clip if centre else unchanged
    return lambda weight: Binarizer(Box(strict=True), pre=pre, scale=MeanAbs(weight_gradient))


def bireal(weight_gradient: str = "detached") -> Scheme:
    """Bi-Real net (Liu et al. 2018, arXiv 1808.00278).

    W: mean |W_o| sign(W), gradient alpha g 1[|w| < 1] with alpha constant (`detached`, the paper) or g 1[|w| <= 1]
    (`bypass`, the released code). A: sign, gradient max(0, 2 - 2|x|).
    """
    check_choice("weight_gradient of scheme bireal", weight_gradient, ("detached", "bypass"))
    return Scheme(
        lambda weight: Binarizer(Box(strict=weight_gradient == "detached"), scale=MeanAbs(weight_gradient)),
        lambda channels: Binarizer(Polynomial()),
    )


def bats(scale_start: str = "mean_abs", strict: bool = True) -> Scheme:
    """BATS (Bulat et al. 2020, arXiv 2003.01711): sign(W), sign(A), one learned scale per output channel, box gradient.

    The scale starts at mean |W_o| (`scale_start: one`, as in the authors' released layers, is much worse). `strict`:
    the window of the gradient is |x| < 1, as released.
    """
    return Scheme(
        lambda weight: Binarizer(Box(strict=strict), scale=Learned(weight, scale_start)),
        lambda channels: Binarizer(Box(strict=strict)),
    )


def binary_dense_net(window: float = 1.3) -> Scheme:
    """BinaryDenseNet (Bethge et al. 2018, arXiv 1812.01965): sign(W) and sign(A), no scale, gradient 1[|x| <= window].

    Latent weights are clipped to the window. The paper's ResNetE takes 1.25; MeliusNet has this binarizer too.
    """
    check_number("window of scheme binary-dense-net", window, above=0)
    return Scheme(lambda weight: Binarizer(Box(window)), lambda channels: Binarizer(Box(window)))


def xnor_plus_plus(gamma: str = "channel") -> Scheme:
    """XNOR-Net++ (Bulat & Tzimiropoulos 2019, arXiv 1909.13863): sign(W), sign(A), output times a learned Gamma.

    `gamma`: channel [O], full [O, H, W], channel-map [O] x [H, W], or channel-rows-columns [O] x [H] x [W], the best one in
    the paper; all but the first tie each layer to one size of map and do not pack. Gradients 1[|x| < 1].
    """
    Gamma(1, gamma)
    box = Box(strict=True)
    return Scheme(
        lambda weight: Binarizer(box), lambda channels: Binarizer(box), lambda channels: Gamma(channels, gamma)
    )


def self_binarizing(nu_start: float = 1.0, nu_end: float = 1000.0) -> Scheme:
    """Self-Binarizing Networks (Lahoud et al. 2019, arXiv 1902.00730): tanh(nu x) for W and A, sign in evaluation.

    nu grows geometrically over the training; the gradient is the true one, and nothing is clipped. The range of nu is not
    from the paper.
    """
    check_number("nu_start of scheme self-binarizing", nu_start, above=0)
    check_number("nu_end of scheme self-binarizing", nu_end, at_least=nu_start)

    def soft() -> Binarizer:
        return Binarizer(Identity(), pre=Sharpen(nu_start, nu_end), code=SoftSign())

    return Scheme(lambda weight: soft(), lambda channels: soft())


def irnet(t_start: float = 0.1, t_end: float = 10.0) -> Scheme:
    """IR-Net (Qin et al. 2020, arXiv 1909.10788).

    W (Libra): standardized per filter, sign, times 2^round(log2 mean|u_o|). A: sign. Gradient of both (EDE):
    k t (1 - tanh(t x)^2), t from `t_start` (the paper; 0.001 in the released ResNet-20) to `t_end` geometrically.
    """
    _check_range("irnet", "t", t_start, t_end)
    return Scheme(
        lambda weight: Binarizer(ErrorDecay(t_start, t_end), pre=standardize, scale=PowerOfTwo()),
        lambda channels: Binarizer(ErrorDecay(t_start, t_end)),
    )


def _check_range(scheme: str, name: str, start: float, end: float) -> None:
    check_number(f"{name}_start of scheme {scheme}", start, above=0)
    check_number(f"{name}_end of scheme {scheme}", end, at_least=start)


def bnn_plus(beta: float = 5.0, scale: str = "none") -> Scheme:
    """BNN+ (Darabi et al. 2018, arXiv 1812.11800): sign(W), sign(A), gradient of SignSwish(`beta`) for both.

    `scale`: none, or a learned one per layer or filter, from mean |W|, towards which the paper's regularizers pull.
    """
    check_choice("scale of scheme bnn-plus", scale, ("none", "layer", "filter"))
    check_number("beta of scheme bnn-plus", beta, above=0)

    def of_weight(weight: Tensor) -> Scale:
        return Scale() if scale == "none" else Learned(weight, over=scale)

    return Scheme(
        lambda weight: Binarizer(SignSwish(beta), scale=of_weight(weight)),
        lambda channels: Binarizer(SignSwish(beta)),
    )


def reactnet() -> Scheme:
    """ReActNet (Liu et al. 2020, arXiv 2003.03488).

    W: mean |W_o| sign(W), gradient g 1[|w| <= 1]. A (RSign): sign(x + b_c) with a learned b per channel, gradient
    max(0, 2 - 2|x + b|). Its RPReLU belongs to the network.
    """
    return Scheme(
        lambda weight: Binarizer(Box(), scale=MeanAbs("bypass")),
        lambda channels: Binarizer(Polynomial(), pre=Shift(channels)),
    )


def adabin(activation: str = "paper", t_start: float = 0.1, t_end: float = 10.0) -> Scheme:
    """AdaBin (Tu et al. 2022, arXiv 2208.08084): two fitted levels for W, two learned ones for A.

    W: std_o sign((w - mean_o) / std_o) + mean_o, gradient EDE. A: alpha sign((x - beta) / alpha) + beta, gradient of
    Bi-Real net; `activation: code` multiplies the offset by alpha too, as the released code does. `t_start` 0.001 there.
    """
    check_choice("activation of scheme adabin", activation, ("paper", "code"))
    _check_range("adabin", "t", t_start, t_end)

    def of_activation(channels: int) -> Binarizer:
        pair = LearnedPair(scaled_offset=activation == "code")
        return Binarizer(Polynomial(), pre=Relative(pair), scale=pair)

    return Scheme(
        lambda weight: Binarizer(ErrorDecay(t_start, t_end), pre=standardize_biased, scale=Standardized()),
        of_activation,
    )


def recu(tau_start: float = 0.85, tau_end: float = 0.99) -> Scheme:
    """ReCU (Xu et al. 2021).

    W: standardized, clipped to a quantile tau (from `tau_start` to `tau_end`), sign, learned scale per filter, identity
    gradient. A: sign(x / std), gradient of Bi-Real net.
    """
    check_number("tau_start of scheme recu", tau_start, above=0.5, below=1)
    check_number("tau_end of scheme recu", tau_end, at_least=tau_start, below=1)
    return Scheme(
        lambda weight: Binarizer(Identity(), pre=Revive(tau_start, tau_end), scale=Learned(weight)),
        lambda channels: Binarizer(Polynomial(), pre=divide_by_deviation),
    )


def reste(order_end: float = 3.0) -> Scheme:
    """ReSTE (Wu et al. 2023): sign, gradient of |x|^(1/o), o from 1 to `order_end`; W times mean |W| of the layer.

    The scale is a constant in the backward. Latent weights are clipped to the estimator's window, 1.5.
    """
    check_number("order_end of scheme reste", order_end, at_least=1)
    return Scheme(
        lambda weight: Binarizer(Power(order_end), scale=MeanAbs("detached", over="layer")),
        lambda channels: Binarizer(Power(order_end)),
    )


def fda(terms_start: int = 9, terms_end: int = 18) -> Scheme:
    """FDA-BNN (Xu et al. 2021): sign, gradient of a Fourier series of a square wave of `terms_start` ... `terms_end` terms.

    Without the paper's noise adaptation module. W times mean |W_o| with the gradient of Bi-Real net's paper.
    """
    check_number("terms_start of scheme fda", terms_start, at_least=0, whole=True)
    check_number("terms_end of scheme fda", terms_end, at_least=terms_start, at_most=100, whole=True)

    def series() -> Estimator:
        return Fourier(terms_start, terms_end)

    return Scheme(lambda weight: Binarizer(series(), scale=MeanAbs("detached")), lambda channels: Binarizer(series()))


def cbcn(orientations: int = 4) -> Scheme:
    """CBCN (Liu et al. 2019): each learned filter in 4 (90 degrees) or 8 (45 degrees) orientations.

    W: the turned filters, sign, times mean |W| of the layer. A: sign. Gradient of Bi-Real net for both. Kernels of 1 x 1
    and linear layers are not turned. Channels in a group must be multiples of the orientations.
    """
    if orientations not in (4, 8):
        raise BnasError(f"orientations of scheme cbcn are 4 or 8, got {orientations}")

    def learned_shape(shape: Shape) -> Shape:
        filters, inputs, *kernel = shape
        if all(length == 1 for length in kernel):
            return shape
        if len(set(kernel)) != 1 or (orientations == 8 and kernel[0] != 3):
            only = "square kernels" if orientations == 4 else "3 x 3 kernels"
            raise BnasError(f"scheme cbcn with {orientations} orientations turns only {only}, found {kernel}")
        if filters % orientations or inputs % orientations:
            raise BnasError(
                f"scheme cbcn makes {orientations} orientations of each filter: filters and input channels a group must "
                f"be multiples of {orientations}, found {filters} and {inputs}"
            )
        return (filters // orientations, inputs, *kernel)

    return Scheme(
        lambda weight: Binarizer(Polynomial(), pre=Rotate(orientations), scale=MeanAbs("exact", over="layer")),
        lambda channels: Binarizer(Polynomial()),
        weight_shape=learned_shape,
    )
