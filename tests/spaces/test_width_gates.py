"""The super-network of `widths`: slices of one weight and soft gates against the built network of every form."""

from typing import Any

import pytest
import torch

from bnas import seeding
from bnas.binary import make_scheme
from bnas.layers.residual import BinaryUnit
from bnas.space import Gates, soft_gates
from search_spaces.width_gates import Place, WidthGates
from search_spaces.widths import Widths
from tests.spaces.width_networks import FORMS, drawn, images, spec_of


def space_and_net(form: str, scheme: str = "bats", **args: Any) -> tuple[Widths, Any]:
    space = Widths(FORMS[form][0], **args)
    with seeding.borrowed(0, "net"):
        return space, space.supernet(spec_of(form, scheme))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("form", FORMS)
def test_one_active_width_each_is_the_built_network(form: str, training: bool) -> None:
    space, net = space_and_net(form)
    genotype = drawn(space, 3)
    net(images(form), space.gates(genotype))
    built = space.build(genotype, spec_of(form))
    built.load_state_dict(net.state_for(genotype))
    for module in (net, built):
        module.train(training)
    with torch.no_grad():
        assert torch.equal(built(images(form)), net(images(form), space.gates(genotype)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("scheme", ["binary-activations", "bnn"])
@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_that_choose_are_that_choice(form: str, scheme: str, training: bool) -> None:
    """All widths active with weights 0 and 1, under schemes without a scale (a filter's scale depends on its slice)."""
    space, net = space_and_net(form, scheme)
    net.train(training)
    for seed in range(2):
        genotype = drawn(space, seed)
        weights = {
            d.name: torch.tensor([float(genotype.choice(d.name) == choice) for choice in d.choices])
            for d in space.decisions
        }
        with torch.no_grad():
            hard = net(images(form), space.gates(genotype))
            soft = net(images(form), soft_gates(space.decisions, weights))
        torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pick", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_some_active_widths_run_no_wider_than_the_widest_of_them(form: str, pick: tuple[int, int]) -> None:
    """What a shrinking search has: here x1 and x2 of every stage or second layer, x0.5 and x1 of the others."""
    space, net = space_and_net(form, "binary-activations")
    wide = {d.name for d in space.decisions if d.name.startswith("stage") or d.name in ("conv_0", "conv_2", "conv_4")}
    active = {d.name: ("x1", "x2") if d.name in wide else ("x0.5", "x1") for d in space.decisions}
    chosen = {name: active[name][pick[name in wide]] for name in active}
    weights = {name: torch.tensor([float(chosen[name] == choice) for choice in active[name]]) for name in active}
    widest: dict[str, int] = {}
    for name, module in net.named_modules():
        if name.endswith(".after"):
            module.register_forward_hook(lambda m, i, out, name=name: widest.update({name: out.shape[1]}))
    soft = net(images(form), Gates(active, weights))
    soft_widths = dict(widest)
    net(images(form), Gates({name: choices[-1:] for name, choices in active.items()}))
    assert soft_widths == widest
    hard = net(images(form), Gates({name: (choice,) for name, choice in chosen.items()}))
    torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_soft_gates_reach_every_decision(form: str) -> None:
    space, net = space_and_net(form, "binary-activations")
    weights = {d.name: torch.full((6,), 1 / 6, requires_grad=True) for d in space.decisions}
    logits = net(images(form), soft_gates(space.decisions, weights))
    logits.square().sum().backward()
    for name, weight in weights.items():
        assert weight.grad is not None
        assert weight.grad.abs().min() > 1e-5, name
        changed = {**weights, name: torch.linspace(0.0, 1.0, 6)}
        assert not torch.allclose(net(images(form), soft_gates(space.decisions, changed)), logits), name


@pytest.mark.parametrize("form", FORMS)
def test_a_straight_through_weight_of_1_changes_nothing_and_has_a_gradient(form: str) -> None:
    space, net = space_and_net(form)
    genotype = drawn(space, 0)
    hard = space.gates(genotype)
    weights = {name: torch.ones(1, requires_grad=True) for name in hard.active}
    logits = net(images(form), Gates(hard.active, weights))
    assert torch.equal(logits, net(images(form), hard))
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs() > 0 for weight in weights.values())


def test_a_gate_sums_the_choices_that_have_a_channel() -> None:
    channels = {"a": {"x1": 1, "x2": 2, "x4": 4}, "b": {"x1": 1, "x2": 2, "x4": 4}}
    weights = {"a": torch.tensor([0.2, 0.3, 0.5]), "b": torch.tensor([0.1, 0.6])}
    gates = WidthGates(Gates({"a": ("x1", "x2", "x4"), "b": ("x1", "x2")}, weights), channels, torch.device("cpu"))
    torch.testing.assert_close(gates.gate("a"), torch.tensor([1.0, 0.8, 0.5, 0.5]))
    torch.testing.assert_close(gates.gate("b"), torch.tensor([0.7, 0.6]))
    assert gates.widest() == {"a": 4, "b": 2}
    assert float(gates.expected("a")) == pytest.approx(0.2 * 1 + 0.3 * 2 + 0.5 * 4)
    around = gates.around(Place("b", "a", "b"))
    torch.testing.assert_close(around.equal, torch.tensor([0.2 * 0.1 + 0.3 * 0.6, 0.3 * 0.6]))
    unweighted = WidthGates(Gates({"a": ("x2", "x4"), "b": ("x4",)}), channels, torch.device("cpu"))
    torch.testing.assert_close(unweighted.gate("a"), torch.tensor([2.0, 2.0, 1.0, 1.0]))
    assert unweighted.gate("b") is None
    for chosen, equal in (("x4", True), ("x1", False)):
        plain = WidthGates(Gates({"a": (chosen,), "b": ("x4",)}), channels, torch.device("cpu"))
        assert plain.around(Place("b", "a", "b")).equal is equal


def test_a_gated_unit_scales_its_sums_and_does_not_round_them() -> None:
    unit = BinaryUnit(4, 3, make_scheme("bnn"), norm_after=False).eval()
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(unit(x, torch.full((4,), 0.3)), 0.3 * unit(x))
    only_first = unit(x, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert not torch.equal(only_first, unit(x))
    x[:, 1:] = -x[:, 1:]
    assert torch.equal(unit(x, torch.tensor([1.0, 0.0, 0.0, 0.0])), only_first)


def test_statistics_beyond_a_slice_are_left_alone() -> None:
    space, net = space_and_net("resnet20")
    norm = net.body[0].first.norm.norm
    net(images("resnet20"), space.gates(space.coded([2, *[1] * 11])))
    assert torch.count_nonzero(norm.running_mean) == 8 < len(norm.running_mean)


def test_soft_cost_is_that_of_the_expected_widths() -> None:
    """Of the paper's six layers at 8 x 8 pixels: linear in the width of each layer's input and of its output."""
    space, net = space_and_net("vgg")
    weights = {d.name: torch.full((6,), 1 / 6, requires_grad=True) for d in space.decisions}
    real, binary = net.expected_cost(soft_gates(space.decisions, weights))
    c = 4 * (0.25 + 0.5 + 1 + 2 + 3 + 4) / 6
    assert float(real.detach()) == pytest.approx(2 * 9 * c * 64 + 4 * c * 3)
    pairs = ((c, c, 64), (c, 2 * c, 16), (2 * c, 2 * c, 16), (2 * c, 4 * c, 4), (4 * c, 4 * c, 4))
    assert float(binary.detach()) == pytest.approx(sum(9 * a * b * pixels for a, b, pixels in pairs))
    (real + binary / 64).backward()
    assert all(bool((weight.grad > 0).all()) for weight in weights.values() if weight.grad is not None)


def test_norms_of_a_slice_start_with_slope_1_and_offset_0() -> None:
    space, net = space_and_net("resnet20")
    state = net.state_for(space.coded([0.5] * 12))
    assert torch.equal(state["body.0.first.after.1.weight"], torch.ones(2))
    assert torch.equal(state["body.0.first.after.1.bias"], torch.zeros(2))
    kept = net.body[0].first.conv
    assert torch.equal(state["body.0.first.conv.weight"], kept.weight[:2, :2])
    state["body.0.first.conv.weight"].zero_()
    assert kept.weight[:2, :2].count_nonzero() > 0
