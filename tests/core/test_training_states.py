"""A training that is saved and continued equals an uninterrupted one, whatever was looked at and however it lies in memory."""

import copy
import io

import pytest
import torch
from torch import Tensor

from bnas.training.metrics import accuracy
from bnas.training.recipe import Recipe
from tests.core.tiny_training import FULL, Tiny, same, trainer


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "recipe",
    [FULL, Recipe(optimizer="sgd", learning_rate=0.1, epochs=3, momentum=0.9), Recipe(epochs=3, precision="bfloat16")],
    ids=["adam", "sgd", "bfloat16"],
)
@pytest.mark.parametrize("stop", [0, 1, 6, 11])
def test_a_continued_training_equals_an_uninterrupted_one(recipe, stop):
    whole = trainer(recipe, Tiny(dropout=0.3))
    whole.run_steps(12)
    first = trainer(recipe, Tiny(dropout=0.3))
    if stop:
        first.run_steps(stop)
    state = through_a_file(first.state_dict())
    second = trainer(recipe, Tiny(seed=99, dropout=0.3))
    torch.rand(7)
    second.load_state_dict(state)
    while not second.finished:
        second.run_steps(2)
    assert same(second.state_dict(), whole.state_dict())
    assert same(dict(second.evaluation_model().state_dict()), dict(whole.evaluation_model().state_dict()))


def test_a_state_is_a_copy_both_ways():
    run = trainer(FULL)
    run.run_steps(3)
    state = run.state_dict()
    kept = copy.deepcopy(state)
    run.run_steps(2)
    assert same(state, kept)
    run.load_state_dict(state)
    run.run_steps(2)
    assert same(state, kept)


def contiguous(state):
    """The same nested state with every tensor in the plain memory layout."""
    if isinstance(state, Tensor):
        return state.contiguous()
    if isinstance(state, dict):
        return {key: contiguous(value) for key, value in state.items()}
    return [contiguous(value) for value in state] if isinstance(state, list) else state


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_state_continues_whatever_its_memory_layout(layout):
    def run():
        made = trainer(FULL)
        made.model.to(memory_format=layout)
        return made

    whole, second = run(), run()
    whole.run_steps(4)
    second.load_state_dict(contiguous(whole.state_dict()))
    whole.run_steps(4)
    second.run_steps(4)
    assert same(second.state_dict(), whole.state_dict())


def test_the_random_numbers_of_a_step_follow_seed_and_purpose():
    def after(**options):
        run = trainer(FULL, Tiny(dropout=0.5), **options)
        run.run_steps(2)
        return run.state_dict()["model"]

    base = after()
    assert same(base, after())
    assert not same(base, after(seed=1))
    assert not same(base, after(purpose="other"))


def test_training_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    run = trainer(FULL, Tiny(dropout=0.5), seed=5)
    run.run_steps(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_look_at_the_network_between_two_slices_changes_nothing():
    looked, whole = trainer(FULL, Tiny(dropout=0.3)), trainer(FULL, Tiny(dropout=0.3))
    whole.run_steps(12)
    for _ in range(3):
        looked.run_steps(4)
        accuracy(looked.evaluation_model(), looked.batches)
        looked.model.eval()
    assert same(looked.state_dict(), whole.state_dict())
