"""The super-network of `group_mobilenet` under hard and soft gates against the built network, and its costs."""

from typing import Any

import numpy as np
import pytest
import torch

from bnas import seeding
from bnas.cost import measure
from bnas.space import Gates, NetSpec, soft_gates
from bnas.training.updates import latent_weights
from search_spaces.group_mobilenet import GroupMobileNet
from tests.spaces.group_mobilenets import FORMS, SMALL, drawn, every, images, spec_of


def space_and_net(form: str, scheme: str = "bats") -> tuple[GroupMobileNet, Any]:
    space = GroupMobileNet(**SMALL)
    with seeding.borrowed(0, "net"):
        return space, space.supernet(spec_of(form, scheme))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("form", FORMS)
def test_one_active_number_each_is_the_built_network(form: str, training: bool) -> None:
    space, net = space_and_net(form)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    for seed in range(3):
        genotype = drawn(space, seed)
        net.train()(images(form), space.gates(genotype))
        built = space.build(genotype, spec_of(form))
        built.load_state_dict(net.state_for(genotype))
        for module in (net, built):
            module.train(training)
        with torch.no_grad():
            assert torch.equal(built(images(form)), net(images(form), space.gates(genotype)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("scheme", ["binary-activations", "bireal"])
@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_that_choose_are_that_choice(form: str, scheme: str, training: bool) -> None:
    space, net = space_and_net(form, scheme)
    genotype = drawn(space, 1)
    # Running statistics that are not those of the start, under which sums of signs fall on thresholds.
    net.train()(images(form), space.gates(genotype))
    net.train(training)
    weights = {d.name: torch.tensor([float(genotype.choice(d.name) == c) for c in d.choices]) for d in space.decisions}
    with torch.no_grad():
        hard = net(images(form), space.gates(genotype))
        soft = net(images(form), soft_gates(space.decisions, weights))
    torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_reach_every_decision(form: str) -> None:
    space, net = space_and_net(form, "binary-activations")
    weights = {d.name: torch.full((len(d.choices),), 1 / len(d.choices), requires_grad=True) for d in space.decisions}
    logits = net(images(form), soft_gates(space.decisions, weights))
    logits.square().sum().backward()
    for name, weight in weights.items():
        assert weight.grad is not None
        # Beside the common part, which a softmax takes away.
        assert (weight.grad - weight.grad.mean()).abs().max() > 1e-4, name
        changed = {**weights, name: torch.linspace(0.0, 1.0, len(weight))}
        assert not torch.allclose(net(images(form), soft_gates(space.decisions, changed)), logits), name


@pytest.mark.parametrize("form", FORMS)
def test_a_straight_through_weight_of_1_changes_nothing_and_has_a_gradient(form: str) -> None:
    space, net = space_and_net(form)
    hard = space.gates(drawn(space, 0))
    weights = {name: torch.ones(1, requires_grad=True) for name in hard.active}
    logits = net(images(form), Gates(hard.active, weights))
    assert torch.equal(logits, net(images(form), hard))
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs() > 1e-4 for weight in weights.values())


def test_numbers_without_gates_count_1_each() -> None:
    space, net = space_and_net("M2", "bireal")
    plain = Gates({d.name: d.choices for d in space.decisions})
    ones = soft_gates(space.decisions, {d.name: torch.ones(len(d.choices)) for d in space.decisions})
    torch.testing.assert_close(net(images("M2"), plain), net(images("M2"), ones))


def test_latent_weights_of_the_supernet_are_those_of_its_binary_convolutions() -> None:
    _, net = space_and_net("M2", "bireal")
    names = {entry.name for entry in latent_weights(net)}
    assert names == {f"body.{i}.spatial.conv.weight" for i in range(3)} | {"body.2.pointwise.conv.weight"}


@pytest.mark.parametrize("form", ["M1", "M2", "M3"])
def test_soft_cost_is_the_weighted_sum_of_the_choices(form: str) -> None:
    space, net = space_and_net(form)
    shares = {d.name: torch.softmax(torch.arange(len(d.choices)).float(), 0) for d in space.decisions}
    real, binary = net.expected_cost(soft_gates(space.decisions, shares))
    base = dict(every(space, 0).choices)

    def cost(choices: dict[str, str]) -> tuple[int, int]:
        found = measure(space.build(space.genotype(choices), spec_of(form)), FORMS[form][1])
        return found.macs_real, found.macs_binary

    expected = np.array(cost(base), dtype=float)
    for decision in space.decisions:
        for share, choice in zip(shares[decision.name].tolist(), decision.choices, strict=True):
            expected += share * (np.array(cost({**base, decision.name: choice})) - np.array(cost(base)))
    assert (float(real), float(binary)) == pytest.approx(tuple(expected), rel=1e-6)
    dense, grouped = cost(base), cost(dict(every(space, -1).choices))
    assert grouped[1] < dense[1]
    assert (grouped[0] < dense[0]) == (form == "M2")


@pytest.mark.parametrize("module", ["M2", "M3"])
def test_a_space_without_the_number_1_is_sliced_from_its_fewest_groups(module: str) -> None:
    space = GroupMobileNet(layers=(2, 4, 4), groups=(2, 4), group_channels=1, channels=4)
    spec = NetSpec((2, 8, 8), 3, "bats", {}, {"stem": "imagenet", "module": module})
    net = space.supernet(spec)
    x = torch.randn(2, 2, 8, 8)
    for pick in (0, -1):
        genotype = every(space, pick)
        built = space.build(genotype, spec)
        built.load_state_dict(net.state_for(genotype))
        assert torch.equal(built(x), net(x, space.gates(genotype)))
        cost = measure(built, spec.input_shape)
        real, binary = net.expected_cost(space.gates(genotype))
        assert (float(real), float(binary)) == (cost.macs_real, cost.macs_binary)


def test_shared_weights_are_handed_out_as_copies() -> None:
    space, net = space_and_net("M2")
    state = net.state_for(every(space, 0))
    before = net.state_dict()["body.0.spatial.conv.weight"].clone()
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(net.state_dict()["body.0.spatial.conv.weight"], before)
