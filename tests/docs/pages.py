"""Reading the pages: fenced blocks, the commands and examples in them, tables, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SHELL = ("bash", "console", "sh", "shell")

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w+-]*)[^\n]*\n(?P<body>.*?)^(?P=indent)(?P=fence) *$",
    re.M | re.S,
)
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a shell block: variables set for it, and its words."""

    page: str
    line: int
    variables: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {shlex.join(self.words)}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in one of ``languages``."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] in languages:
            indent = len(match["indent"])
            body = "\n".join(line[indent:] for line in match["body"].splitlines())
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(page.relative_to(ROOT).as_posix(), line, match["language"], body))
    return found


def commands_of(block: Block) -> list[Command]:
    """The commands of a shell block; in ``console`` blocks the lines after ``$``, the others being output."""
    found: list[Command] = []
    text = block.text.replace("\\\n", "  ")
    for number, line in enumerate(text.splitlines()):
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        for part in re.split(r"\s&&\s", line):
            words = shlex.split(part, comments=True)
            count = next((i for i, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
            variables = tuple((name, value) for name, _, value in (word.partition("=") for word in words[:count]))
            if words[count:]:
                found.append(Command(block.page, block.line + number, variables, tuple(words[count:])))
    return found


def all_commands() -> list[Command]:
    """Every shell command of every page, each once."""
    found: dict[tuple[object, ...], Command] = {}
    for page in PAGES:
        for block in blocks(page, *SHELL):
            for command in commands_of(block):
                found.setdefault((command.variables, command.words), command)
    return list(found.values())


def links(page: Path) -> list[str]:
    """Targets of the links and pictures of a page, outside fenced blocks."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [first or second for first, second in _LINK.findall(text)]


def table_rows(page: Path) -> list[list[str]]:
    """Cells of all table rows of a page, the rules between head and body left out."""
    rows = []
    for line in _FENCE.sub("", page.read_text(encoding="utf-8")).splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return rows


def code_spans(text: str) -> list[str]:
    """What stands between single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
