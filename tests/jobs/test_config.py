"""Job files: every mistake is one message with the file, the key, what was found and what is allowed."""

import dataclasses
import inspect

import pytest

from bnas.binary import SCHEMES
from bnas.data import READERS
from bnas.errors import BnasError
from experiments import yaml_file
from experiments.config import JobError, about, fingerprint, resolve_device, strategy_options
from experiments.job_files import load_job, make_job, shipped_jobs
from experiments.job_text import OURS, job_text, keys, our_defaults
from search_spaces import SPACES
from strategies import STRATEGIES
from tests.jobs import tiny_chain


def job_file(tmp_path, text="seed: 0\n", name="my.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def message(path, *settings):
    with pytest.raises(BnasError) as caught:
        load_job(path, settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        # A misspelt key at every level: where, what there is, the nearest.
        ("sead=1", "unknown key 'sead'; there are: seed, device, "),
        ("sead=1", ". Did you mean 'seed'?"),
        ("data.nmae=x", "data: unknown key 'nmae'; there are: name, path, options, "),
        ("space.arg={}", "space: unknown key 'arg'; there are: name, args. Did you mean 'args'?"),
        (
            "space.args.nods=2",
            "space.args: no argument of space bats named 'nods'; there are: nodes, open. Did you mean",
        ),
        ("search.stratgy=darts", "search: unknown key 'stratgy'; there are: strategy, options, scheme, "),
        ("search.options.epoch=1", "search.options: unknown key 'epoch'; there are: epochs, learning_rate, "),
        ("search.size.chanels=1", "search.size: unknown key 'chanels'; there are: cells, channels, "),
        ("search.scheme_options.strct=true", "search.scheme_options: no option of scheme binary-activations named"),
        (
            "search.augmentation.flp=true",
            "search.augmentation: unknown key 'flp'; there are: crop_padding, flip, cutout.",
        ),
        ("retrain.recipe.learning_rat=1", "retrain.recipe: unknown key 'learning_rat'; there are: optimizer, "),
        ("retrain.recipe.learning_rat=1", "Did you mean 'learning_rate'?"),
        ("retrain.size.auxilary=1", "retrain.size: unknown key 'auxilary'; there are: "),
        (
            "retrain.scheme_options.strct=true",
            "retrain.scheme_options: no option of scheme bats named 'strct'; there are:",
        ),
        # A wrong type.
        ("seed=x", "seed: expected a whole number, found 'x'"),
        ("seed=", "seed: expected a whole number, found nothing (null)"),
        ("threads=1.5", "threads: expected a whole number, found 1.5"),
        ("deterministic=yes", "deterministic: expected true or false, found 'yes'"),
        ("data=npz", "data: expected a table of keys and values, found 'npz'"),
        ("data.path=3", "data.path: expected a word, found 3"),
        ("search.options=[1]", "search.options: expected a table of keys and values, found [1]"),
        ("search.options.epochs=1e1", "search.options.epochs: expected a whole number, found 10.0"),
        ("search.options.learning_rate=.inf", "search.options.learning_rate: expected a number, found '.inf'"),
        ("search.augmentation.flip=no", "search.augmentation.flip: expected true or false, found 'no'"),
        ("space.args.nodes=two", "space.args: space bats: argument nodes takes a whole number, got 'two'"),
        ("retrain.recipe.betas=[0.9]", "retrain.recipe.betas: expected a list of 2, found 1: [0.9]"),
        (
            "retrain.scheme_options.strict=3",
            "retrain.scheme_options: scheme bats: option strict takes true or false, got 3",
        ),
        # An unknown name.
        ("data.name=digitz", "data.name: no data set named 'digitz'; there are: digits, "),
        ("data.name=digitz", "Did you mean 'digits'?"),
        ("space.name=batz", "space.name: no search space named 'batz'; there are: bats, "),
        ("search.strategy=dart", "search.strategy: no strategy named 'dart'; there are: darts, "),
        ("search.scheme=bat", "search.scheme: no scheme named 'bat'; there are: real, "),
        ("retrain.scheme=bireel", "retrain.scheme: no scheme named 'bireel'; there are: real, "),
        ("retrain.scheme=bireel", "Did you mean 'bireal'?"),
        ("retrain.scheme_options.scale_start=two", "retrain.scheme_options: no start of a learned scale named 'two'"),
        (
            "retrain.stages=three",
            "retrain.stages: no mode of stages named 'three'; there are: auto, one, two, layerwise.",
        ),
        ("retrain.recipe.optimizer=adm", "retrain.recipe: no recipe.optimizer named 'adm'; there are: adam, sgd, bop."),
        # A value out of range.
        ("threads=-1", "threads is -1; it must be an integer at least 0 and at most 1024"),
        ("threads=100000", "threads is 100000; it must be an integer at least 0 and at most 1024"),
        ("search.batch_size=0", "search.batch_size is 0; it must be an integer at least 1"),
        ("search.train_fraction=1.0", "search.train_fraction is 1.0; it must be a finite number above 0 and below 1"),
        ("search.options.epochs=0", "search.options: epochs is 0; it must be an integer at least 1"),
        ("search.size.cells=0", "search.size: cells: at least 1, got 0"),
        ("search.size.channels=13", "search.size: channels 13 cannot be divided by groups = 12: channels of 12 or 24"),
        (
            "search.augmentation.cutout=-1",
            "search.augmentation: cutout is a number of pixels, 0 (off) or more; found -1",
        ),
        ("space.args.nodes=0", "space.args: space bats: nodes is 1 to 7, got 0"),
        ("retrain.recipe.learning_rate=0", "retrain.recipe: recipe.learning_rate is 0.0; it must be a finite number"),
        ("retrain.round_steps=-1", "retrain.round_steps is -1; it must be an integer at least 0"),
        ("retrain.first_stage_weight_decay=-1", "retrain.first_stage_weight_decay is -1.0; it must be a finite number"),
        ("retrain={stages: two, recipe: {epochs: 1}}", "retrain.stages: two stages need at least 2 epochs; found 1"),
    ],
)
def test_each_mistake_names_the_file_and_the_key(tmp_path, assignment, said):
    path = job_file(tmp_path)
    found = message(path, assignment)
    assert found.startswith(f"{path} --set {assignment}: ")
    assert said in found
    key = assignment.partition("=")[0]
    if said.startswith(key):
        # The same mistake in the file itself.
        assert found == message_of_content(tmp_path, assignment).replace(path, f"{path} --set {assignment}")


def message_of_content(tmp_path, assignment):
    key, _, text = assignment.partition("=")
    for part in reversed(key.split(".")):
        text = f"{{{part}: {text}}}"
    return message(job_file(tmp_path, text + "\n"))


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("seed", "--set seed: expected section.key=value, such as search.options.epochs=5"),
        ("=3", "--set =3: expected section.key=value, such as search.options.epochs=5"),
        ("a..b=3", "--set a..b=3: expected section.key=value, such as search.options.epochs=5"),
        ("seed.x=3", "--set seed.x=3: 'seed' is the value 0, not a table of keys"),
        ("search=[", "--set search=[ line 1: expected the node content, but found '<stream end>'"),
        ("seed=1e400", "--set seed=1e400 line 1: 1e400 is too large for a number"),
        ("seed=*x", "--set seed=*x line 1: aliases are not taken here"),
    ],
)
def test_a_malformed_setting(tmp_path, assignment, said):
    assert message(job_file(tmp_path), assignment) == said


def test_settings_change_the_job_and_the_last_one_counts(tmp_path):
    path = job_file(tmp_path, "search:\nretrain: {recipe: {epochs: 7}}\n")
    job = load_job(
        path, ["search.options.epochs=3", "seed=1", "seed=2", "data.path=no", "retrain.recipe.betas=[0, 0.5]"]
    )
    assert strategy_options(job).epochs == 3
    assert (job.seed, job.data.path) == (2, "no")
    assert (job.retrain.recipe.epochs, job.retrain.recipe.betas) == (7, (0.0, 0.5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1\n", ": a job is a table of keys and values, found [1]"),
        ("seed\n", ": a job is a table of keys and values, found 'seed'"),
        ("seed: 1\nsearch:\n  batch_size: 8\n  batch_size: 9\n", " line 4: the key 'batch_size' stands here twice"),
        ("seed: [\n", " line 2: expected the node content, but found '<stream end>'"),
        ("a: &a [1]\nb: *a\n", " line 2: aliases are not taken here"),
    ],
)
def test_what_is_no_job_at_all(tmp_path, text, said):
    path = job_file(tmp_path, text)
    assert message(path) == path + said


def test_an_empty_file_and_empty_tables_are_the_defaults(tmp_path):
    assert load_job(job_file(tmp_path, "# nothing\n")) == make_job({})
    assert load_job(job_file(tmp_path, "search:\nretrain:\n  recipe:\n")) == make_job({})


def test_a_job_is_found_by_its_file_or_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = ", ".join(shipped_jobs())
    assert message("nope.yaml") == f"there is no file nope.yaml; bnas ships the jobs {listed}."
    assert message("runs/digits_bat.yaml") == (
        f"there is no file runs/digits_bat.yaml; bnas ships the jobs {listed}. Did you mean 'digits_bats'?"
    )
    assert message("digits_bat") == (
        f"'digits_bat' is neither a file nor a shipped job; bnas ships the jobs {listed}. Did you mean 'digits_bats'?"
    )
    assert message(".") == ". is a folder; a job is a YAML file, such as the job.yaml in the folder of a run"
    shipped = load_job("digits_bats")
    (tmp_path / "digits_bats").mkdir()
    assert load_job("digits_bats") == shipped
    (tmp_path / "digits_bats").rmdir()
    job_file(tmp_path, "seed: 5\n", "digits_bats")
    assert load_job("digits_bats").seed == 5


@pytest.mark.parametrize("name", shipped_jobs())
def test_every_shipped_job_loads(name):
    load_job(name)


def test_a_job_that_is_made_in_python_names_no_file():
    with pytest.raises(BnasError, match=r"^seed: expected a whole number, found 'x'$"):
        make_job({"seed": "x"})
    assert make_job({"seed": 3}).seed == 3


COMBINATIONS = [
    *({"search": {"strategy": strategy}} for strategy in STRATEGIES),
    *({"space": {"name": space}} for space in SPACES),
    *({"retrain": {"scheme": scheme}, "search": {"scheme": scheme}} for scheme in SCHEMES),
    *({"data": {"name": data}} for data in READERS),
    {
        "data": {
            "name": "npz",
            "path": "1e3",
            "options": {"layout": "no # yes", "1e3": [1, None, {"x": 0.1}], "a: b": {"#": "~"}},
        }
    },
    {"retrain": {"scheme_options": {"strict": False}}, "seed": 2**70, "space": {"args": {"nodes": 2}}},
]


@pytest.mark.parametrize("explained", [False, True])
@pytest.mark.parametrize("content", COMBINATIONS, ids=str)
def test_a_job_as_it_is_written_loads_to_an_equal_job(tmp_path, content, explained):
    job = make_job(content)
    text = job_text(job, explained=explained)
    assert load_job(job_file(tmp_path, text)) == job
    assert fingerprint(load_job(job_file(tmp_path, text)), "search") == fingerprint(job, "search")
    if explained:
        lines = text.splitlines()[1:]
        assert [line for line in lines if "  # " not in line] == []
        assert len(lines) == len(list(keys(job)))


def test_the_job_of_a_run_holds_every_option_also_those_that_were_not_given():
    job = make_job({})
    written = yaml_file.parse(job_text(job), "t")
    options = STRATEGIES["darts"].options
    assert set(written["search"]["options"]) == {field.name for field in dataclasses.fields(options)}
    assert written["space"]["args"] == {"nodes": inspect.signature(SPACES["bats"]).parameters["nodes"].default}
    assert written["search"]["size"].keys() == written["retrain"]["size"].keys()
    # The papers' sizes of the retrained network.
    assert (written["retrain"]["size"]["cells"], written["retrain"]["size"]["channels"]) == (20, 36)
    assert written["search"]["size"]["cells"] == 8


def test_defaults_of_ours_are_marked_and_the_papers_are_not():
    lines = {line.strip().partition(":")[0]: line for line in job_text(make_job({}), explained=True).splitlines()}
    assert OURS in lines["alpha_warmup"]
    assert OURS not in lines["optimizer"]
    assert OURS not in lines["seed"]
    assert OURS in lines["# [ours]"]
    marked = our_defaults(make_job({}))
    assert marked["search.options.alpha_warmup"] == 0.2
    assert marked["retrain.stages"] == "auto"
    assert not {"seed", "device", "data.name", "search.options.epochs", "retrain.recipe.epochs"} & set(marked)


def test_a_value_that_the_job_chose_is_not_marked():
    chosen = make_job({"search": {"options": {"alpha_warmup": 0.3}}, "retrain": {"stages": "one"}})
    assert not {"search.options.alpha_warmup", "retrain.stages"} & set(our_defaults(chosen))
    text = job_text(chosen)
    assert "alpha_warmup: 0.3\n" in text
    assert f"temperature_end: 0.2          # {OURS}\n".replace(" ", "") in text.replace(" ", "")


def test_free_tables_say_which_keys_they_may_have():
    text = job_text(make_job({"data": {"name": "npz", "path": "x"}, "retrain": {"scheme": "xnor"}}), explained=True)
    lines = text.splitlines()
    assert any(line.strip().startswith("options: {}") and line.endswith(": layout") for line in lines)
    assert any(
        "scheme_options: {}" in line and line.endswith(": weight_gradient, centre, input_scale, stochastic")
        for line in lines
    )
    text = job_text(make_job({"retrain": {"scheme": "real"}}), explained=True)
    assert any("scheme_options: {}" in line and line.endswith(": stochastic") for line in text.splitlines())


def test_a_search_depends_on_no_key_of_the_retraining_and_the_other_way_round():
    one, two = make_job({}), make_job({"retrain": {"scheme": "bnn"}, "search": {"batch_size": 3}})
    assert "retrain.scheme" not in fingerprint(one, "search")
    assert "search.batch_size" not in fingerprint(one, "retrain")
    differing = {key for key, value in fingerprint(one, "search").items() if fingerprint(two, "search")[key] != value}
    assert differing == {"search.batch_size"}


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(JobError, match=r"^device: there is no 'cuda' here; there is auto, cpu$"):
        resolve_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert str(resolve_device("auto")) == "cuda"
    assert str(resolve_device("cuda:1")) == "cuda:1"
    with pytest.raises(
        JobError, match=r"^device: there is no 'cuda:2' here; there is auto, cpu, cuda, cuda:0, cuda:1$"
    ):
        resolve_device("cuda:2")


def test_a_key_is_put_in_front_of_an_error():
    with pytest.raises(JobError, match=r"^data: it is gone$"), about("data"):
        raise BnasError("it is gone")


def test_the_tiny_job_of_these_tests_is_one(tmp_path):
    for strategy in tiny_chain.OPTIONS:
        made = tiny_chain.job(tmp_path / "x.npz", strategy=strategy)
        assert strategy_options(made) == STRATEGIES[strategy].options(**tiny_chain.OPTIONS[strategy])
