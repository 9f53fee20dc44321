"""What ``laparoflow COMMAND --help`` prints: the basic options by what they do, or all of them by where they belong."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from laparoflow.commands import COMMANDS
from laparoflow.commands.base import Command
from laparoflow.options import OptionError, is_list, options_of, read_file, read_words, type_text

WIDTH, COLUMN = 110, 38


def usage(name: str, command: Command) -> str:
    """Two lines: the command with what it needs, and where the rest is."""
    needed = [_call(option, action) for option, action in options_of(command.settings).items()
              if action.required and option != command.positional]
    if command.positional:
        several = is_list(options_of(command.settings)[command.positional]._typehint)
        needed.insert(0, command.positional.upper() + " ..." * several)
    return f"usage: laparoflow {name} {' '.join([*needed, '[options]'])}\n`laparoflow {name} --help` lists the options"


def help_text(name: str, command: Command, words: Sequence[str] = (), everything: bool = False) -> str:
    """The help of a command: its basic options by what they do, or everything by its place in the settings.

    The method that the other ``words`` of the line choose is the one whose options are shown.
    """
    options = options_of(command.settings)
    chosen = _chosen(command, words) if "method.name" in options else ""
    shown = {option: action for option, action in options.items()
             if not option.startswith("method.") or option.split(".")[1] in ("name", chosen)}
    everything |= not command.basic
    if everything:
        groups: dict[str, list[str]] = {}
        for option in shown:
            groups.setdefault(option.rpartition(".")[0] or name, []).append(option)
    else:
        groups = {title: [option.replace("CHOSEN", chosen) for option in group] for title, group in command.basic.items()}
    lines = [usage(name, command).splitlines()[0], "", f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.", ""]
    for title, group in groups.items():
        lines.append(f"{title}:")
        for option in group:
            if option in shown:
                lines += _entry(command, option, shown[option])
        lines.append("")
    lines += [*_wrapped("--config FILE", "YAML file of settings, or the name of one of ours; may be given again"), ""]
    if chosen:
        lines.append(f"Options of the method {chosen!r}; `--method.name NAME --help` shows those of another.")
    if not everything:
        lines.append(f"`laparoflow {name} --help-all` lists all {len(shown)} options; YAML files take them as keys.")
    return "\n".join(lines)


def _chosen(command: Command, words: Sequence[str]) -> str:
    """The method that the words or their configs choose, else the default."""
    found: Any = options_of(command.settings)["method.name"].default
    with contextlib.suppress(OptionError, OSError):
        names, given = read_words(command.settings, words, command.positional)
        for config in names:
            found = read_file(command.settings, config).get("method.name", found)
        found = given.get("method.name", found)
    return str(found)


def _told(settings: type, option: str) -> str:
    """What the dataclass's docstring says of an option that shares its line with others, which the parser does not see."""
    for one in settings.__mro__:
        for names, text in re.findall(r"^ {8}([\w, ]+): (.*(?:\n {12}.*)*)", one.__doc__ or "", re.M):
            if option in names.split(", "):
                return text
    return ""


def _call(option: str, action: Any) -> str:
    return f"--{option} {type_text(action._typehint)}"


def option_facts(command: Command, option: str, action: Any) -> tuple[str, str, str]:
    """What an option takes, its default ("needed" where there is none), and what it is."""
    default = action.default
    if isinstance(default, (list, tuple)):
        default = " ".join(map(str, default)) or "none"
    text = " ".join((action.help or _told(command.settings, option)).replace("``", "").split()).rstrip(".")
    text = re.sub(r"\bNone\b", "null", text)  # as it is typed here; in Python the value is None
    shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    return type_text(action._typehint), "needed" if action.required else shown, text


def _entry(command: Command, option: str, action: Any) -> list[str]:
    """The lines of one option: its call, what it is, its default."""
    _, default, text = option_facts(command, option, action)
    state = default if action.required else f"default: {default}"
    return _wrapped(option.upper() if option == command.positional else _call(option, action), f"{text} ({state})")


def _wrapped(call: str, text: str) -> list[str]:
    """A call on the left, its text on the right, on lines of its own where the call is long."""
    lines = textwrap.wrap(text, WIDTH - COLUMN)
    head = f"  {call:<{COLUMN - 2}}"
    rest = [" " * COLUMN + line for line in lines]
    return [head, *rest] if len(head) > COLUMN or head[-1] != " " else [head + lines[0], *rest[1:]]
