"""The command line with a space of one's own, with published genotypes, and `bnas space`."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments import plugins
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import Said

ROOT = Path(__file__).parents[2]
QUICK = ["--set", "search.batch_size=256", "--set", "retrain.recipe.epochs=1"]
Command = Callable[..., Said]


@pytest.fixture
def bnas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The command line in the project's folder; what plugins add is forgotten before each command, as in a new process."""
    before = {name: dict(table) for name, table in plugins.TABLES.items()}
    monkeypatch.chdir(ROOT)

    def forget() -> None:
        sys.modules.pop("examples.own_space", None)
        for name, entries in before.items():
            plugins.TABLES[name]._entries = dict(entries)

    def command(*words: object) -> Said:
        forget()
        return tiny_chain.bnas(capsys, *words)

    yield command
    forget()


@pytest.mark.parametrize(
    ("strategy", "options"), [("darts", "{epochs: 1}"), ("random", "{samples: 2, epochs: 1}")], ids=["darts", "random"]
)
def test_the_example_space_is_searched_retrained_packed_and_verified(
    bnas: Command, tmp_path: Path, strategy: str, options: str
) -> None:
    run = str(tmp_path / "run")
    settings = ["--set", f"search.strategy={strategy}", "--set", f"search.options={options}"]
    done = bnas("search", "examples/own_space.yaml", *settings, *QUICK, "--run", run)
    assert done.code == 0, done.err
    for step in (["retrain", run], ["export", run], ["verify", f"{run}/retrain-bats-seed0/model.bnas"]):
        done = bnas(*step)
        assert done.code == 0, done.err


def test_a_plugin_on_the_command_line_does_what_the_job_s_key_does(bnas: Command, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("data: {name: digits}\nspace: {name: own}\n")
    without = bnas("summary", str(job))
    assert without.code == 2
    assert "no search space named 'own'" in without.err
    with_plugin = bnas("summary", str(job), "--plugin", "examples.own_space")
    assert with_plugin.code == 0, with_plugin.err
    assert "own under bats" in with_plugin.out


def test_a_published_genotype_is_retrained_by_name(bnas: Command, tmp_path: Path) -> None:
    refused = bnas("retrain", "bnas_a")
    assert refused.code == 2
    assert "without images to train it on: add --set data.name=cifar10" in refused.err
    out = tmp_path / "summary.json"
    images = ["--set", "data.name=digits"]
    done = bnas("summary", "bnas_a", *images, "--json", str(out))
    assert done.code == 0, done.err
    content = json.loads(out.read_text())
    assert content["spec"]["size"]["cells"] == 20
    assert content["spec"]["size"]["channels"] == 36
    assert content["spec"]["scheme"] == "xnor"
    size = ["--set", "retrain.size={cells: 3, channels: 4}", "--set", "retrain.recipe.epochs=1", "--set", "threads=1"]
    done = bnas("retrain", "bnas_a", *images, *size, "--run", str(tmp_path / "run"))
    assert done.code == 0, done.err
    assert list((tmp_path / "run").glob("retrain-*/checkpoint.pt"))


def test_init_from_search_is_the_key_of_the_job(bnas: Command, tmp_path: Path) -> None:
    refused = bnas("retrain", "bnas_a", "--set", "data.name=digits", "--init-from-search", "--run", str(tmp_path / "r"))
    assert refused.code == 2
    assert "init_from_search" in refused.err


def test_a_misspelt_published_name_and_a_bad_image_shape_have_messages(bnas: Command) -> None:
    assert bnas("plot", "bnas_aa").err == (
        "error: there is no file or folder bnas_aa, and no published genotype of that name. Did you mean 'bnas_a'?\n"
    )
    wrong = bnas("space", "bats", "--images", "32x32")
    assert wrong.code == 2
    assert "--images 32x32: expected channels x height x width, such as 3x32x32" in wrong.err
    assert "Did you mean 'bats'" in bnas("space", "bat").err


def test_the_page_of_a_space_is_printed_drawn_and_written(bnas: Command, tmp_path: Path) -> None:
    picture, content = tmp_path / "space.svg", tmp_path / "space.json"
    settings = ["--set", "space.args.nodes=1", "--set", "search.size={cells: 3, channels: 12}"]
    settings += ["--set", "retrain.size={cells: 3, channels: 12, auxiliary: false}"]
    done = bnas("space", "bats", *settings, "--to", str(picture), "--json", str(content))
    assert done.code == 0, done.err
    assert "normal.edge_0_2 ... reduction.edge_1_2" in done.out.replace("\n", " ")
    assert "stays real" in done.out
    assert json.loads(content.read_text())["architectures"] == 7**4
    assert picture.read_text().lstrip().startswith("<?xml")
