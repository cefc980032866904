"""`bnas compare`: entries, table, cut off and continued, bad input."""

import json
from pathlib import Path
from typing import Any

import pytest

from bnas.progress import Record, SilentReporter
from bnas.stopping import StopRequest
from experiments.compare import RESULT, TABLE, compare
from experiments.compare_entries import entries
from experiments.job_files import make_job
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas

STRATEGIES = {
    "seeds": 2,
    "compare": ["darts", "random"],
    "compare_options": {"random": {"search": {"options": tiny_chain.OPTIONS["random"]}}},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chain.write_images(tmp_path_factory.mktemp("images") / "tiny.npz")


def content(images: Path, **keys: Any) -> dict[str, Any]:
    return {**tiny_chain.content(images), **STRATEGIES, **keys}


def write(images: Path, folder: Path, **keys: Any) -> Path:
    return tiny_chain.write_job(folder / "job.yaml", content(images, **keys))


def without_times(table: Any) -> Any:
    if isinstance(table, dict):
        return {key: without_times(value) for key, value in table.items() if not key.endswith("seconds")}
    return [without_times(value) for value in table] if isinstance(table, list) else table


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["bnas", "compare", str(write(images, folder)), "--run", "run"])
        with pytest.raises(SystemExit) as ended:
            tiny_chain.cli.main()
    assert ended.value.code == 0
    table: dict[str, Any] = json.loads((folder / "run" / TABLE).read_text())
    return table


def test_the_table_has_every_entry_and_seed(whole: dict[str, Any]) -> None:
    assert (whole["baseline"], whole["done"], whole["total"]) == ("random", 4, 4)
    darts, random = whole["rows"]
    assert (darts["name"], random["name"]) == ("darts", "random")
    for row in (darts, random):
        assert list(row["accuracies"]) == ["0", "1"]
        assert row["accuracy"]["mean"] == pytest.approx(sum(row["accuracies"].values()) / 2)
        assert row["verified"] == "yes"
        assert row["means"]["packed_bytes"] > 1000
        assert row["means"]["macs_binary"] > row["means"]["macs_real"] > 0
    # Two epochs of 24 images, and as many of validation after the warm-up; two candidates for an epoch of 24.
    assert darts["means"]["search_samples"] > random["means"]["search_samples"] == 48
    paired = [darts["accuracies"][seed] - random["accuracies"][seed] for seed in "01"]
    assert darts["against_baseline"]["mean"] == pytest.approx(sum(paired) / 2)
    assert darts["against_baseline"]["verdict"] == "too few seeds"
    assert random["against_baseline"] is None


class StopsAfter(SilentReporter):
    """Asks for a stop when it has been told of so many rounds."""

    def __init__(self, rounds: int, stop: StopRequest) -> None:
        self.left, self.stop = rounds, stop

    def round(self, record: Record) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop.request("enough")


def test_cut_off_again_and_again_it_comes_to_the_same_end(images: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    job, done = make_job(content(images)), [0]
    while done[-1] < 4:
        with StopRequest() as stop:
            reporter = StopsAfter(3, stop)
            found = compare(job, tmp_path, reporter=lambda best, r=reporter: r, say=lambda text: None, stop=stop)
        done.append(found.done)
        assert found.finished == (stop.reason is None or found.done == 4)
    # Some were cut off in the middle of an entry.
    assert len(done) > len(set(done))
    assert done == sorted(done)
    assert without_times(json.loads((tmp_path / TABLE).read_text())) == without_times(whole)


def test_the_command_says_how_to_go_on(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write(images, tmp_path)
    said = bnas(capsys, "compare", job, "--run", tmp_path / "run", "--max-minutes", "0.0001")
    assert said.code == 3
    assert "stopped with 0 of 4 done: the 0.0001 minutes are over" in said.out
    assert f"to go on: bnas compare {job}" in said.out


def test_what_is_finished_is_not_done_again_and_another_baseline_may_be_asked_for(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write(images, tmp_path, seeds=1)
    assert bnas(capsys, "compare", job, "--run", tmp_path / "run").code == 0
    result = tmp_path / "run" / "darts-seed0" / RESULT
    before = result.stat().st_mtime_ns
    said = bnas(capsys, "compare", job, "--run", tmp_path / "run", "--against", "darts")
    assert said.code == 0
    assert "round " not in said.out
    assert "against darts" in said.out
    assert "too few seeds" in said.out
    assert result.stat().st_mtime_ns == before
    result.write_text("{")
    assert bnas(capsys, "compare", job, "--run", tmp_path / "run").code == 0
    assert json.loads(result.read_text())["verified"] is True
    changed = bnas(capsys, "compare", job, "--run", tmp_path / "run", "--set", "search.batch_size=4")
    assert changed.code == 2
    assert "search.batch_size: was 8, now 4" in changed.err


def test_schemes_of_one_genotype(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genotype = tmp_path / "genotype.json"
    space = make_job(tiny_chain.content(images)).make_space()
    genotype.write_text(space.random(tiny_chain.np.random.default_rng(0)).to_json())
    job = write(images, tmp_path, seeds=1, compare=["bats", "real"], compare_options={}, genotype=str(genotype))
    said = bnas(capsys, "compare", job, "--run", tmp_path / "run")
    assert said.code == 0, said.err
    table = json.loads((tmp_path / "run" / TABLE).read_text())
    assert table["baseline"] == "bats"
    assert [row["verified"] for row in table["rows"]] == ["yes", "not packed"]
    assert all(row["means"]["search_samples"] == 0 for row in table["rows"])
    said = bnas(capsys, "search", job, "--run", tmp_path / "other")
    assert said.code == 2
    assert "there is nothing to search: train it by bnas retrain" in said.err


def test_options_belong_to_the_name_beside_them(images: Path) -> None:
    options = {
        "every": {"search": {"batch_size": 4}},
        "longer": {"search": {"options": {"epochs": 3}}},
        "random": {"search": {"batch_size": 6}},
    }
    job = make_job(content(images, compare=["darts", "longer", "random"], compare_options=options, seeds=2))
    found = {entry.folder: entry.job for entry in entries(job)}
    assert list(found) == [f"{name}-seed{seed}" for seed in (0, 1) for name in ("darts", "longer", "random")]
    assert found["darts-seed1"].seed == 1
    assert found["darts-seed0"].search.options["epochs"] == 2
    assert found["longer-seed0"].search.options["epochs"] == 3
    # The job's own options are darts'.
    assert found["random-seed0"].search.options["samples"] == 8
    assert [found[f"{name}-seed0"].search.batch_size for name in ("darts", "longer", "random")] == [4, 4, 6]


def test_a_strategy_brings_its_own_scheme_unless_the_job_says_another(images: Path) -> None:
    names = ["darts", "child_parent", "random"]
    auto = make_job(content(images, compare=names, compare_options={}))
    assert [entry.job.search.scheme for entry in entries(auto)][:3] == [
        "binary-activations",
        "xnor",
        "binary-activations",
    ]
    job = content(images, compare=names, compare_options={})
    job["search"]["scheme"] = "bats"
    assert {entry.job.search.scheme for entry in entries(make_job(job))} == {"bats"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"compare": []}, "compare is empty: name at least one strategy or scheme"),
        ({"compare": ["dart", "random"]}, "dart is neither a strategy (darts, "),
        ({"compare": ["dart", "random"]}, "Did you mean 'darts'?"),
        ({"compare": ["random", "random"]}, "compare: random is named twice"),
        ({"compare_options": {"rand": {}}}, "compare_options: rand is not in compare (darts, random, every)"),
        ({"compare_options": {"darts": {"seed": 3}}}, "compare_options.darts: seed is one for the whole comparison"),
        ({"compare_options": {"darts": 3}}, "compare_options.darts: expected a table of keys of the job"),
        ({"compare_options": {"darts": {"search": {"option": 3}}}}, "compare: darts: search: unknown key 'option'"),
        ({"genotype": "bnas_a"}, "genotype bnas_a leaves nothing to search"),
        ({"seeds": 0}, "seeds is 0; it must be an integer at least 1"),
    ],
)
def test_jobs_that_say_something_else(
    keys: dict[str, Any], said: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bnas(capsys, "compare", write(images, tmp_path, **keys), "--run", tmp_path / "run")
    assert found.code == 2
    assert said in found.err
    assert not (tmp_path / "run").exists()


def test_a_baseline_that_is_not_there(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bnas(capsys, "compare", write(images, tmp_path), "--against", "evolution")
    assert found.code == 2
    assert "--against evolution: there is no such entry; compare has darts, random" in found.err
