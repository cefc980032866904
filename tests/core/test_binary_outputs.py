"""What a scheme does around a layer's product: sizes that come with the first map, and what is packed of it."""

import pytest
import torch
from torch import Tensor, nn

from bnas.binary import make_scheme
from bnas.binary.outputs import GradientQuantizer, materialize, waiting
from bnas.binary.stairs import stairs
from bnas.binary.terms import attached, total
from bnas.binary.threshold import Threshold, compare
from bnas.data import Batches, ImageSet, Normalization
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer


class Net(nn.Module):
    def __init__(self, gamma: str) -> None:
        super().__init__()
        scheme = make_scheme("xnor-plus-plus", {"gamma": gamma})
        self.norm, self.conv = NormBinarize(1, scheme), BinaryConv2d(1, 4, 3, scheme)
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.conv(self.norm(x)).mean((2, 3)))
        return logits


def test_sizes_come_with_the_first_map_and_with_a_state() -> None:
    net = Net("channel-rows-columns")
    assert waiting(net) == "conv.output.rows"
    materialize(net, torch.zeros(1, 1, 6, 5))
    assert waiting(net) is None
    assert net.training
    assert (tuple(net.conv.output.rows.shape), tuple(net.conv.output.columns.shape)) == ((4,), (3,))
    with torch.no_grad():
        net.conv.output.rows.copy_(torch.arange(4.0))
    other = Net("channel-rows-columns")
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 1, 6, 5)
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_a_trainer_is_not_given_what_still_waits() -> None:
    images = ImageSet(torch.zeros(4, 1, 6, 6, dtype=torch.uint8), torch.arange(4) % 2)
    batches = Batches(images, 2, seed=0, normalization=Normalization((0.0,), (1.0,)))
    with pytest.raises(BnasError, match=r"conv.output.full is tied to one size of map.*take gamma 'channel'"):
        Trainer(Net("full"), batches, Recipe(epochs=1), seed=0)


def test_gamma_of_channels_is_packed_as_the_scale() -> None:
    net = Net("channel").eval()
    with torch.no_grad():
        net.conv.output.a.copy_(torch.tensor([0.5, -2.0, 1.0, 3.0]))
    file = export(net, input_shape=(1, 6, 6), classes=("a", "b"), mean=(0.5,), std=(0.25,))
    assert any(name.endswith("scale") and list(t) == [0.5, -2.0, 1.0, 3.0] for name, t in file.tensors.items())
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert verify(net, PackedNetwork(file), x).ok


def test_several_signs_bring_their_terms_and_lose_them_where_another_tensor_is_made() -> None:
    norm = NormBinarize(2, make_scheme("rebnet")).eval()
    value = norm(torch.randn(1, 2, 3, 3))
    terms = attached(value)
    assert terms is not None
    assert len(terms) == 2
    assert attached(value * 1.0) is None
    assert attached(norm.train()(torch.randn(2, 2, 3, 3))) is None
    flat = attached(value.flatten(1))
    assert flat is not None
    assert torch.equal(flat[1].sign_pm1, terms[1].sign_pm1.flatten(1))
    by_pixel = norm.eval()(torch.randn(2, 2, 3, 3).to(memory_format=torch.channels_last)).flatten(1)
    of_copy = attached(by_pixel)
    assert of_copy is not None
    assert torch.equal(total(of_copy), by_pixel)
    assert attached(value.transpose(2, 3).flatten(1)) is None
    # A view of the same numbers in another order.
    square = norm(torch.randn(2, 2, 1, 1))
    assert attached(square.view(2, 2)) is not None
    assert attached(square.view(2, 2).T) is None
    # A scale that each input has anew does not pack.
    horq = NormBinarize(2, make_scheme("horq")).eval()
    assert attached(horq(torch.randn(1, 2, 3, 3))) is None


@pytest.mark.parametrize(
    "name", ["bnn", "rebnet", "abcnet", "dorefa", "pact", "wrpn", "hwgq", "lqnet", "dsq", "adabin", "eedn"]
)
def test_a_stair_is_its_term_at_the_edges_and_beside_them(name: str) -> None:
    binarizer = make_scheme(name).activation(1).eval()
    found, edges = stairs(binarizer), binarizer.edges()
    assert found is not None
    assert edges is not None
    at = edges.detach().float().unique()
    x = torch.cat([at, at + 1e-4, at - 1e-4, torch.linspace(-9, 9, 50)])
    value = torch.zeros_like(x)
    for stair in found:
        odd = (x[:, None] >= stair.edges).sum(dim=1) % 2 == 1
        sign = torch.where(odd, 1.0, -1.0)
        value += sign if stair.scale is None else sign * stair.scale
    torch.testing.assert_close(value, binarizer(x.view(-1, 1, 1, 1)).detach().flatten(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("comparisons", [(), (1,)], ids=["one", "several"])
def test_a_tie_with_a_threshold_is_plus_on_both_sides(comparisons: tuple[int, ...]) -> None:
    threshold = Threshold(torch.full((*comparisons, 2), 0.5), torch.tensor([False, True]))
    x = torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1, 1).expand(3, 2, 1, 1)
    assert compare(x, threshold)[:, :, 0, 0].T.tolist() == [[-1, 1, 1], [1, 1, -1]]


def test_noise_makes_the_quantized_gradient_right_in_the_mean() -> None:
    y = torch.zeros(2000, 2, requires_grad=True)
    torch.manual_seed(0)
    upstream = torch.tensor([1.0, 0.2]).repeat(2000, 1)
    GradientQuantizer(1).leave(y, y, lambda x: x).backward(upstream)
    assert y.grad is not None
    assert set(y.grad.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(y.grad.mean(dim=0), torch.tensor([1.0, 0.2]), rtol=0, atol=0.06)
