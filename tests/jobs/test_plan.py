"""What a job will take: counts of steps, sums, bytes on the disk, phases that cannot run."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bnas.errors import BnasError
from experiments import api, plan, plan_command, plan_phases
from experiments.config import Job
from experiments.console import console
from experiments.plan_phases import Phase, Steps, process_bytes, seconds_of
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chain.write_images(tmp_path_factory.mktemp("plan") / "tiny.npz")


def two_stages(images: Path) -> Job:
    content = tiny_chain.content(images)
    content["retrain"] |= {"stages": "two", "recipe": {"epochs": 3, "batch_size": 8}, "round_steps": 4}
    return api.make_job(content)


@pytest.fixture(scope="module")
def planned(images: Path) -> plan.Plan:
    return plan.plan(two_stages(images), isolated=False)


def test_phases_steps_and_rounds_are_those_of_the_job(planned: plan.Plan, images: Path) -> None:
    assert planned.architectures == two_stages(images).make_space().count()
    counts = {phase.name: {steps.name: steps.count for steps in phase.steps} for phase in planned.phases}
    # 24 images of each half in batches of 8, two epochs, a fifth of them warm-up; 48 images in two stages of 1 and 2.
    assert counts == {
        "search": {"weights": 1, "weights and alphas": 5},
        "retrain, real-weights": {"training": 6},
        "retrain, binary": {"training": 12},
        "export and test": {"test by torch": 1, "export": 1, "test of the packed file, cpu": 2},
    }
    assert [phase.rounds for phase in planned.phases] == [3, 2, 3, 0]
    assert all(steps.seconds_each > 0 for phase in planned.phases for steps in phase.steps)


def test_sums(planned: plan.Plan) -> None:
    phase = dataclasses.replace(
        planned.phases[0], steps=(Steps("a", 3, 2.0), Steps("b", 2, 5.0)), rounds=4, round_seconds=0.5
    )
    assert (phase.seconds, phase.seconds_per_round) == (18.0, 4.5)
    assert planned.phases[-1].seconds_per_round is None
    assert planned.seconds == sum(phase.seconds for phase in planned.phases)
    search, first, second, last = planned.phases
    kept = search.kept_bytes + first.kept_bytes + second.kept_bytes + last.kept_bytes
    largest = max(first.checkpoint_bytes, second.checkpoint_bytes)
    assert planned.disk_bytes == 2 * (search.checkpoint_bytes + largest) + kept


def test_bytes_are_those_that_runs_leave(planned: plan.Plan, images: Path, tmp_path: Path) -> None:
    job = two_stages(images)
    found = api.search(job, tmp_path / "run")
    trained = api.retrain(job, planned.genotype, tmp_path / "run")
    search, _, second, _ = planned.phases
    for phase, files in ((search, found.files), (second, trained.files)):
        # The runs' own checkpoints also hold the job.
        assert 0 < files.checkpoint.stat().st_size - phase.checkpoint_bytes < 4096
    assert 0.5 < search.kept_bytes / found.files.history.stat().st_size < 2


def test_random_search_is_planned_by_several_candidates(images: Path) -> None:
    phase = plan_phases.measure_search(tiny_chain.job(images, strategy="random"))
    assert {steps.name: steps.count for steps in phase.steps} == {"training": 6, "scoring": 6}
    assert phase.time_keys == ("search.options.samples", "search.options.epochs")


def test_a_network_with_real_weights_is_not_exported(images: Path) -> None:
    content = tiny_chain.content(images)
    content["retrain"]["scheme"] = "real"
    job = api.make_job(content)
    phase = plan_phases.measure_deployment(job, api.random_genotype(job))
    assert [steps.name for steps in phase.steps] == ["test by torch"]
    assert phase.note is not None
    assert phase.note.startswith("cannot be exported: ")


def test_the_first_call_of_a_step_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    lasting = iter([100.0, 1.0, 9.0, 2.0, 1.0, 1.0, 7.0])

    def step() -> None:
        clock[0] += next(lasting)

    monkeypatch.setattr(plan_phases.time, "perf_counter", lambda: clock[0])
    # The first one is longer than all the time there is, and still another one is timed.
    assert seconds_of(step) == 1.0
    lasting = iter([1.0, 3.0, 2.0, 2.0, 9.0, 2.5, 50.0])
    assert seconds_of(step) == 2.5
    assert next(lasting) == 50.0


def test_memory_of_this_process() -> None:
    before = process_bytes("VmRSS")
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert process_bytes("VmRSS") - before > 48 * 2**20
    del block
    assert process_bytes("VmHWM") > before + 48 * 2**20


def killed(job: Job) -> Phase:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def refused(job: Job) -> Phase:
    raise BnasError("data: not there")


def test_a_phase_that_the_system_ends_names_keys(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_chain.job(images)
    monkeypatch.setattr(plan, "measure_search", killed)
    with pytest.raises(BnasError, match="search: the system ended its process") as caught:
        plan.plan(job)
    assert "search.batch_size (now 8), search.size.channels (now 4), search.size.cells (now 3)" in str(caught.value)


def test_an_error_of_a_phase_comes_through(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "measure_search", refused)
    with pytest.raises(BnasError, match="data: not there"):
        plan.plan(tiny_chain.job(images))


def test_running_out_of_memory_names_keys(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*given: Any) -> Any:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(plan_phases, "seconds_of", exhausted)
    job = tiny_chain.job(images)
    with pytest.raises(BnasError, match=r"search: out of memory. 2.00 GiB .* search.batch_size \(now 8\)"):
        plan_phases.measure_search(job)
    with pytest.raises(BnasError, match=r"retrain: out of memory. 2.00 GiB .* retrain.recipe.batch_size \(now 8\)"):
        plan_phases.measure_stage(job, api.random_genotype(job), 0)


def test_the_command(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny_chain.content(images)
    file = tiny_chain.write_job(tmp_path / "tiny.yaml", content)
    monkeypatch.chdir(tmp_path)
    # With its own processes.
    said = bnas(capsys, "plan", file, "--json", tmp_path / "plan.json", "--set", "search.batch_size=6")
    assert (said.code, said.err) == (0, "")
    for text in (
        "architectures",
        "weights and alphas",
        "peak memory",
        "in all",
        "on the disk",
        "a random architecture",
    ):
        assert text in said.out
    assert (
        "half the value, about half the time: search.options.epochs (now 2), retrain.recipe.epochs (now 1)" in said.out
    )
    assert "memory beyond the start: search.batch_size (now 6), search.size.channels (now 4)" in said.out
    written = json.loads((tmp_path / "plan.json").read_text())
    assert [phase["name"] for phase in written["phases"]] == ["search", "retrain, joint", "export and test"]
    for phase in written["phases"]:
        assert phase["memory_bytes"] > phase["start_bytes"] > 2**20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "tiny.yaml"]


def test_the_command_retrains_a_given_genotype(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_in_own_process", lambda name, measure, job: measure())
    job = tiny_chain.job(images)
    file = tiny_chain.write_job(tmp_path / "tiny.yaml", tiny_chain.content(images))
    genotype = api.random_genotype(job, "another")
    (tmp_path / "g.json").write_text(genotype.to_json())
    said = bnas(capsys, "plan", file, "--genotype", tmp_path / "g.json", "--json", tmp_path / "p.json")
    assert said.code == 0
    assert "random architecture" not in said.out
    assert json.loads((tmp_path / "p.json").read_text())["genotype"] == genotype.to_dict()


def test_the_command_names_file_and_key(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_in_own_process", lambda name, measure, job: measure())
    file = tiny_chain.write_job(tmp_path / "tiny.yaml", tiny_chain.content(tmp_path / "none.npz"))
    said = bnas(capsys, "plan", file)
    assert said.code == 2
    assert f"{file}: data: there is no file" in said.err


def test_notes_and_the_gpu_are_shown(
    planned: plan.Plan, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 200)
    first = dataclasses.replace(planned.phases[0], cuda_bytes=3 * 2**30, note="is odd")
    long = dataclasses.replace(first, steps=(Steps("training", 10**6, 90.0),), rounds=10)
    plan_command.show(
        dataclasses.replace(planned, phases=(long,), architectures=10**18), two_stages(images), is_random=False
    )
    shown = capsys.readouterr().out
    for text in ("1.00e+18 architectures", "on the GPU", "3.00 GiB", "search: is odd", "1 min 30 s", "1041 d 16 h"):
        assert text in shown
