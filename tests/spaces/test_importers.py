"""Genotypes of other code: read as literals, in every form they are written in; whatever else there is, is a message."""

from pathlib import Path

import numpy as np
import pytest

from bnas.errors import BnasError
from bnas.genotype import Genotype
from experiments.genotype_formats import write_genotype
from search_spaces import SPACES, make_space
from search_spaces.cells import CellSpace
from search_spaces.importers import read_darts_text, read_genotypes_py
from search_spaces.python_text import LONGEST_TEXT

CELL_SPACES = tuple(name for name in SPACES if isinstance(make_space(name), CellSpace))
# One node, whose edges come from both inputs.
SMALL = "Genotype(normal=[{normal}], normal_concat=range(2, 3), reduce=[{reduce}], reduce_concat=[2])"

# In the style of the DARTS and gistvision/bnas files: two genotypes that fit a space here, and two that do not.
FILE = """
from collections import namedtuple
import torch.nn as nn
from models import ops

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')

PRIMITIVES = ['none', 'max_pool_3x3']  # what the search offers
STEPS, MULTIPLIER = 4, 4
self.genotype = None

def parse(weights):
    inner = Genotype(normal=[], normal_concat=[], reduce=[], reduce_concat=[])
    return eval('inner')

Twice = Genotype(
    normal=[('sep_conv_3x3', 1), ('sep_conv_5x5', 1)], normal_concat=[2],
    reduce=[('sep_conv_3x3', 0), ('sep_conv_5x5', 1)], reduce_concat=[2],
)
SomeNodes = Genotype(
    normal=[('max_pool_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 1), ('sep_conv_5x5', 2)], normal_concat=[3],
    reduce=[('max_pool_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 1), ('sep_conv_5x5', 2)], reduce_concat=[2, 3],
)
V1 = Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat=range(2, 3),
              reduce=[('max_pool_3x3', 0), ('avg_pool_3x3', 1)], reduce_concat=range(2, 3))
latest: Genotype = Genotype(normal=[('none', 1), ('bin_dil_conv_3x3', 0)], normal_concat=range(2, 3),
                            reduce=[('max_pool_3x3', 0), ('bin_conv_5x5', 1)], reduce_concat=range(2, 3))
BEST = V1
Also = SomeNodes
"""


def small(normal: str = "('max_pool_3x3', 0), ('sep_conv_3x3', 1)", reduce: str = "") -> str:
    return SMALL.format(normal=normal, reduce=reduce or normal)


def message(text: str, space: CellSpace | str | None = None) -> str:
    with pytest.raises(BnasError) as caught:
        read_darts_text(text, space)
    return str(caught.value)


SMALL_CHOICES = {
    "normal.edge_0_2": "max_pool_3x3",
    "normal.edge_1_2": "sep_conv_3x3",
    "reduction.edge_0_2": "skip_connect",
    "reduction.edge_1_2": "none",
}
SMALL_GENOTYPE = Genotype.make("darts", {"nodes": 1}, SMALL_CHOICES)
IN_ORDER = small("('max_pool_3x3', 0), ('sep_conv_3x3', 1)", "('skip_connect', 0), ('none', 1)")


@pytest.mark.parametrize(
    "text",
    [
        IN_ORDER,
        f"FOUND = {IN_ORDER}",
        f"FOUND: Genotype = {IN_ORDER}  # a comment",
        f"\ufeff\n    {IN_ORDER}\n\n",
        IN_ORDER.replace("[(", "((").replace(")]", "))"),
        IN_ORDER.replace("range(2, 3)", "range(2, 10, 8)"),
        small("('sep_conv_3x3', 1), ('max_pool_3x3', 0)", "('none', 1), ['skip_connect', 0]"),
        small("[('max_pool_3x3', 0), ('sep_conv_3x3', 1)]", "[('skip_connect', 0), ('none', 1)]"),
    ],
    ids=["plain", "named", "annotated", "indented", "tuples", "range with step", "other order", "a list for each node"],
)
def test_every_way_of_writing_it_is_the_same_genotype(text: str) -> None:
    assert read_darts_text(text) == SMALL_GENOTYPE


@pytest.mark.parametrize("nodes", [1, 4, 7])
@pytest.mark.parametrize("name", CELL_SPACES)
def test_what_the_format_darts_writes_is_read_back(name: str, nodes: int) -> None:
    space = make_space(name, {"nodes": nodes})
    assert isinstance(space, CellSpace)
    for seed in range(5):
        genotype = space.random(np.random.default_rng(seed))
        text = write_genotype(space, genotype, "darts").decode()
        assert read_darts_text(text, name) == genotype
        assert read_darts_text(text, space) == genotype


@pytest.mark.parametrize(
    ("space", "op"), [("bats", "dil_group_conv_5x5"), ("bnas_gist", "zeroise"), ("darts", "sep_conv_3x3")]
)
def test_the_operations_tell_the_space(space: str, op: str) -> None:
    read = read_darts_text(small(f"('{op}', 0), ('max_pool_3x3', 1)"))
    assert (read.space, read.choice("normal.edge_0_2")) == (space, op)


@pytest.mark.parametrize(
    ("space", "written", "op"),
    [
        ("cp_nas", "sep_conv_3x3", "sep_conv_3x3"),
        ("bnas_beihang", "skip_connect", "skip_connect"),
        ("bnas_gist", "none", "zeroise"),
        ("bnas_gist", "bin_dil_conv_5x5", "dil_conv_5x5"),
        ("bats", "none", "zero"),
        ("bats", "skip_connect", "identity"),
        ("bats", "sep_conv_5x5", "group_conv_5x5"),
        ("bats", "dil_conv_3x3", "dil_group_conv_3x3"),
    ],
)
def test_a_given_space_is_read_with_the_names_of_its_released_code(space: str, written: str, op: str) -> None:
    read = read_darts_text(small(f"('{written}', 0), ('max_pool_3x3', 1)"), space)
    assert (read.space, read.choice("normal.edge_0_2")) == (space, op)


def test_identity_in_bnas_gist_sets_its_argument_and_only_then() -> None:
    text = small("('skip_connect', 0), ('bin_conv_3x3', 1)")
    assert dict(read_darts_text(text).space_args) == {"nodes": 1, "identity": True}
    assert read_darts_text(text).choice("normal.edge_0_2") == "identity"
    without = small("('none', 0), ('bin_conv_3x3', 1)")
    assert dict(read_darts_text(without).space_args) == {"nodes": 1}
    made = make_space("bnas_gist", {"nodes": 1, "identity": True})
    assert isinstance(made, CellSpace)
    assert dict(read_darts_text(without, made).space_args) == {"nodes": 1, "identity": True}
    plain = make_space("bnas_gist", {"nodes": 1})
    assert isinstance(plain, CellSpace)
    assert "no choice of decision normal.edge_0_2 named 'identity'" in message(text, plain)


def test_a_file_is_read_whole_and_says_what_it_refuses() -> None:
    found = read_genotypes_py(FILE)
    assert list(found) == ["V1", "latest", "BEST"]
    assert (found["V1"].space, found["latest"].space) == ("darts", "bnas_gist")
    assert found["BEST"] == found["V1"]
    assert found["latest"].choice("reduction.edge_1_2") == "conv_5x5"
    assert list(found.refused) == ["Twice", "SomeNodes", "Also"]
    assert "Twice" not in found
    with pytest.raises(
        BnasError, match=r"^Twice: normal, node 2: both edges come from 1; here they come from two diff"
    ):
        found["Twice"]
    with pytest.raises(
        BnasError, match=r"normal_concat is \[3\]; a cell's output is all its nodes in .* range\(2, 4\)"
    ):
        found["Also"]
    with pytest.raises(BnasError, match=r"no genotype of the file named 'latets'.*Did you mean 'latest'"):
        found["latets"]


def test_a_file_in_one_given_space() -> None:
    found = read_genotypes_py(FILE, "cp_nas")
    assert list(found) == ["V1", "BEST"]
    assert found["V1"].space == "cp_nas"
    assert "no operation named 'bin_dil_conv_3x3'; there are: none, max_pool_3x3" in str(found.refused["latest"])


def test_the_last_of_a_name_counts() -> None:
    wrong = small("('nonsense', 0), ('sep_conv_3x3', 1)")
    found = read_genotypes_py(f"A = {IN_ORDER}\nA = {wrong}\nB = {wrong}\nB = {IN_ORDER}\nC = D = B")
    assert list(found) == ["B", "C", "D"]
    assert list(found.refused) == ["A"]


@pytest.mark.parametrize(
    "text", ["", "import os\nPRIMITIVES = ['none']\n", "Genotype = namedtuple('Genotype', 'normal')"]
)
def test_a_file_without_genotypes(text: str) -> None:
    with pytest.raises(BnasError, match=r"no genotype can be read here: no line NAME = Genotype\(normal=\[\.\.\.\]"):
        read_genotypes_py(text)


def test_a_file_of_refused_genotypes_says_why() -> None:
    with pytest.raises(
        BnasError, match=r"(?s)that fits\n  A: normal, node 2, edge 1: it comes from 7.*\n  B: reduce_concat"
    ):
        read_genotypes_py(
            f"A = {small(chr(40) + repr('none') + ', 7), (' + repr('none') + ', 1)')}\n"
            f"B = {IN_ORDER.replace('reduce_concat=[2]', 'reduce_concat=[]')}"
        )


TWO = "('max_pool_3x3', 0), ('sep_conv_3x3', 1)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            small("('sep_conv_3x', 0), ('none', 1)"),
            "normal, node 2, edge 1: no operation named 'sep_conv_3x'; there are: none, max_pool_3x3, avg_pool_3x3, "
            "skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, dil_conv_5x5. Did you mean 'sep_conv_3x3'?",
        ),
        (
            small("('bin_conv_3x3', 0), ('bin_conv_5x5', 1)", "('bin_conv_3x3', 0), ('zeroise', 1)"),
            "reduce, node 2, edge 2: no operation named 'zeroise'; there are: max_pool_3x3, avg_pool_3x3, none, skip",
        ),
        (
            small("('max_pool_3x3', 0), ('skip_connect', 1)"),
            "operations max_pool_3x3, skip_connect are in the spaces darts, bnas_gist: say which one is meant",
        ),
        (
            small("('none', 0), ('sep_conv_3x3', 2)"),
            "normal, node 2, edge 2: it comes from 2; a node reads what stands before it, 0 to 1 "
            "(0 and 1 are the cell's inputs, 2 and on its nodes)",
        ),
        (small(f"{TWO}, ('none', 4), ('none', 0)"), "normal, node 3, edge 1: it comes from 4"),
        (small("('none', 0), ('none', 0)"), "normal, node 2: both edges come from 0"),
        (small(f"{TWO}, ('none', 0)"), "normal lists 3 edges; there are two for each node, in the order of the nodes"),
        (small(f"[{TWO}, ('none', 0)]"), "normal, node 2: 3 edges go into it; it is two for each node"),
        (small(f"[{TWO}], [('none', 0)]"), "normal, node 3: 1 edges go into it"),
        (small("[]"), "normal, node 2: 0 edges go into it"),
        (SMALL.format(normal="", reduce=TWO), "normal has edges into 0 nodes; a cell has 1 to 7, with two edges each"),
        (small(", ".join([TWO] * 8)), "normal has edges into 8 nodes"),
        (small(f"{TWO}, {TWO}", TWO), "normal has 2 nodes and reduce 1; both cells have the same number here"),
        (small("('none', 0), 'none'"), "normal, node 2, edge 2: an edge is ('operation', source), got 'none'"),
        (
            small("('none', 0), (1, 'none')"),
            "normal, node 2, edge 2: an edge is ('operation', source), got [1, 'none']",
        ),
        (small("('none', 0, 1), ('none', 1)"), "an edge is ('operation', source), got ['none', 0, 1]"),
        (IN_ORDER.replace("range(2, 3)", "range(2, 4)"), "normal_concat is [2, 3]; a cell's output is all its nodes"),
        (IN_ORDER.replace("range(2, 3)", "range(2, 10**9)"), "normal_concat, line 1: a binop does not belong here"),
        (IN_ORDER.replace("range(2, 3)", f"range({9**99})"), "normal_concat is [0, 1, 2, 3"),
        (IN_ORDER.replace("range(2, 3)", "range(2, 3, 0)"), "normal_concat, line 1: range() arg 3 must not be zero"),
        (IN_ORDER.replace("range(2, 3)", "range('2')"), "normal_concat, line 1: 'str' object cannot be"),
        (IN_ORDER.replace("range(2, 3)", "range(2, stop=3)"), "normal_concat, line 1: range() takes no keyword"),
        (IN_ORDER.replace("range(2, 3)", "2"), "normal_concat is 2; a cell's output is all"),
        (small("'abc'"), "normal lists 1 edges"),
        (IN_ORDER.replace("[2]", str([2] * 999)), "reduce_concat is [2, 2, 2, 2, 2, 2, ...]; a cell's"),
        (
            IN_ORDER.replace("reduce=", "reduction="),
            "no field of Genotype named 'reduction'; there are: normal, normal_c",
        ),
        (f"Genotype(normal=[{TWO}], reduce=[{TWO}])", "it lacks normal_concat, reduce_concat"),
        ("Genotype()", "it lacks normal, normal_concat, reduce, reduce_concat"),
        (IN_ORDER.replace("normal=", "1, normal="), "it lacks none of them, but has others without a name"),
        ("Genotype(**{'normal': []})", "no field of Genotype named 'None'"),
        (f"{IN_ORDER}\n{IN_ORDER}", "one genotype is read here, Genotype(...) or NAME = Genotype(...); got 2 lines"),
        ("", "got 0 lines"),
        ("normal", "this is not Genotype(...) or NAME = Genotype(...)"),
        ("del Genotype", "this is not Genotype(...) or"),
        (f"a.b = {IN_ORDER}", "this is not Genotype(...) or"),
        (f"return_ = x.{IN_ORDER}", "this is not Genotype(...) or"),
        ("A = [", "line 1: not Python ("),
        (f"FOUND = {small(f'{TWO}, (1, 1)')}", "FOUND: normal lists 3 edges"),
    ],
)
def test_wrong_genotypes(text: str, expected: str) -> None:
    assert expected in message(text)


def test_a_space_that_cannot_have_it() -> None:
    assert "no search space named 'dart'" in message(IN_ORDER, "dart")
    assert f"space widths has no cells; this text is for one of {', '.join(CELL_SPACES)}" in message(IN_ORDER, "widths")
    four = make_space("darts")
    assert isinstance(four, CellSpace)
    assert "its cells have 1 nodes; the space was made with 4" in message(IN_ORDER, four)
    assert "no operation named 'sep_conv_3x3'; there are: " in message(IN_ORDER, "bnas_gist")


@pytest.mark.parametrize(
    "code",
    [
        "__import__('pathlib').Path({path!r}).touch()",
        "[open({path!r}, 'w') for _ in 'a']",
        "[*open({path!r}, 'w')]",
        "(lambda: open({path!r}, 'w'))()",
        "f\"{{open({path!r}, 'w')}}\"",
        "[(f'{{1}}', 0), ('none', 1)]",
        "os.environ",
        "os",
        "True",
        "1.5",
        "-1",
        "None",
        "b'none'",
        "{{'none': 0}}",
        "['none'] * 10**9",
        "[[[[[]]]]]",
        "Genotype(normal=[])",
        "range(range(2))",
    ],
)
@pytest.mark.parametrize("field", ["normal=[{}]", "normal_concat={}"])
def test_nothing_that_is_read_is_executed(field: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "touched"
    field = field.format(code.format(path=str(path)))
    name = field.split("=")[0]
    text = IN_ORDER.replace("normal_concat=range(2, 3)", field) if "concat" in field else None
    text = text or small().replace("normal=[('max_pool_3x3', 0), ('sep_conv_3x3', 1)]", field)
    assert code.format(path=str(path)) in text
    assert name in message(text)
    with pytest.raises(BnasError, match=r"no genotype can be read here"):
        read_genotypes_py(f"A = {text}\nopen({str(path)!r}, 'w')\n")
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A = " + "[" * 5000, "too many nested parentheses"),
        ("A = " + "-" * 60_000 + "1", "nested too deeply"),
        ("A = a" + ".a" * 60_000, "nested too deeply"),
        ("A = " + "not " * 20_000 + "1", "nested too deeply"),
        ("A = Genotype(normal=" + "9" * 60_000 + ")", "not Python ("),
        ("A = " + "1, " * LONGEST_TEXT, f"characters; at most {LONGEST_TEXT:,} are read"),
        ("A = '\ud800'", "not Python ("),
        ("A = '\0'", "not Python ("),
    ],
    ids=["lists", "signs", "attributes", "words", "digits", "long", "surrogate", "null"],
)
def test_text_that_would_break_the_parser(text: str, expected: str) -> None:
    assert expected in message(text)
    with pytest.raises(BnasError):
        read_genotypes_py(text)
