"""Readers of the user's own, by import path."""

import sys

import pytest
import torch

from bnas.data import Dataset, ImageSet, read
from bnas.errors import BnasError

MODULE = """
import torch
from bnas.data import Dataset, ImageSet

def squares(path, *, side, count=6):
    images = torch.full((count, 1, side, side), 5, dtype=torch.uint8)
    part = ImageSet(images, torch.arange(count) % 2)
    return Dataset(f"squares of {path}", part, part, ("a", "b"))

def nothing(path):
    return {"train": []}

def broken(path):
    return [][1]

number = 5
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_readers").mkdir()
    (tmp_path / "my_readers" / "__init__.py").write_text("")
    (tmp_path / "my_readers" / "shapes.py").write_text(MODULE)
    (tmp_path / "my_readers" / "needs.py").write_text("import there_is_no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_readers.shapes"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_readers"]:
        del sys.modules[name]


def test_a_function_is_called_with_path_and_options(module, tmp_path):
    data = read("python", tmp_path, reader=f"{module}:squares", side=4)
    assert data.name == f"squares of {tmp_path}"
    assert data.input_shape == (1, 4, 4)
    assert read("python", reader=f"{module}:squares", side=3, count=8).name == "squares of None"


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (
            "my_readers.shapes.squares",
            "must be an import path 'package.module:function'; found 'my_readers.shapes.squares'",
        ),
        ("my_readers.shapes:", "must be an import path"),
        ("../evil:squares", "must be an import path"),
        (5, "must be an import path 'package.module:function'; found '5'"),
        (
            "my_readers.shape:squares",
            "there is no module 'my_readers.shape'; it must be installed, or its folder on PYTH",
        ),
        ("no_readers.shapes:squares", "there is no module 'no_readers'"),
        ("my_readers.shapes:square", r"module 'my_readers.shapes' has no function 'square'. Did you mean 'squares'\?"),
        ("my_readers.shapes:number", "has no function 'number'"),
        ("my_readers.shapes:squares", r"cannot be called with the path and options \[\]: missing a required .*'side'"),
        ("my_readers.shapes:nothing", "must return a bnas.data.Dataset; it returned dict"),
    ],
)
def test_a_wrong_reader_is_refused(module, reader, message):
    with pytest.raises(BnasError, match=message):
        read("python", reader=reader)


def test_the_reader_must_be_named():
    with pytest.raises(BnasError, match="data set 'python' needs the option 'reader'"):
        read("python")


def test_an_option_that_the_function_has_not(module):
    with pytest.raises(BnasError, match=r"cannot be called with the path and options \['side', 'sides'\]: .*'sides'"):
        read("python", reader=f"{module}:squares", side=3, sides=4)


def test_errors_of_the_function_come_through(module):
    with pytest.raises(IndexError):
        read("python", reader=f"{module}:broken")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        read("python", reader="my_readers.needs:anything")


def test_what_a_reader_makes_is_checked_as_it_is_made():
    part = ImageSet(torch.zeros(2, 1, 3, 3).byte(), torch.tensor([0, 2]))
    with pytest.raises(BnasError, match="label 2 at training image 1; there are 2 classes"):
        Dataset("own", part, part, ("a", "b"))
