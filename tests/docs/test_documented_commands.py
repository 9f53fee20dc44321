"""Every command and every Python example of the pages, run; see commands.py for how."""

from __future__ import annotations

import pytest
import torch

from laparoflow.options import OptionError
from tests.docs.commands import run_command
from tests.docs.pages import PAGES, ROOT, SHELL, Command, all_commands, blocks, commands_of

COMMANDS = all_commands()
EXAMPLES = [page for page in PAGES if blocks(page, "python", "py")]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command(command, in_playground, tmp_path, monkeypatch):
    run_command(command, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_python_examples(page, in_playground):
    """The examples of a page run one after the other, sharing their names."""
    torch.manual_seed(0)
    names: dict = {"__name__": "__main__"}
    for block in blocks(page, "python", "py"):
        padding = "\n" * (block.line - 1)  # so that a traceback shows the line of the page
        exec(compile(padding + block.text, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_its_language(page):
    """A block without a language would escape these tests."""
    fences = sum(line.lstrip().startswith("```") for line in page.read_text(encoding="utf-8").splitlines())
    known = blocks(page, *SHELL, "python", "py", "yaml", "text", "json", "diff", "cpp", "toml")
    assert fences == 2 * len(known), f"{page.relative_to(ROOT)}: a fenced block has no language or an unknown one"


def test_readme_has_the_two_commands_and_an_example():
    words = [command.words for block in blocks(ROOT / "README.md", "bash") for command in commands_of(block)]
    assert ("make", "demo") in words
    assert ("make", "test") in words
    (example,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in example.text.splitlines() if line.strip()]) <= 10


def test_an_unknown_command_or_option_fails(in_playground, tmp_path, monkeypatch):
    """The rules can fail: an unknown program, target, extra, module, option."""
    for words in (
        ("rm", "cache"),
        ("make", "nothing"),
        ("pip", "install", ".[nothing]"),
        ("python", "-m", "laparoflow_nothing"),
        ("python", "-m", "pytest", "tests/nothing"),
        ("laparoflow", "report", "run", "--out", "page.html", "--nothing", "1"),
        ("torchrun", "-m", "laparoflow", "report", "nothing", "--out", "page.html"),
    ):
        with pytest.raises((AssertionError, SystemExit, OptionError)):
            run_command(Command("page.md", 1, (), words), tmp_path, monkeypatch)
