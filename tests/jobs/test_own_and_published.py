"""The command line with a space of one's own, with published genotypes, and `bnas space`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ["--set", "search.batch_size=256", "--set", "retrain.recipe.epochs=1"]


def bnas(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from experiments.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize(
    ("strategy", "options"), [("darts", "{epochs: 1}"), ("random", "{samples: 2, epochs: 1}")], ids=["darts", "random"]
)
def test_the_example_space_is_searched_retrained_packed_and_verified(
    tmp_path: Path, strategy: str, options: str
) -> None:
    run = str(tmp_path / "run")
    settings = ["--set", f"search.strategy={strategy}", "--set", f"search.options={options}"]
    done = bnas("search", "examples/own_space.yaml", *settings, *QUICK, "--run", run)
    assert done.returncode == 0, done.stderr
    for step in (["retrain", run], ["export", run], ["verify", f"{run}/retrain-bats-seed0/model.bnas"]):
        done = bnas(*step)
        assert done.returncode == 0, done.stderr


def test_a_plugin_on_the_command_line_does_what_the_job_s_key_does(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("data: {name: digits}\nspace: {name: own}\n")
    without = bnas("summary", str(job))
    assert without.returncode == 2
    assert "no search space named 'own'" in without.stderr
    with_plugin = bnas("summary", str(job), "--plugin", "examples.own_space")
    assert with_plugin.returncode == 0, with_plugin.stderr
    assert "own under bats" in with_plugin.stdout


def test_a_published_genotype_is_retrained_by_name(tmp_path: Path) -> None:
    refused = bnas("retrain", "bnas_a")
    assert refused.returncode == 2
    assert "without images to train it on: add --set data.name=cifar10" in refused.stderr
    out = tmp_path / "summary.json"
    images = ["--set", "data.name=digits"]
    done = bnas("summary", "bnas_a", *images, "--json", str(out))
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert content["spec"]["size"]["cells"] == 20
    assert content["spec"]["size"]["channels"] == 36
    assert content["spec"]["scheme"] == "xnor"
    size = ["--set", "retrain.size={cells: 3, channels: 4}", "--set", "retrain.recipe.epochs=1", "--set", "threads=1"]
    done = bnas("retrain", "bnas_a", *images, *size, "--run", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").glob("retrain-*/checkpoint.pt"))


def test_init_from_search_is_the_key_of_the_job(tmp_path: Path) -> None:
    refused = bnas("retrain", "bnas_a", "--set", "data.name=digits", "--init-from-search", "--run", str(tmp_path / "r"))
    assert refused.returncode == 2
    assert "init_from_search" in refused.stderr


def test_a_misspelt_published_name_and_a_bad_image_shape_have_messages() -> None:
    assert "bnas_a" in bnas("plot", "bnas_aa").stderr or "there is no file" in bnas("plot", "bnas_aa").stderr
    wrong = bnas("space", "bats", "--images", "32x32")
    assert wrong.returncode == 2
    assert "--images 32x32: expected channels x height x width, such as 3x32x32" in wrong.stderr
    assert "Did you mean 'bats'" in bnas("space", "bat").stderr


def test_the_page_of_a_space_is_printed_drawn_and_written(tmp_path: Path) -> None:
    picture, content = tmp_path / "space.svg", tmp_path / "space.json"
    settings = ["--set", "space.args.nodes=1", "--set", "search.size={cells: 3, channels: 12}"]
    settings += ["--set", "retrain.size={cells: 3, channels: 12, auxiliary: false}"]
    done = bnas("space", "bats", *settings, "--to", str(picture), "--json", str(content))
    assert done.returncode == 0, done.stderr
    assert "normal.edge_0_2 ... reduction.edge_1_2" in done.stdout.replace("\n", " ")
    assert "stays real" in done.stdout
    assert json.loads(content.read_text())["architectures"] == 7**4
    assert picture.read_text().lstrip().startswith("<?xml")
