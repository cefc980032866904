"""Plugins: what they add, and the message for each way in which one can be wrong."""

import sys
from pathlib import Path

import pytest

from bnas.errors import BnasError
from bnas.registry import Registry
from experiments import plugins


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a new one, the tables are copies, and imported modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "TABLES", {name: Registry(t.kind, dict(t)) for name, t in plugins.TABLES.items()})
    for name in ("first_plugin", "second_plugin"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_plugin_adds_its_tables_once(folder: Path) -> None:
    (folder / "first_plugin.py").write_text("SPACES = {'mine': object()}\nSCHEMES = {'own': object()}\n")
    plugins.load_plugins(["first_plugin"])
    plugins.load_plugins(["first_plugin"])
    assert "mine" in plugins.TABLES["SPACES"]
    assert "own" in plugins.TABLES["SCHEMES"]
    assert "" not in sys.path[:1]


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("first plugin", None, "expected the import path of a module"),
        ("../first_plugin.py", None, "expected the import path of a module"),
        ("not_there_at_all", None, "cannot be imported: No module named 'not_there_at_all'"),
        ("second_plugin", "1 / 0", "fails when it is imported: ZeroDivisionError: division by zero"),
        ("second_plugin", "X = 1", "adds nothing: it has none of the tables SPACES, STRATEGIES, SCHEMES, TARGETS"),
        ("second_plugin", "SPACES = [1]", "SPACES is a table name -> factory, got list"),
        ("second_plugin", "SPACES = {'bats': 1}", "there already is a search space named 'bats'"),
    ],
)
def test_each_wrong_plugin_has_its_message(folder: Path, path: str, code: str | None, message: str) -> None:
    if code is not None:
        (folder / f"{path}.py").write_text(code)
    with pytest.raises(BnasError, match=message):
        plugins.load_plugins([path])
    sys.modules.pop("second_plugin", None)
