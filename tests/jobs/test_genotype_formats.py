"""Genotypes as files: what is written is read back, and whatever else is read is a message that names the file."""

import ast
import json
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnas.errors import BnasError
from bnas.genotype import LARGEST_FILE_BYTES, Genotype
from experiments import yaml_file
from experiments.genotype_formats import FORMATS, format_for, read_genotype, write_genotype
from search_spaces import make_space
from search_spaces.cells import INPUTS, edge_name

SPACE = make_space("bats")
GENOTYPE = SPACE.random(np.random.default_rng(5))
NAMES = st.text(max_size=8) | st.sampled_from(
    ["1e3", "no", "null", "0x1f", "2020-01-01", "1_0", "~", "<<", "=", "1:30"]
)


class Loose:
    """A stand-in for a space that takes every genotype and has a graph of awkward names."""

    name = "loose"

    def check(self, genotype: Genotype) -> None:
        pass

    def graphs(self, genotype: Genotype) -> dict[str, nx.DiGraph]:
        graph = nx.DiGraph()
        graph.add_edge('say "a"', "back\\slash\n", choice='w_"1"')
        graph.add_edge("back\\slash\n", "end")
        return {"net": graph}


LOOSE = Loose()


def written(tmp_path: Path, data: bytes, name: str = "found") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def message(path: Path) -> str:
    with pytest.raises(BnasError) as caught:
        read_genotype(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)[len(str(path)) :]


@pytest.mark.parametrize(("format", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_what_is_written_is_read_back_whatever_the_file_is_called(tmp_path, format, load):
    about = {"seed": 3, "strategy": "darts", "scores": [0.5, 1e-05]}
    data = write_genotype(SPACE, GENOTYPE, format, about)
    again = read_genotype(written(tmp_path, data))
    assert again == GENOTYPE
    assert again.content_digest == GENOTYPE.content_digest
    assert load(data)["about"] == about
    assert b"about" not in write_genotype(SPACE, GENOTYPE, format)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.dictionaries(NAMES, NAMES, max_size=4),
    st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | NAMES | st.lists(NAMES, max_size=2), max_size=3),
    st.sampled_from(["json", "yaml"]),
)
def test_names_that_look_like_something_else_stay_names(tmp_path, choices, arguments, format):
    genotype = Genotype.make("1e3", arguments, choices)
    again = read_genotype(written(tmp_path, write_genotype(LOOSE, genotype, format)))
    assert again == genotype
    assert again.content_digest == genotype.content_digest


def test_a_byte_order_mark_and_a_comment_are_no_obstacle(tmp_path):
    assert read_genotype(written(tmp_path, b"\xef\xbb\xbf" + write_genotype(SPACE, GENOTYPE, "json"))) == GENOTYPE
    assert read_genotype(written(tmp_path, b"# mine\n---\n" + write_genotype(SPACE, GENOTYPE, "yaml"))) == GENOTYPE


def test_darts_text_has_two_edges_per_node_and_the_nodes_that_are_concatenated():
    text = write_genotype(SPACE, GENOTYPE, "darts").decode()
    call = ast.parse(text, mode="eval").body
    fields = {keyword.arg: keyword.value for keyword in call.keywords}
    assert call.func.id == "Genotype"
    assert list(fields) == ["normal", "normal_concat", "reduce", "reduce_concat"]
    for field, kind in (("normal", "normal"), ("reduce", "reduction")):
        edges = ast.literal_eval(fields[field])
        targets = [INPUTS + position // 2 for position in range(8)]
        choices = {f"{kind}.{edge_name(s, t)}": op for (op, s), t in zip(edges, targets, strict=True)}
        assert choices == {name: op for name, op in GENOTYPE.choices if name.startswith(kind)}
        assert ast.unparse(fields[f"{field}_concat"]) == "range(2, 6)"


def test_darts_text_of_a_cell_with_other_nodes():
    space = make_space("bats", {"nodes": 1})
    choices = {f"{kind}.edge_{s}_2": "identity" for kind in ("normal", "reduction") for s in (0, 1)}
    assert write_genotype(space, space.genotype(choices), "darts") == (
        b"Genotype(normal=[('identity', 0), ('identity', 1)], normal_concat=range(2, 3), "
        b"reduce=[('identity', 0), ('identity', 1)], reduce_concat=range(2, 3))\n"
    )


def test_dot_has_every_node_and_edge_once():
    text = write_genotype(SPACE, GENOTYPE, "dot").decode()
    graphs = SPACE.graphs(GENOTYPE)
    for name, graph in graphs.items():
        assert f'subgraph "cluster_{name}" {{' in text
        for node in graph:
            assert text.count(f'"{name}/{node}" [label="{node}"];') == 1
        for a, b in graph.edges:
            assert text.count(f'"{name}/{a}" -> "{name}/{b}" [') == 1
    labels = re.findall(r'-> \S+ \[label="([^"]*)"', text)
    assert sorted(label.replace("dilated", "dil").replace("average", "avg") for label in labels) == sorted(
        choice.replace("_", " ") for _, choice in GENOTYPE.choices
    )
    assert text.count("{") - text.count("c_{k-") == text.count("}") - text.count("c_{k-") == 3


def test_dot_escapes_what_would_end_its_strings():
    text = write_genotype(LOOSE, Genotype.make('a"b', {}, {}), "dot").decode()
    assert text.startswith('digraph "a\\"b" {\n')
    assert r'"net/say \"a\"" -> "net/back\\slash\n" [label="w \"1\"", color="#A0568C"];' in text
    # Every line holds whole strings: outside of them no quote is left.
    assert all('"' not in re.sub(r'"(?:[^"\\]|\\.)*"', "", line) for line in text.splitlines())


def test_pictures_are_pictures():
    svg = write_genotype(SPACE, GENOTYPE, "svg")
    assert svg == write_genotype(SPACE, GENOTYPE, "svg")
    assert b"<svg" in svg
    assert GENOTYPE.content_digest.encode() in svg
    assert write_genotype(SPACE, GENOTYPE, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("format", FORMATS)
def test_a_genotype_of_another_space_is_not_written(format):
    with pytest.raises(BnasError, match="genotype of space 'elsewhere' was given to space 'bats'"):
        write_genotype(SPACE, Genotype.make("elsewhere", {}, {}), format)


def test_formats_that_are_not():
    with pytest.raises(BnasError, match=r"no genotype format named 'jsn'; there are: json, .*Did you mean 'json'\?"):
        write_genotype(SPACE, GENOTYPE, "jsn")
    with pytest.raises(
        BnasError, match=r"format darts is for spaces of cells; space loose has none\. Choose json or yaml"
    ):
        write_genotype(LOOSE, GENOTYPE, "darts")


@pytest.mark.parametrize(
    ("given", "format"),
    [
        ("a/found.JSON", "json"),
        (Path("b.yml"), "yaml"),
        ("yaml", "yaml"),
        ("c.gv", "dot"),
        ("dot", "dot"),
        ("x.svg", "svg"),
    ],
)
def test_the_format_of_a_name(given, format):
    assert format_for(given) == format


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("out/found.pmg", r"out/found\.pmg: no genotype format named 'pmg'; .*Did you mean 'png'\?"),
        ("found", r"^no genotype format named 'found'; there are: json, yaml, darts, dot, svg, png\."),
    ],
)
def test_a_name_of_no_format_lists_the_formats(given, said):
    with pytest.raises(BnasError, match=said):
        format_for(given)


HEAD = "format: bnas-genotype\nversion: 1\nspace: bats\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", 'it has no "format"'),
        (b"[1, 2]", 'it has no "format"'),
        (b'\xef\xbb\xbf{"a": NaN}', ": not JSON (NaN is not a JSON number)"),
        (b"Genotype(normal=[])", 'it has no "format"'),
        (b'{"format": "bnas-genotype", "version": 2}', "genotype of version 2; this release reads version 1"),
        (b'{"a": 1,\n "b": }', " line 2: not JSON (Expecting value)"),
        (b'{"a": 1, "a": 2}', ": not JSON (the key 'a' stands there twice)"),
        (b'{"a": NaN}', ": not JSON (NaN is not a JSON number)"),
        (b'{"a": ' + b"9" * 5000 + b"}", ": not JSON (Exceeds the limit"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b"format: bnas-genotype\na: " + b"[" * 1000, ": not YAML"),
        (b"format: bnas-genotype\na: [1\nb: 2", " line 3: "),
        (b"format: bnas-genotype\na: 1\na: 2", " line 3: the key 'a' stands here twice"),
        (b"format: bnas-genotype\na: &x [1]\nb: *x", " line 3: aliases are not taken here"),
        (b"format: bnas-genotype\na: !!python/object/apply:os.system [ls]", " line 2: tags (!) are not taken here"),
        (b"!!bool bnas-genotype", " line 1: tags (!) are not taken here"),
        (b"format: bnas-genotype\na: \x00", ": not YAML"),
        ((HEAD + "choices: {normal.edge_0_2: 3}").encode(), "choice 'normal.edge_0_2': 3 is not a pair of names"),
        (b"\x89PNG\r\n\x1a\n", ": this is not a genotype: not text in UTF-8"),
        (b" " * (LARGEST_FILE_BYTES + 1), ": more than 4,194,304 bytes; a genotype has a few thousand"),
    ],
    ids=range(20),
)
def test_whatever_is_not_a_genotype_is_said_to_be_so(tmp_path, data, said):
    assert said in message(written(tmp_path, data, "mine.json"))


def test_a_log_given_by_mistake_is_not_parsed_for_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_file, "parse", lambda text, where: pytest.fail("PyYAML was asked"))
    assert 'it has no "format": "bnas-genotype"' in message(written(tmp_path, b"- round: 1\n" * 100_000))


def test_the_file_is_named_also_when_its_name_starts_the_message(tmp_path, monkeypatch):
    written(tmp_path, b"{}", "this")
    monkeypatch.chdir(tmp_path)
    assert message(Path("this")).startswith(": this is not a genotype")


def test_arguments_nested_too_deeply_for_a_value_are_refused(tmp_path):
    deep = '{"format": "bnas-genotype", "version": 1, "space": "bats", "choices": {}, "space_args": {"a": %s}}'
    assert "nested too deeply" in message(written(tmp_path, (deep % ("[" * 900 + "]" * 900)).encode()))


def test_a_word_that_yaml_once_took_for_a_truth_value_stays_a_word(tmp_path):
    path = written(tmp_path, (HEAD + "choices: {deep: no}").encode())
    assert read_genotype(path).choice("deep") == "no"


def test_a_missing_file_names_the_nearest_one(tmp_path):
    written(tmp_path, b"", "genotype.json")
    written(tmp_path, b"", "history.jsonl")
    assert message(tmp_path / "genotpe.json") == ": there is no such file. Did you mean 'genotype.json'?"
    assert message(tmp_path / "zzz") == ": there is no such file."
    missing = tmp_path / "runs" / "genotype.json"
    assert message(missing) == f": there is no such file. There is no folder {missing.parent} either."


def test_what_is_no_file(tmp_path):
    assert message(tmp_path) == ": this is a folder; give the genotype file in it"
    within = written(tmp_path, b"") / "genotype.json"
    assert message(within) == ": cannot be read: Not a directory"
    assert message(tmp_path / "a\0b") == ": cannot be read: embedded null byte"


SAMPLES = [write_genotype(SPACE, GENOTYPE, format, {"seed": 1}) for format in ("json", "yaml")]
PIECES = st.sampled_from(
    [b"!!int ''", b"&a ", b"*a", b"{", b"}", b"[[", b'"', b"\\ud800", b"\x00", b"\xff", b"\t", b"? ", b"1e9"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.sampled_from(SAMPLES), st.integers(0), st.integers(0, 40), PIECES | st.binary(max_size=6))
def test_a_mutated_file_is_a_genotype_or_a_message_that_names_it(tmp_path, data, position, cut, piece):
    at = position % (len(data) + 1)
    path = written(tmp_path, data[:at] + piece + data[at + cut :])
    try:
        genotype = read_genotype(path)
    except BnasError as error:
        said: str | None = str(error)
    else:
        said = None
        assert Genotype.from_json(genotype.to_json()) == genotype
    assert said is None or said.startswith(str(path))
