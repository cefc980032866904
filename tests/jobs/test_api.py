"""Search and retrain from Python: what is stopped goes on as if it had not been, whatever the strategy."""

import dataclasses
import re
import shutil

import pytest
import torch

from bnas import checkpoint
from bnas.errors import BnasError
from bnas.history import History, comparable
from bnas.progress import SilentReporter
from bnas.rundir import RunDir
from bnas.stopping import StopRequest
from bnas.training.recipe import Recipe
from experiments import api
from experiments.assembly import make_strategy, prepare_torch, read_data
from experiments.config import JobError
from experiments.job_files import load_job
from experiments.network import load_trained
from strategies import STRATEGIES
from tests.jobs import tiny_chain


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny_chain.write_images(tmp_path_factory.mktemp("images") / "tiny.npz")


class StopAfter(SilentReporter):
    """Asks for a stop once `rounds` rounds are done in this start."""

    def __init__(self, rounds: int) -> None:
        self.stop, self._left = StopRequest(), rounds

    def round(self, record):
        self._left -= 1
        if self._left == 0:
            self.stop.request("the test")


def in_pieces(step, rounds):
    """`step(reporter=..., stop=...)` until it is finished, a few rounds a start; the last outcome and how many starts."""
    for start in range(1, 100):
        reporter = StopAfter(rounds)
        done = step(reporter=reporter, stop=reporter.stop)
        if done.finished:
            return done, start
        assert done.outcome.reason.startswith("the test; ")
    raise AssertionError("it does not come to an end")


def records(run):
    return [comparable(record) for record in History(run.files.history).read()]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def saved_state(run, kind):
    return checkpoint.load(run.files.checkpoint, kind=kind)["state"]


def test_every_strategy_is_covered():
    assert set(tiny_chain.OPTIONS) == set(STRATEGIES)


# By gradient, and candidate by candidate; test_never_lose_work.py kills every strategy.
@pytest.mark.parametrize("strategy", ["darts", "random"])
def test_a_stopped_and_continued_search_equals_an_uninterrupted_one(tmp_path, images, strategy):
    job = tiny_chain.job(images, strategy=strategy)
    whole = api.search(job, tmp_path / "whole")
    pieces, starts = in_pieces(lambda **watch: api.search(job, tmp_path / "pieces", **watch), 2)
    assert starts > 1
    assert pieces.genotype == whole.genotype
    assert records(pieces) == records(whole)
    assert same(saved_state(pieces, "search"), saved_state(whole, "search"))
    for name in ("job.yaml", "genotype.json"):
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stopped_and_continued_retraining_equals_an_uninterrupted_one(tmp_path, images):
    job = tiny_chain.job(images)
    recipe = Recipe(epochs=4, batch_size=16, learning_rate=4e-3, ema_decay=0.9, warmup_fraction=0.2)
    job = dataclasses.replace(job, retrain=dataclasses.replace(job.retrain, recipe=recipe, stages="two", round_steps=2))
    genotype = api.random_genotype(job)
    whole = api.retrain(job, genotype, tmp_path / "whole")
    pieces, starts = in_pieces(lambda **watch: api.retrain(job, genotype, tmp_path / "pieces", **watch), 1)
    assert starts > 3
    assert records(pieces) == records(whole)
    assert {record["stage"] for record in records(whole)} == {"real-weights", "binary"}
    assert same(saved_state(pieces, "retrain"), saved_state(whole, "retrain"))


def test_a_stopped_search_has_no_genotype_and_its_history_is_there(tmp_path, images):
    reporter = StopAfter(1)
    done = api.search(tiny_chain.job(images), str(tmp_path / "run"), reporter=reporter, stop=reporter.stop)
    assert (done.finished, done.genotype, done.outcome.rounds_done) == (False, None, 1)
    assert [record["round"] for record in done.history()] == [1]
    assert not done.files.genotype.exists()


def test_the_job_of_a_run_is_the_job_it_was_started_with(chain):
    assert api.job_of(RunDir(chain.run).files_for_search()) == chain.job
    assert load_job(str(chain.retraining / "job.yaml")) == chain.job
    with pytest.raises(BnasError, match=r" is not a run: it has no job\.yaml$"):
        api.job_of(RunDir(chain.run / "nothing").files_for_search())


def test_the_genotype_file_says_who_found_it(chain):
    text = (chain.run / "genotype.json").read_text()
    assert '"strategy": "darts"' in text
    assert '"seed": 0' in text
    assert api.load_genotype(chain.run / "genotype.json") == api.genotype_of_round(RunDir(chain.run).files_for_search())


def test_seeds_give_other_searches_and_other_retrainings_lie_side_by_side(tmp_path, images, chain):
    other = dataclasses.replace(chain.job, seed=1)
    genotype = api.load_genotype(chain.run / "genotype.json")
    assert records(api.search(other, tmp_path / "run")) != [
        comparable(record) for record in History(chain.run / "history.jsonl").read()
    ]
    for job, id in ((chain.job, None), (other, None), (other, "mine")):
        api.retrain(job, genotype, tmp_path / "run", id=id)
    assert RunDir(tmp_path / "run").retrainings() == ("bats-seed0", "bats-seed1", "mine")


def test_fresh_keeps_the_old_run_and_says_so(tmp_path, images):
    class Listening(SilentReporter):
        said: tuple[str, ...] = ()

        def message(self, text):
            self.said += (text,)

    job, reporter = tiny_chain.job(images), Listening()
    first = api.search(job, tmp_path / "run")
    changed = dataclasses.replace(job, seed=5)
    again = api.search(changed, tmp_path / "run", fresh=True, reporter=reporter)
    assert again.finished
    assert reporter.said[0] == f"what was in {tmp_path / 'run'} is kept in {tmp_path / 'run.old-1'}"
    assert api.job_of(RunDir(tmp_path / "run.old-1").files_for_search()) == job
    assert first.genotype == api.load_genotype(tmp_path / "run.old-1/genotype.json")


def with_retraining(job, **changes):
    return dataclasses.replace(job, retrain=dataclasses.replace(job.retrain, **changes))


def test_a_retraining_can_start_from_the_weights_of_the_search(tmp_path, chain):
    genotype = api.load_genotype(chain.run / "genotype.json")
    job = with_retraining(chain.job, init_from_search=True, recipe=Recipe(epochs=1, batch_size=48, learning_rate=1e-9))
    shutil.copytree(chain.run, tmp_path / "run")
    trained = load_trained(api.retrain(job, genotype, tmp_path / "run", id="from-search").files)
    strategy = make_strategy(chain.job, read_data(chain.job), torch.device("cpu"))
    strategy.load_state_dict(checkpoint.load(chain.run / "search.ckpt", kind="search")["state"])
    searched = strategy.weights_for(genotype)
    assert searched is not None
    weights = trained.model.state_dict()
    # One step of next to no learning rate: what was inherited is still there.
    names = [name for name in searched if name.endswith(("conv.weight", "classifier.weight")) and name in weights]
    assert len(names) > 5
    for name in names:
        torch.testing.assert_close(weights[name], searched[name].reshape(weights[name].shape), atol=1e-6, rtol=0)


def test_what_the_weights_of_a_search_are_missing_for(tmp_path, images, chain):
    genotype = api.load_genotype(chain.run / "genotype.json")
    job = with_retraining(chain.job, init_from_search=True)
    with pytest.raises(
        JobError, match=r"^retrain\.init_from_search: .*search\.ckpt is not there; search in .*nothing first$"
    ):
        api.retrain(job, genotype, tmp_path / "nothing")
    larger = with_retraining(job, size={**job.retrain.size, "cells": 4})
    said = "retrain.init_from_search needs equal sizes. cells: searched with 3, retrained with 4"
    with pytest.raises(JobError, match=f"^{re.escape(said)}$"):
        api.retrain(larger, genotype, chain.run, id="larger")
    by_chance = tiny_chain.job(images, strategy="random")
    api.search(by_chance, tmp_path / "random")
    with pytest.raises(JobError, match=r"^retrain\.init_from_search: strategy random keeps no shared weights$"):
        api.retrain(with_retraining(by_chance, init_from_search=True), genotype, tmp_path / "random")


def test_a_genotype_of_another_space_than_the_jobs_can_be_retrained(tmp_path, images):
    job = tiny_chain.job(images)
    other = api.make_job({"space": {"args": {"nodes": 2}}})
    done = api.retrain(job, api.random_genotype(other), tmp_path / "run")
    assert dict(done.genotype.space_args) == {"nodes": 2}
    assert done.finished


def test_a_random_genotype_is_fixed_by_seed_and_address(chain):
    assert api.random_genotype(chain.job) == api.random_genotype(chain.job)
    drawn = {api.random_genotype(dataclasses.replace(chain.job, seed=seed)) for seed in range(5)}
    drawn |= {api.random_genotype(chain.job, "other", i) for i in range(5)}
    assert len(drawn) > 5


def test_the_example_at_the_top_of_the_api_is_python_that_names_what_there_is():
    lines = [line.strip() for line in (api.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(lines) == 5
    for name in re.findall(r"api\.(\w+)", " ".join(lines)):
        assert name in api.__all__
    compile("\n".join(lines), "example", "exec")


def test_the_public_names_are_there_and_explained():
    for name in api.__all__:
        assert getattr(api, name).__doc__, name


def test_threads_are_set_where_the_job_asks_for_them(monkeypatch, images):
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    for threads in (0, 3):
        assert prepare_torch(dataclasses.replace(tiny_chain.job(images), threads=threads)) == torch.device("cpu")
    assert asked == [3]
