"""The command line: one table of commands; each is loaded only when it is called.

Every setting of a command is an option (``--trainer.log_every 5``) and a YAML key (``--config FILE``); an unknown
one is an error.  Dashes and underscores in option names are the same; a list takes its values one after the other
(``--seeds 0 1 2``), and ``--seeds=0`` is a list of one; a list of text takes each word as it stands
(``--test_videos 01 no "OR1, left"``); ``--resume false`` means false.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: what is typed.
        help: one line.
        module: where its settings live.
        settings: name of their dataclass; the command's function is ``run_NAME`` in ``laparoflow.commands``.
        positional: field that is given without an option name, if any.
        many: the positional field takes several values.
    """

    name: str
    help: str
    module: str
    settings: str
    positional: str | None = None
    many: bool = False


COMMANDS = {
    command.name: command
    for command in (
        Command("demo", "the whole job on a generated video, in minutes", "laparoflow.demo", "DemoSettings"),
        Command(
            "prepare",
            "videos to a cache of frames and flow",
            "laparoflow.commands",
            "PrepareCommand",
            positional="inputs",
            many=True,
        ),
        Command("pretrain", "train a network on a cache", "laparoflow.training.settings", "PretrainSettings"),
        Command("speed", "time reading, views and steps of a recipe", "laparoflow.training.speed", "SpeedSettings"),
        Command("probe", "score frozen features with few labels", "laparoflow.probes", "ProbeSettings"),
        Command(
            "export",
            "write a trained network for timm or ONNX",
            "laparoflow.export",
            "ExportSettings",
            positional="run",
        ),
        Command(
            "evidence",
            "ours against every control under one budget",
            "laparoflow.evidence",
            "EvidenceSettings",
        ),
        Command(
            "report",
            "one HTML page over runs",
            "laparoflow.commands",
            "ReportCommand",
            positional="runs",
            many=True,
        ),
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(package_version())
        return 0
    if words[0] not in COMMANDS:
        print(f"laparoflow: unknown command {words[0]!r}\n\n{overview()}", file=sys.stderr)
        return 2
    return run_command(words[0], words[1:])


def overview() -> str:
    """What ``laparoflow --help`` prints."""
    rows = "\n".join(f"  {name:<10}{command.help}" for name, command in COMMANDS.items())
    return (
        "usage: laparoflow COMMAND [options]\n\n"
        f"Dense self-supervised pretraining on surgical video, guided by optical flow ({package_version()}).\n\n"
        f"commands:\n{rows}\n\n"
        "`laparoflow COMMAND --help` lists the options of a command."
    )


def package_version() -> str:
    """Version of the installed package."""
    try:
        return version("laparoflow")
    except PackageNotFoundError:
        return "not installed"


def run_command(name: str, words: list[str]) -> int:
    """Parse ``words`` and run one command.

    Returns:
        0, 1 when the command failed with a message, 2 when the options were wrong.
    """
    parser, settings_class = build_parser(name)
    try:
        settings = parse_settings(parser, settings_class, words)
    except SystemExit as stop:
        return int(stop.code or 0)
    except (ValueError, TypeError, OSError) as error:
        return _complain(name, error, 2)
    try:
        getattr(import_module("laparoflow.commands"), f"run_{name}")(settings)
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("LAPAROFLOW_TRACEBACK"):
            raise
        return _complain(name, error, 1)
    except KeyboardInterrupt:
        print(f"laparoflow {name}: interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser(name: str) -> tuple[ArgumentParser, type]:
    """Parser and settings class of a command."""
    from jsonargparse import ArgumentParser

    command = COMMANDS[name]
    settings_class = getattr(import_module(command.module), command.settings)
    parser = ArgumentParser(prog=f"laparoflow {name}", description=command.help)
    parser.add_argument("--config", action="config", help="YAML file of settings, or the name of one of ours")
    skip = set()
    if command.positional:
        skip.add(command.positional)
        if command.many:
            parser.add_argument(command.positional, type=Path, nargs="+")
        else:
            parser.add_argument(command.positional, type=Path)
    parser.add_class_arguments(settings_class, skip=skip)
    return parser, settings_class


def parse_settings(parser: ArgumentParser, settings_class: type, words: list[str]) -> Any:
    """Words of the command line to an instance of the settings.

    Raises:
        SystemExit: the options are wrong (the parser has said why), or help was asked for.
        ValueError: a value is out of range.
    """
    words = plain_words(parser, words)
    values = parser.parse_args(words)
    if values.get("resume") and values.get("out") and (record := Path(values.out) / "config.yaml").is_file():
        values = parser.parse_args(["--config", str(record), *words])  # what is not given is as the run has it
    values.pop("config", None)
    built = parser.instantiate_classes(values)
    return settings_class(**{key: built[key] for key in built.__dict__})


def plain_words(parser: ArgumentParser, words: list[str]) -> list[str]:
    """Command-line words as the parser wants them: underscores, lists in brackets, switches true, our configs by name."""
    kinds = {option: str(getattr(action, "_typehint", "")) for action in parser._actions for option in action.option_strings}
    lists = {option for option, kind in kinds.items() if "list[" in kind or "tuple[" in kind}
    switches = {option for option, kind in kinds.items() if kind == "<class 'bool'>"}
    result: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--"):
            result.append(word)
            continue
        option, equals, value = word.partition("=")
        option = "--" + option[2:].replace("-", "_")
        if option == "--config":
            value = value if equals else words[position] if position < len(words) else ""
            position += not equals
            result += [option, find_config(value)]
        elif option in lists:
            taken = [value] if equals else []
            while not equals and position < len(words) and not words[position].startswith("--"):
                taken.append(words[position])
                position += 1
            result += [option, list_word(taken, kinds[option])]
        elif option in switches and not equals and (position == len(words) or words[position].startswith("--")):
            result += [option, "true"]
        else:
            result.append(option + equals + value)
    return result


def list_word(taken: list[str], kind: str) -> str:
    """The words of a list option of one type (``list[str]``, ...) as the one word that the parser reads as that list."""
    if len(taken) == 1:
        word = taken[0]
        if (word.startswith("[") and word.endswith("]")) or (word == "null" and "Optional" in kind):
            return word
    if "list[str]" in kind or "tuple[str" in kind:
        taken = [json.dumps(word, ensure_ascii=False) for word in taken]
    return "[" + ",".join(taken) + "]"


def find_config(value: str) -> str:
    """A file as it stands, or the one of our configs with that name."""
    named = CONFIGS / (value if value.endswith(".yaml") else f"{value}.yaml")
    return str(named) if value and not Path(value).is_file() and named.is_file() else value


def _complain(name: str, error: Exception, status: int) -> int:
    print(f"laparoflow {name}: error: {error}", file=sys.stderr)
    return status
