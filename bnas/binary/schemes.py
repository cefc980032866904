"""SCHEMES: named pairs of binarizers, one for weights and one for activations. A new method is a few lines here."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from bnas.binary.binarizer import Binarizer, Real
from bnas.binary.estimators import Box, Identity, Polynomial
from bnas.binary.pre import centre_and_clip, unchanged
from bnas.binary.scales import Learned, MeanAbs
from bnas.errors import BnasError, check_choice, unknown
from bnas.registry import Registry


@dataclass(frozen=True)
class Scheme:
    """How a layer's weights and the activations in front of it become +-1.

    `weight(W)` makes the binarizer of the weight tensor W [O, I, ...] (a learned scale starts from its values);
    `activation(C)` that of activations with C channels, [N, C, ...].
    """

    weight: Callable[[Tensor], Binarizer]
    activation: Callable[[int], Binarizer]


def _real_activation(channels: int) -> Binarizer:
    return Real()


def _real_weight(weight: Tensor) -> Binarizer:
    return Real()


def real() -> Scheme:
    """The real-valued twin: neither weights nor activations are binarized."""
    return Scheme(_real_weight, _real_activation)


def binary_activations(strict: bool = False) -> Scheme:
    """Activations sign(x) with a box gradient |x| <= 1, real weights: the first stage of search and of retraining."""
    return Scheme(_real_weight, lambda channels: Binarizer(Box(strict=strict)))


def binary_weights(scale_start: str = "mean_abs", strict: bool = True) -> Scheme:
    """Weights as in `bats`, real activations: the third search domain of BATS' ablation (arXiv 2003.01711)."""
    return Scheme(bats(scale_start, strict).weight, _real_activation)


def bnn(weight_gradient: str = "identity") -> Scheme:
    """BNN (Courbariaux, Hubara et al. 2016, arXiv 1602.02830).

    W: sign, identity gradient (`weight_gradient: box` zeroes it beyond 1), latent weights clipped to [-1, 1] after each
    update. A: sign, gradient 1[|x| <= 1].
    """
    check_choice("weight_gradient of scheme bnn", weight_gradient, ("identity", "box"))
    estimator = Identity(window=1.0) if weight_gradient == "identity" else Box()
    return Scheme(lambda weight: Binarizer(estimator), lambda channels: Binarizer(Box()))


def xnor(weight_gradient: str = "paper", centre: bool = False) -> Scheme:
    """XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279), without the input scale map K, as its released trainer.

    W: mean |W_o| sign(W), gradient g (1/n + alpha 1[|w| < 1]) as printed (`weight_gradient`: paper, exact or
    trainer). A: sign, gradient 1[|x| < 1]. `centre`: centre over input channels and clip first, as the trainer does.
    """
    check_choice("weight_gradient of scheme xnor", weight_gradient, ("paper", "exact", "trainer"))
    pre = centre_and_clip if centre else unchanged
    return Scheme(
        lambda weight: Binarizer(Box(strict=True), pre=pre, scale=MeanAbs(weight_gradient)),
        lambda channels: Binarizer(Box(strict=True)),
    )


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


SCHEMES: Registry[Callable[..., Scheme]] = Registry(
    "scheme",
    {
        "real": real,
        "binary-activations": binary_activations,
        "binary-weights": binary_weights,
        "bnn": bnn,
        "xnor": xnor,
        "bireal": bireal,
        "bats": bats,
    },
)


def make_scheme(name: str, options: Mapping[str, object] | None = None) -> Scheme:
    """The scheme of that name with its options; an option it does not have is an error that lists those it has."""
    factory = SCHEMES[name]
    parameters = inspect.signature(factory).parameters
    for option, value in (options or {}).items():
        if option not in parameters:
            raise unknown(f"option of scheme {name}", option, parameters)
        wanted = type(parameters[option].default)
        if type(value) is not wanted:
            raise BnasError(f"scheme {name}: option {option} takes a {wanted.__name__}, got {value!r}")
    return factory(**(options or {}))
