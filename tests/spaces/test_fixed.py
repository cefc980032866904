"""The fixed networks: their published sizes, their blocks, the options that they read, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnas import seeding
from bnas.binary import make_scheme
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.layers import RPReLU
from bnas.layers.dense import DenseBlock, Transition
from bnas.layers.improvement import MeliusBlock
from bnas.layers.react_block import ReActBlock
from bnas.space import Gates, NetSpec
from search_spaces import make_space, space_of
from search_spaces.fixed import DECISION, Fixed
from search_spaces.fixed_networks import NETWORKS
from search_spaces.published import about, names, published
from tests.core.binary_vectors import VECTORS

SMALL = {"channels": 4, "blocks": 1}


def build(name: str, spec: NetSpec) -> nn.Module:
    with seeding.borrowed(0, name):
        return make_space("fixed").build(make_space("fixed").genotype({DECISION: name}), spec)


def small(name: str) -> dict[str, Any]:
    return {key: value for key, value in SMALL.items() if key == "channels" or key in NETWORKS[name].reads}


# Trainable parameters of 1,000 classes at 224 x 224: those that larq's zoo lists (with running statistics: BinaryDenseNet),
# He et al. and Howard et al. to the digits that they print.
PUBLISHED = {
    "resnet18": 11_696_296,
    "mobilenet_v1": 4_251_816,
    "binary_densenet28": 5_150_504 - 19_008,
    "binary_densenet37": 8_734_120 - 31_872,
    "binary_densenet45": 13_939_240 - 49_728,
    "meliusnet22": 6_944_584,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        network = build(name, NetSpec((3, 224, 224), 1000, "bnn", {}, {"stem": "imagenet"}))
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_trains_packs_and_verifies(name: str) -> None:
    network = build(name, NetSpec((2, 8, 8), 3, "bireal", {}, small(name)))
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    network(x).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    packed = export(network.eval(), input_shape=(2, 8, 8), classes=["a", "b", "c"], mean=[0.5] * 2, std=[0.5] * 2)
    report = verify(network, PackedNetwork(packed), x)
    assert report.ok, report.first_difference


@pytest.mark.parametrize("name", NETWORKS)
def test_the_imagenet_stem_takes_the_image_down_by_four_or_two_and_the_rest_by_eight_or_more(name: str) -> None:
    size = {**small(name), "stem": "imagenet", "channels": 16}
    with torch.device("meta"):
        network = build(name, NetSpec((3, 64, 64), 3, "bnn", {}, size)).eval()
        seen: list[int] = []
        network.stem.register_forward_hook(lambda _, __, out: seen.append(out.shape[-1]))  # type: ignore[union-attr]
        network(torch.empty(1, 3, 64, 64))
    assert seen == [32 if name in ("mobilenet_v1", "reactnet") else 16]


def test_the_improvement_is_added_to_the_last_channels() -> None:
    given = VECTORS["Melius"]
    x, new = torch.tensor(given["residual_channels"]).view(1, 2, 2, 1, 1).unbind(1)
    block = MeliusBlock(2, 2, make_scheme("bnn"))

    class Gives(nn.Module):
        def __init__(self, value: Tensor, reads: Tensor) -> None:
            super().__init__()
            self.value, self.reads = value, reads

        def forward(self, x: Tensor) -> Tensor:
            assert torch.equal(x, self.reads)
            return self.value

    block.dense = Gives(new, x)  # type: ignore[assignment]
    added = torch.tensor(given["block_out_growth2"]).view(1, 2, 1, 1)
    block.improvement = Gives(added, torch.cat([x, new], 1))  # type: ignore[assignment]
    assert block(x).flatten().tolist() == given["improved"]


def test_a_dense_block_keeps_what_it_reads() -> None:
    block = DenseBlock(3, 2, make_scheme("bnn"))
    x = torch.randn(2, 3, 4, 4)
    out = block(x)
    assert out.shape == (2, 5, 4, 4)
    assert torch.equal(out[:, :3], x)
    assert torch.equal(out[:, 3:], block.unit(x))


def test_the_groups_of_a_transition_divide_both_widths() -> None:
    assert [module.groups for module in Transition(12, 8, 8) if hasattr(module, "groups")] == [4, 4]
    assert Transition(12, 8, 8)(torch.randn(2, 12, 4, 4)).shape == (2, 8, 2, 2)
    assert len(Transition(12, 7, 8)) == 4


def test_a_react_block_doubles_its_channels_by_two_convolutions_side_by_side() -> None:
    block = ReActBlock(3, 6, make_scheme("reactnet"), stride=2).eval()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        spatial = block.spatial_norm(block.spatial(block.spatial_sign(x))) + nn.functional.avg_pool2d(x, 2)
        spatial = block.spatial_activation(spatial)
        binary = block.pointwise_sign(spatial)
        parts = [
            norm(conv(binary)) + spatial for conv, norm in zip(block.pointwise, block.pointwise_norms, strict=True)
        ]
        assert isinstance(block.pointwise_activation.body, RPReLU)
        torch.testing.assert_close(block(x), block.pointwise_activation(torch.cat(parts, 1)))
    assert not torch.equal(parts[0], parts[1])
    with pytest.raises(BnasError, match="keeps its 3 channels or doubles them, it cannot have 9"):
        ReActBlock(3, 9, make_scheme("reactnet"))


def test_features_of_several_networks_are_weighed_and_padded() -> None:
    space = Fixed(("resnet20", "binary_densenet28"))
    net = space.supernet(NetSpec((2, 8, 8), 3, "bnn", {}, SMALL)).eval()
    x = torch.randn(2, 2, 8, 8)
    weights = torch.tensor([0.25, 0.75])
    alone = [net.features(x, Gates({DECISION: (name,)})) for name in space.networks]
    longest = max(part.shape[1] for part in alone)
    together = net.features(x, Gates({DECISION: space.networks}, {DECISION: weights}))
    padded = [nn.functional.pad(part, (0, longest - part.shape[1])) for part in alone]
    torch.testing.assert_close(together, 0.25 * padded[0] + 0.75 * padded[1])


def test_names_and_sources() -> None:
    for name in NETWORKS:
        assert name in names()
        genotype = published(name)
        assert genotype.choice(DECISION) == name if genotype.space == "fixed" else name == "resnet20"
        space_of(genotype)
        assert "arXiv" in about(name)["paper"]
        for network in about(name)["networks"].values():
            make_scheme(network["scheme"])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"block": "basic"}, "block is basic, but meliusnet22 cannot be built with it: .* read by resnet18, resnet20"),
        ({"activation": "prelu"}, "activation is prelu, but meliusnet22 cannot be built"),
        ({"channels": 1}, "channels is 1; it must be an integer at least 2"),
        ({"blocks": -1}, "blocks is -1; it must be an integer at least 0"),
    ],
)
def test_sizes_that_a_network_cannot_have(size: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        build("meliusnet22", NetSpec((2, 8, 8), 3, "bnn", {}, size))


def test_networks_that_are_not_there() -> None:
    with pytest.raises(BnasError, match=r"no fixed network named 'resnet2'.*Did you mean"):
        Fixed(("resnet2",))
    with pytest.raises(BnasError, match="networks is a list of one or more different names"):
        Fixed(("resnet20", "resnet20"))
    with pytest.raises(BnasError, match="networks is a list of names"):
        make_space("fixed", {"networks": [3]})
