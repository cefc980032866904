"""What README and the results pages tell to type exists."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from experiments.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A command stands at the start of a line of a block, or in backticks.
COMMANDS = sorted(
    {
        (page.name, line.strip())
        for page in PAGES
        for line in re.findall(r"^(?:    )?(bnas [a-z][^#;|&\n]*)|`(bnas [a-z][^`\n]*)`", page.read_text(), re.M)
        for line in line
        if line
    }
)


def known_options(command: object) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_a_command_that_a_page_names_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line.split(" -> ")[0])[1:]
    command = typer.main.get_command(app)
    while words and hasattr(command, "resolve_command"):
        # Fails where there is no command of that name.
        _, command, words = command.resolve_command(click.Context(command), [words[0].rstrip(",."), *words[1:]])
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known_options(command) | {"--help"}


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_what_the_python_of_a_page_imports_is_there(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    imports = [line for block in blocks for line in block.splitlines() if line.startswith(("import ", "from "))]
    assert imports
    for line in imports:
        exec(line, {})
