"""SCHEMES: named ways to binarize a layer, written out in one place.

Methods that need a solver of their own are not here; this is where one plugs in. LAB: a hook of the trainer's step that keeps
`scales.Fitted.curvature` at the optimizer's second moment. INQ: its code is scheme power-of-two; a stage that freezes the
largest weights by a mask. BWHN and two-step quantization: a stage that solves layer by layer on images, by
`scales.least_squares` of the products, and writes the solution into the latent weights.
"""

import inspect
from collections.abc import Callable, Mapping

from bnas.binary.schemes import levels, signs
from bnas.binary.schemes.scheme import Scheme, SchemePacking, dithered, packing
from bnas.errors import BnasError, unknown
from bnas.registry import Registry
from bnas.strict import SPOKEN

__all__ = ["COMMON", "SCHEMES", "Scheme", "SchemePacking", "make_scheme", "packing", "scheme_options"]

SCHEMES: Registry[Callable[..., Scheme]] = Registry(
    "scheme",
    {
        "real": signs.real,
        "binary-activations": signs.binary_activations,
        "binary-weights": signs.binary_weights,
        "bnn": signs.bnn,
        "xnor": signs.xnor,
        "bireal": signs.bireal,
        "bats": signs.bats,
        "binary-dense-net": signs.binary_dense_net,
        "xnor-plus-plus": signs.xnor_plus_plus,
        "self-binarizing": signs.self_binarizing,
        "irnet": signs.irnet,
        "bnn-plus": signs.bnn_plus,
        "reactnet": signs.reactnet,
        "adabin": signs.adabin,
        "recu": signs.recu,
        "reste": signs.reste,
        "fda": signs.fda,
        "cbcn": signs.cbcn,
        "binary-connect": levels.binary_connect,
        "bwn": levels.bwn,
        "eedn": levels.eedn,
        "twn": levels.twn,
        "power-of-two": levels.power_of_two,
        "dorefa": levels.dorefa,
        "pact": levels.pact,
        "wrpn": levels.wrpn,
        "dsq": levels.dsq,
        "hwgq": levels.hwgq,
        "lqnet": levels.lqnet,
        "rebnet": levels.rebnet,
        "abcnet": levels.abcnet,
        "horq": levels.horq,
        "least-squares": levels.least_squares,
    },
)

# Options of every scheme: `stochastic` (none, weights, activations, both) draws signs in training (BNN, section 1.1).
COMMON: Mapping[str, object] = {"stochastic": "none"}


def scheme_options(name: str) -> dict[str, object]:
    """The options of a scheme with their defaults; the common ones last."""
    parameters = inspect.signature(SCHEMES[name]).parameters.values()
    return {**{parameter.name: parameter.default for parameter in parameters}, **COMMON}


def make_scheme(name: str, options: Mapping[str, object] | None = None) -> Scheme:
    """The scheme of that name with its options; an option it does not have is an error that lists those it has."""
    allowed = scheme_options(name)
    given = dict(options or {})
    for option, value in given.items():
        if option not in allowed:
            raise unknown(f"option of scheme {name}", option, allowed)
        wanted = type(allowed[option])
        if wanted is float and type(value) is int:
            given[option] = float(value)
        elif type(value) is not wanted:
            raise BnasError(
                f"scheme {name}: option {option} takes {SPOKEN.get(wanted, wanted.__name__)}, got {value!r}"
            )
    stochastic = str(given.pop("stochastic", COMMON["stochastic"]))
    made = SCHEMES[name](**given)
    return made if stochastic == "none" else dithered(made, stochastic)
