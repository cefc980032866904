"""Every option of every scheme changes something, and what cannot be has a message."""

import pytest
import torch
from torch.nn.parameter import is_lazy

from bnas.binary import SCHEMES, make_scheme
from bnas.binary.anneal import set_progress
from bnas.binary.schemes import COMMON, scheme_options
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from tests.contracts.test_schemes import numbers

# Each option's values; at least two of them must differ in what the test below looks at.
VALUES: dict[str, tuple[object, ...]] = {
    "strict": (True, False),
    "weight_gradient": ("exact", "trainer", "bypass", "detached", "paper", "identity", "box"),
    "centre": (True, False),
    "scale_start": ("mean_abs", "one"),
    "input_scale": ("none", "map", "sample", "position", "average"),
    "window": (1.0, 1.3),
    "gamma": ("channel", "full"),
    "nu_start": (1.0, 2.0),
    "nu_end": (10.0, 100.0),
    "t_start": (0.1, 0.5),
    "t_end": (10.0, 20.0),
    "beta": (5.0, 2.0),
    "scale": ("none", "filter"),
    "activation": ("paper", "code", "relu", "none", "sign"),
    "tau_start": (0.6, 0.85),
    "tau_end": (0.9, 0.99),
    "order_end": (2.0, 3.0),
    "terms_start": (2, 9),
    "terms_end": (9, 18),
    "orientations": (4, 8),
    "coding": ("sign", "stochastic"),
    "magnitude": ("one", "glorot"),
    "over": ("layer", "filter"),
    "weight_bits": (1, 2, 3),
    "activation_bits": (1, 2),
    "gradient_bits": (0, 2),
    "maximum": ("detached", "through"),
    "clip_start": (1.0, 8.0),
    "sharpness": (0.1, 0.2),
    "levels": (1, 2, "uniform", "nonuniform"),
    "ridge": (0.0, 0.5),
    "weight_bases": (1, 3),
    "activation_bases": (1, 3),
    "order": (1, 2),
    "weights": ("ls-1", "ls-2"),
    "activations": ("ls-1", "ls-2"),
    "clip": (0.5, 2.0),
    "stochastic": ("none", "both", "weights"),
}
# What a value needs beside it to show.
BESIDE = {"maximum": {"weight_bits": 2}}
OPTIONS = [(name, option) for name in SCHEMES for option in scheme_options(name)]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=["-".join(o) for o in OPTIONS])
def test_every_option_changes_something(name: str, option: str) -> None:
    """Two values of each option give another value or another gradient, at the start, midway, or in evaluation."""
    seen = set()
    refused = []
    for value in VALUES[option]:
        try:
            seen.add(figures(name, {option: value, **BESIDE.get(option, {})}))
        except BnasError as error:
            refused.append(str(error))
    if option in COMMON and len(seen) == 1:
        assert any("sign" in message for message in refused)
    else:
        assert len(seen) >= 2


def figures(name: str, options: dict[str, object]) -> str:
    scheme = make_scheme(name, options)
    torch.manual_seed(0)
    norm, conv = NormBinarize(8, scheme), BinaryConv2d(8, 8, 3, scheme)
    layers = torch.nn.ModuleList([norm, conv])
    values = []
    with torch.no_grad():
        for learned in layers.parameters():
            if not is_lazy(learned):
                learned.mul_(0.9).add_(0.05)
        conv.weight.copy_(0.6 * numbers(tuple(conv.weight.shape)))
        conv.binarizer.reset(conv.weight)
        conv.weight.view(-1)[:5] = torch.tensor([-1.0, 1.0, 1.2, -1.3, 0.0])
    x = numbers((2, 8, 4, 4))
    x.view(-1)[:6] = torch.tensor([-1.0, 1.0, 1.2, -1.3, 0.0, 9.0])
    for share in (0.0, 0.6):
        set_progress(layers, share)
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)
        binary = norm.binarizer(leaf)
        y = conv(binary)
        y.backward(torch.arange(y.numel()).view_as(y).float().sin())
        grads = [parameter.grad for parameter in layers.parameters() if parameter.grad is not None]
        values += [binary, y, leaf.grad, *grads]
    values.append(conv.eval()(norm.binarizer.eval()(x)))
    return str([tensor.detach().double().sum().item() for tensor in values])


def test_unknown_names_and_wrong_types_have_messages() -> None:
    with pytest.raises(BnasError, match=r"no scheme named 'bierial'.*Did you mean 'bireal'\?"):
        make_scheme("bierial")
    with pytest.raises(BnasError, match=r"no option of scheme xnor named 'center'.*Did you mean 'centre'\?"):
        make_scheme("xnor", {"center": True})
    with pytest.raises(BnasError, match="option centre takes true or false, got 'yes'"):
        make_scheme("xnor", {"centre": "yes"})
    with pytest.raises(BnasError, match=r"option weight_bits takes a whole number, got 1\.5"):
        make_scheme("dorefa", {"weight_bits": 1.5})


BAD = [
    ("xnor", {"weight_gradient": "chain"}, "no weight_gradient of scheme xnor named 'chain'"),
    ("xnor", {"input_scale": "k"}, "no input_scale of scheme xnor named 'k'"),
    ("bireal", {"weight_gradient": "paper"}, "no weight_gradient of scheme bireal named 'paper'"),
    ("dorefa", {"weight_bits": 0}, "weight_bits of scheme dorefa is 0; it must be an integer at least 1 and at most 8"),
    ("dorefa", {"activation_bits": 9}, "activation_bits of scheme dorefa is 9"),
    ("dorefa", {"gradient_bits": 17}, "gradient_bits of scheme dorefa is 17"),
    ("power-of-two", {"weight_bits": 6}, "weight_bits of scheme power-of-two is 6; .* at least 2 and at most 5"),
    (
        "power-of-two",
        {"activation": "signs"},
        "no activation of scheme power-of-two named 'signs'.*Did you mean 'sign'",
    ),
    ("wrpn", {"weight_bits": 9}, "weight_bits of scheme wrpn is 9"),
    ("lqnet", {"ridge": -1}, "ridge of scheme lqnet is -1"),
    ("twn", {"over": "sample"}, "no over of scheme twn named 'sample'"),
    ("twn", {"activation": "prelu"}, "no activation of scheme twn named 'prelu'.*Did you mean 'relu'"),
    ("hwgq", {"levels": "even"}, "no levels of scheme hwgq named 'even'"),
    ("least-squares", {"weights": "ls2"}, "no weights of scheme least-squares named 'ls2'.*Did you mean 'ls-2'"),
    ("xnor-plus-plus", {"gamma": "row"}, "no gamma of scheme xnor-plus-plus named 'row'"),
    ("cbcn", {"orientations": 3}, "orientations of scheme cbcn are 4 or 8, got 3"),
    ("irnet", {"t_start": 11.0}, "t_end of scheme irnet is 10.0; it must be a finite number at least 11"),
    ("recu", {"tau_start": 0.4}, "tau_start of scheme recu is 0.4"),
    ("dsq", {"sharpness": 0.5}, "sharpness of scheme dsq is 0.5"),
    ("bnn", {"stochastic": "yes"}, "no stochastic coding named 'yes'"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_options_have_messages(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_scheme(name, options)


def test_a_start_is_looked_at_with_its_weight_and_signs_with_their_binarizer() -> None:
    with pytest.raises(BnasError, match="no start of a learned scale named 'two'"):
        make_scheme("bats", {"scale_start": "two"}).weight(torch.ones(2, 2))
    with pytest.raises(BnasError, match="stochastic weights: the weights' binarizer: its code is ternary"):
        make_scheme("twn", {"stochastic": "weights"}).weight(torch.ones(2, 2))
    with pytest.raises(BnasError, match="the activations' binarizer: it is real-valued"):
        make_scheme("twn", {"stochastic": "activations"}).activation(2)


def test_a_layer_that_a_scheme_cannot_take_is_named() -> None:
    scheme = make_scheme("cbcn")
    with pytest.raises(
        BnasError, match=r"a 3x3 convolution from 6 to 8 channels: scheme cbcn makes 4 orientations.*found 8 and 6"
    ):
        BinaryConv2d(6, 8, 3, scheme)
    with pytest.raises(BnasError, match=r"a 3x3 convolution from 8 to 8 channels in 8 groups: .*found 8 and 1"):
        BinaryConv2d(8, 8, 3, scheme, groups=8)
    with pytest.raises(BnasError, match="turns only square kernels, found"):
        BinaryConv2d(8, 8, (1, 3), scheme)
    with pytest.raises(BnasError, match="turns only 3 x 3 kernels"):
        BinaryConv2d(8, 8, 5, make_scheme("cbcn", {"orientations": 8}))
    assert BinaryConv2d(6, 5, 1, scheme).weight.shape == (5, 6, 1, 1)
    linear = BinaryLinear(4, 4, make_scheme("xnor-plus-plus", {"gamma": "full"}))
    with pytest.raises(BnasError, match="gamma 'full' of scheme xnor-plus-plus needs a map"):
        linear(torch.ones(1, 4))
    conv = BinaryConv2d(4, 4, 1, make_scheme("xnor-plus-plus", {"gamma": "full"}))
    conv(torch.ones(1, 4, 3, 3))
    with pytest.raises(
        BnasError, match=r"made for another size of map: it has full \(4, 3, 3\), and this input gives 2 x 2"
    ):
        conv(torch.ones(1, 4, 2, 2))
