"""The command line: one table of commands; each is loaded only when it is called, and torch only when its work starts.

Every setting of a command is an option (``--trainer.log_every 5``) and a YAML key (``--config FILE``); an unknown
one is an error.  Dashes and underscores in option names are the same; a list takes its values one after the other
(``--seeds 0 1 2``), and ``--seeds=0`` is a list of one; a list of text takes each word as it stands
(``--test_videos 01 no "OR1, left"``); ``--resume false`` means false.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laparoflow import __version__
from laparoflow.commands import COMMANDS, find_command
from laparoflow.machine import wait_asleep

if TYPE_CHECKING:
    from laparoflow.commands.base import Command

HELP = ("-h", "--help", "--help-all", "--help_all")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 141 where what reads its output has closed (``| head``)."""
    wait_asleep()
    try:
        status = _main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends
        return 128 + signal.SIGPIPE
    return status


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in HELP:
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        from difflib import get_close_matches

        found = get_close_matches(words[0], COMMANDS, 1)
        hint = f"; did you mean {found[0]}?" if found else ""
        print(f"laparoflow: unknown command {words[0]!r}{hint}", file=sys.stderr)
        print("usage: laparoflow COMMAND [options]\n`laparoflow --help` lists the commands", file=sys.stderr)
        return 2
    return run_command(words[0], words[1:])


def overview() -> str:
    """What ``laparoflow --help`` prints."""
    rows = "\n".join(f"  {name:<10}{line}" for name, line in COMMANDS.items())
    return (
        "usage: laparoflow COMMAND [options]\n\n"
        f"Dense self-supervised pretraining on surgical video, guided by optical flow ({__version__}).\n\n"
        f"commands:\n{rows}\n\n"
        "`laparoflow COMMAND --help` lists the options of a command."
    )


def run_command(name: str, words: list[str]) -> int:
    """Run one command: 0, 1 when it failed with a message, 2 when the options were wrong, 130 after Ctrl-C."""
    from laparoflow.files import try_writing
    from laparoflow.help import help_text, usage

    command = find_command(name)
    if any(word in HELP for word in words):
        rest = [word for word in words if word not in HELP]
        print(help_text(name, command, rest, everything=len(rest) + words.count("-h") + words.count("--help") < len(words)))
        return 0
    try:
        settings = parse(command, words)
    except (ValueError, TypeError, OSError) as error:
        _complain(name, error)
        print(usage(name, command), file=sys.stderr)
        return 2
    try:
        command.check(settings)
        if getattr(settings, "out", None) is not None:
            try_writing("out", Path(settings.out))
        command.run(settings)
    except KeyboardInterrupt:
        print(f"laparoflow {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("LAPAROFLOW_TRACEBACK"):
            raise
        _complain(name, error)
        return 1
    return 0


def parse(command: Command, words: Sequence[str]) -> Any:
    """Words of the command line to an instance of the command's settings; errors are those of ``load_settings``."""
    from laparoflow.options import OptionError, load_settings, read_words

    names, given = read_words(command.settings, words, command.positional)
    if str(given.get("resume")).lower() == "true" and (record := Path(given.get("out", "")) / "config.yaml").is_file():
        names.insert(0, str(record))  # what is not given is as the run has it
    settings = load_settings(command.settings, names, given)
    method = getattr(settings, "method", None)
    for option in given:
        if method is not None and option.startswith("method.") and option.split(".")[1] not in ("name", method.name):
            raise OptionError(f"--{option} plays no part: method.name is {method.name!r}")
    return settings


def _complain(name: str, error: Exception) -> None:
    expected = isinstance(error, (ValueError, TypeError, OSError, ArithmeticError, RuntimeError))
    text = str(error) if expected else f"{type(error).__name__}: {error} (LAPAROFLOW_TRACEBACK=1 shows where)"
    print(f"laparoflow {name}: error: {text}", file=sys.stderr)
