"""Reference vectors of what is a closed formula: primitives of surrogate gradients, activations of the papers' networks,
one update, and the inner problems of methods whose solvers are not here (LAB, INQ, BWHN, two-step quantization, RBONN)."""

import itertools

import pytest
import torch
from torch import Tensor

from bnas.binary import Binarizer, make_scheme, sign_pm1
from bnas.binary.codes import Levels, Sign
from bnas.binary.estimators import Estimator, Identity, Polynomial, SignSwish
from bnas.binary.powers import PowersOfTwo
from bnas.binary.scales import Fitted, Learned, least_squares
from bnas.binary.schemes.scheme import Scheme, real_activation
from bnas.layers import BinaryConv2d, RPReLU
from bnas.layers.activation import Activation
from bnas.training.extra_losses import make_losses
from bnas.training.recipe import Recipe
from bnas.training.updates import clip_latent, make_optimizer
from tests.core.binary_vectors import VECTORS, G, W, X, along, close, fill, through, vector


@pytest.mark.parametrize(
    ("estimator", "method", "key"), [(Polynomial(), "BiReal", "F_poly"), (SignSwish(), "BNNplus", "ss_fwd_beta5")]
)
def test_an_estimator_is_the_derivative_of_its_paper_s_soft_sign(estimator: Estimator, method: str, key: str) -> None:
    grid = torch.linspace(-2, 2, 8001, dtype=torch.float64)
    slope = estimator.derivative(grid)
    rising = torch.cat([slope.new_zeros(1), torch.cumulative_trapezoid(slope, grid)])
    places = ((X + 2) / 4 * 8000).round().long()
    # It is 0 at 0.
    close((rising - rising[4000])[places], method, key)


def test_activations_of_the_papers_networks() -> None:
    before, slope, after = VECTORS["ReAct"]["rprelu_params"]
    activation = RPReLU(1).double()
    fill(activation, before=before, slope=slope, after=after)
    close(activation(along(X)), "ReAct", "rprelu")
    # AdaBin's Maxout starts as the PReLU that stands here in its place.
    close(Activation("prelu", 1).double().eval()(along(X)), "AdaBin", "maxout")


def test_an_update_of_binary_connect_moves_the_latent_weight_and_clips_it() -> None:
    layer = BinaryConv2d(2, 2, (1, 2), make_scheme("binary-connect")).double()
    with torch.no_grad():
        layer.weight.copy_(W)
    (layer.binarizer(layer.weight) * G).sum().backward()
    make_optimizer(layer, Recipe(optimizer="sgd", learning_rate=0.5, momentum=0.0)).step()
    clip_latent(layer)
    close(layer.weight, "BinaryConnect", "W_after_sgd_lr0_5_clip1")


def test_powers_of_two_of_inq() -> None:
    w = vector("INQ", "w")
    for key in ("b5", "b3", "b2"):
        code, expected = PowersOfTwo(int(key[1:])), VECTORS["INQ"][key]
        lowest = torch.log2(code.lowest(w))
        assert [float(lowest) + code.powers - 1, float(lowest)] == [expected["n1"], expected["n2"]]
        assert code(w).tolist() == pytest.approx(expected["q"], abs=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_powers_of_two_have_their_edges_at_three_quarters_and_are_sums_of_signs(bits: int) -> None:
    code = PowersOfTwo(bits)
    top = 2.0**3
    edges = [0.75 * top / 2**step for step in range(code.powers - 1)] + [top / 2 ** (code.powers - 1) / 2]
    above = [top / 2**step for step in range(code.powers)]
    below = [*above[1:], 0.0]
    u = torch.tensor([[1.49 * top, *edges]])
    assert code(u).flatten().tolist() == [top, *above]
    just_below = torch.nextafter(u, torch.zeros_like(u))
    assert code(just_below).flatten().tolist() == [top, *below]
    for x in (u, -just_below, torch.zeros(2, 3), torch.randn(9, 9).to(torch.bfloat16)):
        total = sum(term.sign_pm1 * term.scale for term in code.terms(x))
        assert torch.equal(total, code(x))
        assert len(code.terms(x)) == code.powers + 1


def test_a_curvature_weighs_the_scale_of_loss_aware_binarization() -> None:
    binarizer = Binarizer(Identity(), scale=Fitted(Sign(), "layer", vector("LAB", "d")))
    value, grad = through(binarizer, W, G)
    close(value, "LAB", "What")
    close(grad, "LAB", "grad_W")
    close(binarizer.scale.value(W), "LAB", "alpha")
    flat = least_squares(sign_pm1(W), W, "layer", torch.full_like(W, 0.3))
    close(flat, "LAB", "alpha_when_d_const")


def test_the_inner_problem_of_hashing_is_least_squares_on_the_products_with_the_data() -> None:
    given = VECTORS["BWHN"]
    x, w = vector("BWHN", "X"), vector("BWHN", "w")
    for index, sweep in enumerate(given["sweeps"]):
        b = torch.tensor(sweep["b"], dtype=torch.float64)
        # Coordinate descent ends where no sign that flips makes the error smaller.
        around = [b, *(b * (1 - 2 * torch.eye(3, dtype=torch.float64)[bit]) for bit in range(3))]
        assert torch.equal(b, sign_pm1(w))
        errors = [fit_error(x, x @ w, sign) for sign in around]
        assert errors[0] == min(errors), index
        assert float(least_squares(x @ b, x @ w, "layer")) == pytest.approx(sweep["a"], abs=1e-5)
        assert errors[0] == pytest.approx(sweep["err"], abs=1e-5)
    plain = make_scheme("bwn").weight(w[None])(w[None])[0]
    assert float((x @ w - x @ plain).square().sum()) == pytest.approx(given["plain_bwn_err"], abs=1e-5)


def fit_error(x: Tensor, y: Tensor, code: Tensor) -> float:
    """Squared error of a x code for y, with the a of least squares."""
    product = x @ code
    return float((y - least_squares(product, y, "layer") * product).square().sum())


def test_the_inner_problem_of_two_step_quantization_is_least_squares_over_ternary_filters() -> None:
    given = VECTORS["TSQ"]
    x, y = vector("TSQ", "X"), vector("TSQ", "y")
    codes = [torch.tensor(code, dtype=torch.float64) for code in itertools.product((-1.0, 0.0, 1.0), repeat=3)]
    best = min(codes, key=lambda code: fit_error(x, y, code) + 1e-9 * (float(least_squares(x @ code, y, "layer")) < 0))
    assert best.tolist() == given["best_ternary"]
    assert float(least_squares(x @ best, y, "layer")) == pytest.approx(given["best_alpha"], abs=1e-5)
    assert fit_error(x, y, best) == pytest.approx(given["sse"], abs=1e-5)


def test_the_bilinear_form_of_rbonn_is_a_learned_scale_of_small_signs_with_the_kernel_loss() -> None:
    """What = |a| 0.02 sign(w) with lambda / 2 |w - What|^2, lambda = 1e-4; the kernel loss has a mean over 4 weights."""

    def weight(tensor: Tensor) -> Binarizer:
        code = Levels((-0.02, 0.02), (0.0,), upper=True)
        return Binarizer(Identity(), code=code, scale=Learned(tensor, positive=True))

    layer = BinaryConv2d(2, 2, (1, 2), Scheme(weight, real_activation)).double()
    with torch.no_grad():
        layer.weight.copy_(W)
    fill(layer.binarizer, scale=VECTORS["RBONN"]["scale"])
    (loss,) = make_losses({"kernel": {"weight": 4 * 1e-4 / 2}})
    value = layer.binarizer(layer.weight)
    ((value * G).sum() + loss(layer, X, X)).backward()
    close(value, "RBONN", "out")
    close(layer.weight.grad, "RBONN", "grad_W")
    close(layer.binarizer.scale.scale.grad, "RBONN", "grad_scale_bilinear")
