"""What a user can get wrong on the command line: one message, exit code 2, no traceback, nothing written."""

import json
import shutil

import pytest
from PIL import Image

from bnas.deploy import file
from experiments import cli
from tests.jobs import tiny_chain
from tests.jobs.tiny_chain import bnas


@pytest.fixture
def here(tmp_path, monkeypatch, chain):
    """A folder with a finished run `run`, its job, and files that are something else."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(chain.job_file, "tiny.yaml")
    shutil.copy(chain.packed, "model.bnas")
    (tmp_path / "run").symlink_to(chain.run)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("a line of text\n")
    return tmp_path


def refused(capsys, *words):
    """The message of a command that is refused."""
    said = bnas(capsys, *words)
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["search.sise={}"], "tiny.yaml --set search.sise={}: search: unknown key 'sise'; there are: strategy, "),
        (["device=cuda:99"], "tiny.yaml: device: there is no 'cuda:99' here; there is auto, cpu"),
        (["data.path=nope.npz"], "tiny.yaml: data: there is no file 'nope.npz'; looked for a .npz file with "),
        (["data.path=text.txt"], "tiny.yaml: data: 'text.txt': it is not a whole .npz file"),
        (
            ["data.options.layot=nchw"],
            "tiny.yaml: data: data set 'npz' has no option 'layot'; it takes: layout. Did you",
        ),
        (["data.options.layout=3"], "tiny.yaml: data: no layout of images named '3'; there are: nchw, nhwc."),
        (["data.name=cifar10", "data.path=empty"], "tiny.yaml: data: no cifar10 in 'empty': looked for "),
        (["data.name=digits"], "tiny.yaml: data: data set 'digits' is not read from disk: leave out the path (found"),
        (
            ["search.train_fraction=0.999"],
            "tiny.yaml: search.train_fraction: a fraction of 0.999 of 48 images leaves one",
        ),
        (["search.augmentation.cutout=9"], "tiny.yaml: search.augmentation: cutout of 9 pixels on images of 8 x 8; at"),
        (["search.size.auxiliary=true"], "tiny.yaml: search: a super-network has no auxiliary head: set auxiliary in"),
        # What only the retraining would meet, hours later.
        (["retrain.augmentation.cutout=9"], "tiny.yaml: retrain.augmentation: cutout of 9 pixels on images of 8 x 8"),
        (
            ["retrain.size.auxiliary=true"],
            "tiny.yaml: retrain: the auxiliary head needs a map of at least 8 x 8 pixels",
        ),
        (
            ["retrain.recipe.precision=float16"],
            "tiny.yaml: retrain: precision float16 needs a CUDA device; on cpu take",
        ),
        (
            ["retrain.init_from_search=true", "retrain.size.cells=4"],
            "tiny.yaml: retrain.init_from_search needs equal sizes. cells: searched with 3, retrained with 4",
        ),
        (
            ["retrain.init_from_search=true", "search={strategy: random}", "retrain.size={cells: 8, channels: 24}"],
            "tiny.yaml: retrain.init_from_search: strategy random keeps no shared weights",
        ),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_before_the_search(capsys, here, settings, said):
    words = [word for setting in settings for word in ("--set", setting)]
    assert refused(capsys, "search", "tiny.yaml", *words).startswith(said)
    assert not (here / "runs").exists()


def test_a_job_that_is_none(capsys, here):
    assert refused(capsys, "search", "nope.yaml").startswith("there is no file nope.yaml; bnas ships the jobs ")
    assert refused(capsys, "search", "digit_bats").endswith("Did you mean 'digits_bats'?")
    assert refused(capsys, "search", "empty") == (
        "empty is a folder; a job is a YAML file, such as the job.yaml in the folder of a run"
    )
    assert (
        refused(capsys, "search", "text.txt") == "text.txt: a job is a table of keys and values, found 'a line of text'"
    )
    assert refused(capsys, "search", "model.bnas") == "model.bnas: not a text file in UTF-8"
    assert refused(capsys, "search", "tiny.yaml", "--set", "seed") == (
        "--set seed: expected section.key=value, such as search.options.epochs=5"
    )


def test_a_run_folder_that_cannot_be_one(capsys, here):
    assert refused(capsys, "search", "tiny.yaml", "--run", "text.txt").startswith("text.txt is a file; a run needs")
    assert refused(capsys, "search", "tiny.yaml", "--run", "text.txt/x").startswith("cannot make text.txt/x: a part of")
    assert refused(capsys, "search", "tiny.yaml", "--max-minutes", "0") == "max_minutes is 0.0; it must be above 0"


def test_a_json_file_that_cannot_be_written_is_refused_before_the_work(capsys, here):
    for line in (("search", "tiny.yaml"), ("retrain", "run"), ("export", "run"), ("predict", "model.bnas", "x.png")):
        assert refused(capsys, *line, "--json", "nodir/a.json") == "--json nodir/a.json: there is no folder nodir"
        assert refused(capsys, *line, "--json", "empty") == "--json empty: this is a folder; name a file"
    assert not (here / "runs").exists()


def test_a_changed_job_does_not_go_on(capsys, here):
    said = refused(capsys, "search", "tiny.yaml", "--run", "run", "--set", "seed=1")
    assert said.startswith("run was started with another job, and has ")
    assert "seed: was 0, now 1." in said


def changed(run, **changes):
    """A genotype file with other content than the run's."""
    return json.dumps({**json.loads((run / "genotype.json").read_text()), **changes})


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("space.json", {"space": "batz"}, "space.json: no search space named 'batz'; there are: bats, "),
        ("version.json", {"version": 2}, "version.json: genotype of version 2; this release reads version 1"),
        (
            "args.json",
            {"space_args": {"nodez": 1}},
            "args.json: no argument of space bats named 'nodez'; there are: nodes, open.",
        ),
        ("few.json", {"choices": {}}, "few.json: group normal.node_2 keeps 2 of 2, the genotype has 0: []"),
        ("format.json", {"format": "x"}, 'format.json: this is not a genotype: it has no "format": "bnas-genotype"'),
        (
            "op.json",
            {"choices": {"normal.edge_0_2": "group_conv_3x4"}},
            "op.json: no choice of decision normal.edge_0_2 named 'group_conv_3x4'; there are: group_conv_3x3, ",
        ),
        (
            "edge.json",
            {"choices": {"normal.edge_0_9": "identity"}},
            "edge.json: space bats has no decision 'normal.edge_0_9'. Did you mean 'normal.edge_0_2'?",
        ),
    ],
)
def test_a_genotype_that_is_not_one_or_is_of_another_space(capsys, here, name, changes, said):
    (here / name).write_text(changed(here / "run", **changes))
    for line in (
        ("retrain", name, "--job", "tiny.yaml"),
        ("summary", name, "--job", "tiny.yaml"),
        ("plot", name),
        ("export", name, "--what", "genotype"),
    ):
        assert refused(capsys, *line).startswith(said)


def test_what_retrain_does_not_take(capsys, here, chain):
    assert refused(capsys, "retrain", "nope") == "nope: there is no such file."
    assert refused(capsys, "retrain", "empty") == "empty is not a run: it has no job.yaml and no genotype.json"
    assert refused(capsys, "retrain", "tiny.yaml").startswith("tiny.yaml: this is not a genotype: ")
    shutil.copy(chain.run / "genotype.json", "mine.json")
    assert refused(capsys, "retrain", "mine.json").startswith(
        "mine.json is a genotype without a job: say with which data and recipe to train it, --job FILE or one of "
    )
    assert refused(capsys, "retrain", "run", "--job", "nope.yaml").startswith("there is no file nope.yaml; ")
    assert refused(capsys, "retrain", "run/retrain-bats-seed0") == (
        f"run/retrain-bats-seed0 is a retraining, not a search: name its run, {here / 'run'}, or a genotype file with --job"
    )
    for id in ("a/b", "", ".x", "-", "a b", "x.old-1"):
        assert refused(capsys, "retrain", "run", f"--id={id}").startswith(f"retraining id '{id}': letters, digits, ")
    said = refused(capsys, "retrain", "run", "--set", "device=cuda:99")
    assert said.startswith("run/job.yaml: device: there is no 'cuda:99' here; there is auto, cpu")


def test_a_search_that_is_not_finished_has_no_genotype_yet(capsys, here):
    assert bnas(capsys, "search", "tiny.yaml", "--run", "begun", "--max-minutes", "1e-9").code == 3
    for line in (("retrain", "begun"), ("summary", "begun"), ("plot", "begun"), ("export", "begun", "--what=genotype")):
        assert refused(capsys, *line) == (
            "the search in begun is not finished (rounds done: 0): genotype.json is not there yet. "
            "Go on with it by the command that began it"
        )
    line = json.dumps({"round": 1, "genotype": {}})
    (here / "begun/history.jsonl").write_text(f"{line}\n")
    assert refused(capsys, "retrain", "begun").endswith(
        "Go on with it by the command that began it, or take what stands now: "
        "bnas export begun --what genotype --round 1 --to genotype.json"
    )


def test_rounds_that_are_not_there(capsys, here):
    for number in (0, 99, -1):
        said = refused(capsys, "export", "run", "--what", "genotype", "--round", number)
        assert said.startswith(f"there is no round {number}: run/history.jsonl has rounds 1 to ")
        assert refused(capsys, "plot", "run", "--round", number) == said
    assert refused(capsys, "export", "run/retrain-bats-seed0", "--what", "genotype", "--round", 1) == (
        "there is no round 1: run/retrain-bats-seed0/history.jsonl has no genotypes of rounds"
    )
    assert refused(capsys, "plot", "run/genotype.json", "--round", 1) == (
        "--round chooses a round of a run; run/genotype.json is a file with one genotype"
    )


def test_what_export_does_not_take(capsys, here):
    assert refused(capsys, "export", "nope") == "there is no file or folder nope"
    assert (
        refused(capsys, "export", "empty")
        == "empty: there is no retrained network here; `bnas retrain empty` makes one"
    )
    assert (
        refused(capsys, "export", "run/retrain-x/checkpoint.pt")
        == "there is no file or folder run/retrain-x/checkpoint.pt"
    )
    assert refused(capsys, "export", "text.txt").startswith("text.txt is cut short: 15 bytes are no checkpoint")
    assert refused(capsys, "export", "run", "--what", "picture") == (
        "no thing to export named 'picture'; there are: packed, genotype, onnx, c."
    )
    for option in (("--format", "png"), ("--round", "1")):
        assert (
            refused(capsys, "export", "run", *option) == "--format and --round choose a genotype; add --what genotype"
        )
    assert refused(capsys, "export", "run", "--what=genotype", "--format=pgn").endswith("Did you mean 'png'?")
    assert refused(capsys, "export", "run", "--what=genotype", "--to=a.pgn").startswith(
        "a.pgn: no genotype format named"
    )
    assert refused(capsys, "export", "run", "--what=genotype", "--to=x/a.json").startswith("cannot write x/a.json: ")
    assert refused(capsys, "export", "run", "--to=x/a.bnas").startswith("cannot write x/a.bnas: there is no such file")
    (here / "retrain-x").mkdir()
    assert (
        refused(capsys, "export", "retrain-x")
        == "there is no checkpoint retrain-x/checkpoint.pt; `bnas retrain .` makes it"
    )


def test_several_retrainings_are_listed(capsys, here, chain):
    for name in ("retrain-a", "retrain-b"):
        shutil.copytree(chain.retraining, here / "two" / name)
    assert refused(capsys, "evaluate", "two") == "two has 2 retrainings: name one of two/retrain-a, two/retrain-b"
    assert bnas(capsys, "evaluate", "two/retrain-b").code == 0


def test_a_packed_file_that_is_not_one(capsys, here):
    whole = (here / "model.bnas").read_bytes()
    (here / "cut.bnas").write_bytes(whole[:3000])
    (here / "damaged.bnas").write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    (here / "short.bnas").write_bytes(b"hello\n")
    Image.new("L", (8, 8)).save("grey.png")
    for name, said in (
        ("nope.bnas", "cannot read nope.bnas: there is no such file or folder."),
        ("short.bnas", "short.bnas: is not a packed network: it has 6 bytes"),
        ("cut.bnas", "cut.bnas: is not a packed network, or was cut off: "),
        ("damaged.bnas", "damaged.bnas: is damaged: its checksum does not fit its content; "),
    ):
        for line in (("verify", name), ("predict", name, "grey.png"), ("evaluate", name)):
            assert refused(capsys, *line).startswith(said)
    assert refused(capsys, "verify", "run") == "run is a folder; name the packed file in it, such as run/model.bnas"
    assert refused(capsys, "summary", "model.bnas") == (
        "model.bnas is a packed network: name the folder of the retraining that it was made from"
    )


def test_a_packed_file_that_lies_alone(capsys, here):
    assert refused(capsys, "verify", "model.bnas") == (
        ".: there is no retrained network here; `bnas retrain .` makes one (name the trained network by --checkpoint)"
    )
    assert refused(capsys, "evaluate", "model.bnas").endswith("(name the images by --data)")
    assert refused(capsys, "verify", "model.bnas", "--checkpoint", "nope") == "there is no file or folder nope"


def test_images_that_do_not_fit(capsys, here):
    Image.new("L", (20, 30)).save("large.png")
    (here / "half.png").write_bytes((here / "large.png").read_bytes()[:50])
    assert refused(capsys, "predict", "model.bnas", "large.png") == (
        "large.png is 30 pixels high and 20 wide, the network takes 8 x 8; --resize fits it"
    )
    assert bnas(capsys, "predict", "model.bnas", "large.png", "--resize").code == 0
    assert refused(capsys, "predict", "model.bnas", "nope.png").startswith(
        "cannot read nope.png: there is no such file"
    )
    assert refused(capsys, "predict", "model.bnas", "empty").startswith(
        "cannot read empty: a folder of that name exists"
    )
    assert refused(capsys, "predict", "model.bnas", "text.txt") == (
        "text.txt is not an image, or of a kind that cannot be read"
    )
    assert refused(capsys, "predict", "model.bnas", "half.png").startswith(
        "half.png is not an image that can be read: "
    )


def test_evaluate_on_data_of_another_kind(capsys, here):
    tiny_chain.write_images(here / "two.npz", ("left", "right"))
    tiny_chain.write_images(here / "wide.npz", side=10)
    line = ("evaluate", "model.bnas", "--data", "npz", "--path")
    assert refused(capsys, *line, "two.npz") == "model.bnas knows 3 classes; data set 'two' has 2"
    assert refused(capsys, *line, "wide.npz") == (
        "model.bnas takes images of 1 x 8 x 8; those of data set 'wide' are 1 x 10 x 10"
    )
    assert refused(capsys, "evaluate", "run", "--data", "npz", "--path", "two.npz").startswith("run knows 3 classes; ")
    assert refused(capsys, "evaluate", "model.bnas", "--path", "two.npz").startswith("--path two.npz needs the kind of")
    assert refused(capsys, "evaluate", "model.bnas", "--data", "mnist").startswith(
        "no data set named 'mnist'; there are:"
    )
    assert refused(capsys, "evaluate", "model.bnas", "--data", "npz").startswith(
        "data set 'npz' is read from disk: give"
    )


def test_what_summary_and_plot_do_not_take(capsys, here):
    assert refused(capsys, "summary", "nope").startswith(
        "'nope' is neither a file nor a shipped job; bnas ships the jobs "
    )
    assert refused(capsys, "summary", "empty") == "empty is not a run: it has no job.yaml and no genotype.json"
    (here / "a.json").write_text("{}")
    assert refused(capsys, "summary", "a.json").startswith("a.json: this is not a genotype: ")
    assert refused(capsys, "summary", "run/retrain-bats-seed0", "--set", "seed=1") == (
        "run/retrain-bats-seed0 is trained: --set and --job change nothing about it"
    )
    assert refused(capsys, "plot", "run", "--to", "a.gif").startswith(
        "a.gif: a picture is written as .png, .svg, .pdf;"
    )
    missing = "there is no file or folder nope, and no published genotype of that name."
    assert refused(capsys, "plot", "nope") == missing


def test_init_overwrites_nothing_and_knows_the_names(capsys, here):
    before = (here / "tiny.yaml").read_bytes()
    assert refused(capsys, "init", "tiny.yaml") == "tiny.yaml exists; name another file, or remove it first"
    assert (here / "tiny.yaml").read_bytes() == before
    assert refused(capsys, "init", "a.yaml", "--space", "bat").endswith("Did you mean 'bats'?")
    assert refused(capsys, "init", "a.yaml", "--strategy", "dart").endswith("Did you mean 'darts'?")
    assert refused(capsys, "init", "a.yaml", "--data", "digit").endswith("Did you mean 'digits'?")
    assert refused(capsys, "init", "x/a.yaml").startswith("cannot write x/a.yaml: ")
    assert not (here / "a.yaml").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("searhc",), "No such command 'searhc'. Did you mean 'search'?"),
        (("search",), "Missing argument 'job'."),
        (("search", "tiny.yaml", "--runn", "x"), "No such option: --runn"),
        (("search", "tiny.yaml", "--max-minutes", "x"), "Invalid value for '--max-minutes'"),
        (("evaluate", "model.bnas", "--limit", "0"), "Invalid value for '--limit'"),
    ],
)
def test_a_mistyped_command_line_ends_with_2_too(capsys, line, said):
    found = bnas(capsys, *line)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_debug_shows_where_wherever_it_stands_on_the_line(capsys, monkeypatch):
    for line in (("--debug", "search", "nope.yaml"), ("search", "nope.yaml", "--debug")):
        monkeypatch.setattr("sys.argv", ["bnas", *line])
        with pytest.raises(cli.BnasError, match=r"there is no file nope\.yaml"):
            cli.main()


def test_a_mistake_of_ours_is_called_so_and_has_its_own_code(capsys, chain, monkeypatch):
    def broken(*given, **options):
        raise KeyError("lost")

    monkeypatch.setattr("experiments.deployment.evaluate", broken)
    said = bnas(capsys, "evaluate", chain.packed)
    assert (said.code, said.out) == (70, "")
    assert said.err == (
        "error: KeyError: 'lost'. This is a mistake in bnas; add --debug to see where, and please report it\n"
    )
    monkeypatch.setattr("sys.argv", ["bnas", "evaluate", str(chain.packed), "--debug"])
    with pytest.raises(KeyError, match="lost"):
        cli.main()


def test_a_message_with_brackets_is_shown_as_it_is(capsys, here):
    assert refused(capsys, "search", "[bold]x[bold]").startswith("'[bold]x[bold]' is neither a file nor a shipped job;")


def test_a_checkpoint_of_another_version_of_the_network_is_named(capsys, here, chain, monkeypatch):
    def fails(self, *given, **options):
        raise RuntimeError("Error(s) in loading state_dict:\n" + "size mismatch\n" * 50)

    monkeypatch.setattr("torch.nn.Module.load_state_dict", fails)
    said = refused(capsys, "evaluate", chain.retraining)
    assert said.startswith(
        f"{chain.retraining / 'checkpoint.pt'} does not hold a network that can be built (RuntimeError"
    )
    assert len(said) < 500


def test_a_packed_file_of_another_network_is_not_verified(capsys, here, chain):
    packed = file.load(chain.packed)
    tiny_chain.write_images(here / "wide.npz", side=10)
    line = ("--set", "data.path=wide.npz", "--set", "search.options.epochs=1", "--run", "wide")
    assert bnas(capsys, "search", "tiny.yaml", *line).code == 0
    assert bnas(capsys, "retrain", "wide").code == 0
    file.save(packed, here / "other.bnas")
    said = refused(capsys, "verify", "other.bnas", "--checkpoint", "wide")
    assert said.startswith("other.bnas and wide/retrain-bats-seed0/checkpoint.pt: ")
