"""What every search space of the table must satisfy; a new space is tested by being in the table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from bnas import seeding
from bnas.cost import measure
from bnas.deploy.pack import export
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.verify import verify
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.layers.packed import packed_convolutions
from bnas.shared_forward import SharedForward
from bnas.space import Gates, NetSpec, SearchSpace, Segment, soft_gates
from bnas.training.metrics import recalibrate
from search_spaces import SPACES, make_space, space_of


@dataclass(frozen=True)
class Small:
    """A space at the smallest size that still has all its parts."""

    size: Mapping[str, Any]
    input_shape: tuple[int, int, int] = (2, 8, 8)
    args: Mapping[str, Any] = field(default_factory=dict)


SMALL = {
    "bats": Small({"cells": 3, "channels": 4, "groups": 2, "shuffle_groups": 2}),
    "bnas_gist": Small({"cells": 3, "channels": 4, "skips": "both", "real_preprocess": False}),
    "cp_nas": Small({"cells": 3, "channels": 4}),
    "bnas_beihang": Small({"cells": 3, "channels": 4, "partial_channels": 1}),
    "darts": Small({"cells": 3, "channels": 4}),
    "widths": Small({"channels": 4, "block": "bireal", "downsample": "real", "activation": "prelu"}),
    "group_mobilenet": Small(
        {"stem": "imagenet", "activation": "prelu"},
        args={"layers": [2, 4, 4], "groups": [1, 2, 4], "group_channels": 1, "channels": 4},
    ),
    "fixed": Small(
        {"channels": 4, "blocks": 1},
        args={"networks": ["resnet20", "reactnet", "binary_densenet28", "meliusnet_a"]},
    ),
}
# Spaces with opened positions, by what comes before the plus sign: cells, a chain of widths, a chain of layers.
OPENED = {"bats+": ("activation", "scale"), "cp_nas+": ("activation",), "widths+": ("activation",)}
OPENED |= {"group_mobilenet+": ("activation",)}
NAMES = (*SPACES, *OPENED)


def test_every_space_is_covered() -> None:
    assert set(SMALL) == set(SPACES)


def whole(name: str) -> SearchSpace:
    return make_space(name.strip("+"), {"open": OPENED.get(name, ())})


def small(name: str) -> SearchSpace:
    return make_space(name.strip("+"), {**SMALL[name.strip("+")].args, "open": OPENED.get(name, ())})


def spec_of(name: str, scheme: str = "bats") -> NetSpec:
    made = SMALL[name.strip("+")]
    # What is opened is not given by the size, too.
    size = {k: v for k, v in made.size.items() if name not in OPENED or k != "activation"}
    return NetSpec(made.input_shape, 5, scheme, {}, size)


def images(name: str, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *SMALL[name.strip("+")].input_shape, generator=generator)


class Convolutions(TorchFunctionMode):
    """Writes down the shape of the input and of the weight of every convolution that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[torch.Size, torch.Size]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            self.ran.append((args[0].shape, args[1].shape))
        return func(*args, **(kwargs or {}))


def drawn(space: SearchSpace, seed: int) -> Genotype:
    return space.random(np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_drawing_changing_and_mixing_stay_inside(name: str, seed: int) -> None:
    space = whole(name)
    rng = np.random.default_rng(seed)
    a, b = space.random(rng), space.random(rng)
    for genotype in (a, b, space.mutate(a, rng), space.crossover(a, b, rng)):
        space.check(genotype)
        assert Genotype.from_json(genotype.to_json()) == genotype
        assert space_of(genotype).name == space.name
        once = space.canonical(genotype)
        assert space.canonical(once) == once
        assert space.digest(once) == space.digest(genotype)
    assert space.mutate(a, rng) != a
    assert space.crossover(a, a, rng) == a


@pytest.mark.parametrize("name", NAMES)
def test_derive_takes_what_the_scores_prefer(name: str) -> None:
    space = whole(name)
    for seed in range(5):
        genotype = drawn(space, seed)
        scores = {
            d.name: [1.0 if genotype.choice(d.name) == choice else 0.0 for choice in d.choices] for d in space.decisions
        }
        assert space.derive(scores) == genotype


@pytest.mark.parametrize("name", NAMES)
def test_derive_is_inside_for_any_scores_and_refuses_nan(name: str) -> None:
    space = whole(name)
    rng = np.random.default_rng(0)
    scores = {d.name: rng.normal(size=len(d.choices)).tolist() for d in space.decisions}
    space.check(space.derive(scores))
    scores[space.decisions[0].name][0] = float("nan")
    with pytest.raises(ValueError, match=space.decisions[0].name):
        space.derive(scores)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NAMES)
def test_supernet_with_one_hot_gates_is_the_built_network(name: str, training: bool) -> None:
    space = small(name)
    spec = spec_of(name)
    with seeding.borrowed(0, "net"):
        net = space.supernet(spec).train()
    x = images(name)
    for seed in range(3):
        genotype = drawn(space, seed)
        net(x, space.gates(genotype))  # running statistics that are not those of the start
        built = space.build(genotype, spec)
        built.load_state_dict(net.state_for(genotype))
        net.train(training)
        built.train(training)
        with torch.no_grad():
            torch.testing.assert_close(built(x), net(x, space.gates(genotype)), rtol=0, atol=0)
        net.train()


@pytest.mark.parametrize("name", NAMES)
def test_soft_gates_reach_every_decision(name: str) -> None:
    space = small(name)
    with seeding.borrowed(0, "net"):
        net = space.supernet(spec_of(name, "bats" if "scale" in OPENED.get(name, ()) else "binary-activations")).train()
    x = images(name)
    weights = {d.name: torch.full((len(d.choices),), 1 / len(d.choices), requires_grad=True) for d in space.decisions}
    logits = net(x, soft_gates(space.decisions, weights))
    logits.square().sum().backward()
    with torch.no_grad():
        # Without gradients it may round otherwise.
        logits = net(x, soft_gates(space.decisions, weights))
        for decision in space.decisions:
            gradient = weights[decision.name].grad
            assert gradient is not None
            assert gradient.abs().max() > 1e-4, decision.name
            changed = {**weights, decision.name: torch.linspace(0.0, 1.0, len(decision.choices))}
            assert not torch.allclose(net(x, soft_gates(space.decisions, changed)), logits), decision.name


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_that_is_off_does_not_run(name: str) -> None:
    """The convolutions that run are those of the built network, and no channel more: a choice may be a slice."""
    space = small(name)
    genotype = drawn(space, 0)
    with Convolutions() as shared:
        space.supernet(spec_of(name)).eval()(images(name), space.gates(genotype))
    with Convolutions() as alone:
        space.build(genotype, spec_of(name)).eval()(images(name))
    assert Counter(shared.ran) == Counter(alone.ran)
    assert len(alone.ran) > 1


def counted(segments: tuple[Segment, ...], ran: Counter[int]) -> list[Segment]:
    def run(index: int, state: Any, gates: Gates) -> Any:
        ran[index] += 1
        return segments[index].run(state, gates)

    return [replace(segment, run=partial(run, index)) for index, segment in enumerate(segments)]


@pytest.mark.parametrize("name", NAMES)
def test_paths_that_run_together_share_what_they_agree_in_and_give_what_each_gives_alone(name: str) -> None:
    space, x = small(name), images(name)
    with seeding.borrowed(0, "test", "init"):
        net = space.supernet(spec_of(name, "xnor")).eval()
    rng = np.random.default_rng(1)
    parent = drawn(space, 1)
    paths = [space.gates(genotype) for genotype in (parent, *(space.mutate(parent, rng) for _ in range(2)))]
    source: Any = SimpleNamespace(batch=lambda step: (x.roll(step, 0) * (1 + step), None))
    ran: Counter[int] = Counter()
    with torch.no_grad(), packed_convolutions(net, "packed"):
        together = SharedForward(counted(net.segments, ran), paths, estimates=True)
        recalibrate(net, together, source, 2)
        found = together(x)
        for index, gates in enumerate(paths):
            recalibrate(net, partial(net, gates=gates), source, 2)
            assert torch.equal(found[index], net(x, gates))
    for index, _ in enumerate(net.segments):
        reads = (segment.reads for segment in net.segments[: index + 1])
        read = [d for its in reads for d in ([d.name for d in space.decisions] if its is None else its)]
        assert ran[index] == 3 * len({tuple(gates.active[d] for d in read) for gates in paths})


@pytest.mark.parametrize("name", NAMES)
def test_every_module_is_in_one_segment(name: str) -> None:
    net = small(name).supernet(spec_of(name))
    found = [id(p) for segment in net.segments for m in segment.modules for p in (*m.parameters(), *m.buffers())]
    assert Counter(found) == Counter(map(id, (*net.parameters(), *net.buffers())))


@pytest.mark.parametrize("name", NAMES)
def test_expected_cost_of_one_architecture_is_its_cost_and_is_differentiable(name: str) -> None:
    space = small(name)
    spec = spec_of(name)
    net = space.supernet(spec)
    genotype = drawn(space, 1)
    real, binary = net.expected_cost(space.gates(genotype))
    cost = measure(space.build(genotype, spec), spec.input_shape, as_deployed=True)
    assert (float(real), float(binary)) == (cost.macs_real, cost.macs_binary)
    weights = {d.name: torch.full((len(d.choices),), 0.5, requires_grad=True) for d in space.decisions}
    sum(net.expected_cost(Gates({d.name: d.choices for d in space.decisions}, weights))).backward()
    assert all(w.grad is not None for w in weights.values())
    assert max(float(w.grad.abs().max()) for w in weights.values() if w.grad is not None) > 0


@pytest.mark.parametrize(("scheme", "seeds"), [("bnn", [0]), ("xnor", [1]), ("bireal", [2]), ("bats", [0, 3])])
@pytest.mark.parametrize("name", NAMES)
def test_every_genotype_trains_exports_and_verifies(name: str, scheme: str, seeds: list[int]) -> None:
    space = small(name)
    spec = spec_of(name, scheme)
    x = images(name, 8)
    for seed in seeds:
        with seeding.borrowed(seed, "init"):
            network = space.build(drawn(space, seed), spec)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        torch.nn.functional.cross_entropy(network(x), torch.arange(8) % 5).backward()
        optimizer.step()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
        packed = export(
            network.eval(),
            input_shape=spec.input_shape,
            classes=[str(i) for i in range(5)],
            mean=[0.5] * spec.input_shape[0],
            std=[0.5] * spec.input_shape[0],
        )
        report = verify(network, PackedNetwork(packed), x)
        assert report.ok, report.first_difference
        assert report.layers


@pytest.mark.parametrize("name", NAMES)
def test_wrong_genotypes_are_refused(name: str) -> None:
    space = small(name)
    good = drawn(space, 0)
    first = good.choices[0][0]
    with pytest.raises(BnasError, match="was given to space"):
        space.check(Genotype.make("other", dict(good.space_args), dict(good.choices)))
    with pytest.raises(BnasError, match=f"no choice of decision {first} named 'nonsense'"):
        space.check(Genotype.make(space.name, dict(good.space_args), {**dict(good.choices), first: "nonsense"}))
    with pytest.raises(BnasError, match="has no decision 'nowhere'"):
        space.check(Genotype.make(space.name, dict(good.space_args), {**dict(good.choices), "nowhere": "x"}))
    with pytest.raises(BnasError, match="keeps"):
        space.check(Genotype.make(space.name, dict(good.space_args), dict(good.choices[1:])))
    with pytest.raises(BnasError, match="this space was made with"):
        space.check(Genotype.make(space.name, {**dict(good.space_args), "nodes": 99}, dict(good.choices)))
    with pytest.raises(BnasError, match="no choice of decision"):
        space.build(
            Genotype.make(space.name, dict(good.space_args), {**dict(good.choices), first: "nonsense"}), spec_of(name)
        )


@pytest.mark.parametrize("name", NAMES)
def test_wrong_sizes_are_refused(name: str) -> None:
    space = small(name)
    with pytest.raises(BnasError, match="too small"):
        space.supernet(NetSpec((2, 3, 3), 5, "bats", {}, spec_of(name).size))
    with pytest.raises(BnasError, match=r"unknown key 'chanels'.*Did you mean 'channels'"):
        space.build(drawn(space, 0), NetSpec((2, 8, 8), 5, "bats", {}, {"chanels": 4}))


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_numbers_in_range(name: str) -> None:
    space = small(name)
    facts = space.facts(drawn(space, 0))
    assert 0 <= facts["parameter_free"] <= 1
    assert facts["depth"] >= 1


@pytest.mark.parametrize("name", NAMES)
def test_recalibrated_statistics_are_those_of_the_data(name: str) -> None:
    """A super-network's single path can be scored after its norms saw the data."""

    class Twice:
        steps_per_epoch = 1

        def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return images(name), torch.zeros(6, dtype=torch.long)

    space = small(name)
    net = space.supernet(spec_of(name)).eval()
    gates = space.gates(drawn(space, 0))
    before = net(images(name), gates)
    recalibrate(net, lambda x: net(x, gates), Twice(), 2)  # type: ignore[arg-type]
    assert not torch.equal(before, net(images(name), gates))
