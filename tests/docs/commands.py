"""How each command of the pages is run by the tests. A command that no rule knows fails.

laparoflow ...              run in this process, in the playground (conftest.py), where the names that the pages use
                            exist: videos/, cache/, run/, probe/, labelled/, data/NAME/, backbone.safetensors, and each
                            ```yaml block that begins with "# NAME.yaml". First the words are parsed as they stand;
                            then they run with `--out` in a fresh folder (with `--resume` a copy of run/) and the
                            options of SMALL appended, which make the work a matter of seconds.
torchrun, srun              the launcher's options are parsed, the command behind them is run as one process
make TARGET                 the target is there, and `make -n` succeeds
pip install ...             the folder and the extras that it names are there
pytest ...                  the paths that it names are there (the tests themselves run anyway)
python FILE, python -m X    laparoflow_kernels is run; of others, file or module is there
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from laparoflow import cli
from laparoflow.commands import find_command
from tests.docs.pages import ROOT, Command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

SMALL_OPTIONS = {
    "demo": "--max-steps 1 --pretrain-clips 1 --test-clips 1 --frames 8 --labels 1 --seeds 0",
    "prepare": "--short-side 48 --min-motion 0",
    "pretrain": """
        --max-steps 2 --batch-size 2 --encoder.backbone laparoflow_convvit_mini --encoder.image-size 32 --encoder.dim 8
        --encoder.hidden 16 --views.size 16 16 --trainer.accelerator cpu --trainer.precision 32-true --trainer.workers 0
        --trainer.tensorboard false --trainer.log-every 1 --trainer.progress false
    """,
    "probe": """
        --steps 2 --labels 1 --seeds 0 --image-size 32 32 --pictures 1 --device cpu --random-control false
        --finetune-steps 1
    """,
    "convert": "",
    "export": "",
    "report": "",
    "view": "--frames 2 --width 64 --device cpu",
    "predict": "--every 4 --device cpu",
    "evidence": """
        --scenes default --methods flow --seeds 0 --labels 1 --probe-steps 1 --scratch-labels 1 --scratch-steps 1
        --max-steps 1 --pretrain-clips 1 --test-clips 1 --frames 8 --device cpu --recipe evidence-small.yaml
    """,
}
SMALL = {name: options.split() for name, options in SMALL_OPTIONS.items()}


def run_laparoflow(words: list[str], fresh: Path) -> None:
    """One command of the command line, small; it must end with status 0 and leave what it says that it writes."""
    name, options = words[0], list(words[1:])
    if name in ("-h", "--help", "--version") or "--help" in options:
        assert cli.main(words) == 0
        return
    assert name in SMALL, f"tests/docs/commands.py: no rule for `laparoflow {name}`"
    cli.parse(find_command(name), options)  # every option as written is one, with a value of its type
    out = fresh / Path(options[options.index("--out") + 1]).name
    options[options.index("--out") + 1] = str(out)
    if "--resume" in options:
        shutil.copytree("run", out)
    assert cli.main([name, *options, *SMALL[name]]) == 0
    assert out.is_file() or any(out.iterdir())


def run_launcher(command: Command, fresh: Path) -> None:
    """torchrun's or srun's own options, then the command behind them, as one process."""
    words = list(command.words)
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(words[1:])
        assert parsed.module, "torchrun: expected -m laparoflow"
        inner = [parsed.training_script, *parsed.training_script_args]
    else:
        inner = words[words.index("laparoflow") :]
        for option in words[1 : words.index("laparoflow")]:
            known = ("--nodes", "--ntasks", "--ntasks-per-node", "--gpus-per-task", "--cpus-per-task")
            assert option.isdigit() or option.split("=")[0] in known, f"srun: unknown option {option}"
    assert inner[0] == "laparoflow", f"expected laparoflow behind the launcher, got {inner[0]}"
    run_laparoflow(inner[1:], fresh)


def run_make(command: Command, fresh: Path) -> None:
    """The target exists and its recipe can be made out."""
    targets = [word for word in command.words[1:] if "=" not in word and not word.startswith("-")]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.M), f"the Makefile has no target {target}"
    for word in command.words[1:]:
        name, equals, _ = word.partition("=")
        if equals:
            read = makefile + (ROOT / "scripts" / "setup.sh").read_text()
            assert re.search(rf"\b{name}\b", read), f"neither Makefile nor scripts/setup.sh reads {name}"
    subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, check=True, capture_output=True, text=True)


def run_pip(command: Command, fresh: Path) -> None:
    """What is installed by name from an index is not; what is installed from here must be there."""
    assert command.words[1] == "install", f"no rule for pip {command.words[1]}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in command.words[2:]:
        local = re.fullmatch(r"(\.|laparoflow)(?:\[([\w,]+)\])?", word)
        for extra in (local[2] or "").split(",") if local else []:
            assert not extra or extra in project["optional-dependencies"], f"no extra {extra}"
        known = ("--no-build-isolation", "-e", "--editable", "--no-deps", "--upgrade", "-U", "-v")
        assert not word.startswith("-") or word in known, f"pip: unknown option {word}"


def check_tests(words: list[str]) -> None:
    """Paths of a pytest call exist."""
    paths = [word.split("::")[0] for word in words if word.startswith(("tests", "benchmarks", "examples"))]
    for path in paths:
        assert (ROOT / path).exists(), f"pytest: no {path}"


def run_python(command: Command, fresh: Path) -> None:
    """laparoflow and laparoflow_kernels are run; of other scripts and modules the place is checked."""
    words = list(command.words[1:])
    if words[0] == "-m":
        module = words[1]
        if module == "pytest":
            check_tests(words[2:])
        elif module == "pip":
            run_pip(Command(command.page, command.line, (), tuple(words[1:])), fresh)
        elif module == "laparoflow":
            run_laparoflow(words[2:], fresh)
        elif module == "laparoflow_kernels":
            runpy.run_module(module, run_name="__main__")
        elif module == "torch.distributed.run":
            run_launcher(Command(command.page, command.line, (), ("torchrun", *words[2:])), fresh)
        else:
            here = ROOT / module.replace(".", "/")
            there = here.with_suffix(".py").is_file() or (here / "__main__.py").is_file()
            assert there or importlib.util.find_spec(module), f"no module {module}"
    elif words[0] == "-c":
        exec(compile(words[1], str(command), "exec"), {})
    else:
        assert (ROOT / words[0]).is_file(), f"no file {words[0]}"


def run_precommit(command: Command, fresh: Path) -> None:
    assert command.words[1] in ("install", "run")
    assert (ROOT / ".pre-commit-config.yaml").is_file()


RULES: dict[str, Callable[[Command, Path], None]] = {
    "laparoflow": lambda command, fresh: run_laparoflow(list(command.words[1:]), fresh),
    "torchrun": run_launcher,
    "srun": run_launcher,
    "make": run_make,
    "pip": run_pip,
    "python": run_python,
    "python3": run_python,
    "pytest": lambda command, fresh: check_tests(list(command.words[1:])),
    "pre-commit": run_precommit,
}


def run_command(command: Command, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command of a page by its rule, in the current folder."""
    program = command.words[0].removeprefix(".venv/bin/")
    assert program in RULES, f"{command}: tests/docs/commands.py has no rule for {program}"
    for name, value in command.variables:
        if name != "TRITON_INTERPRET":  # read at import; it means something to a process of its own only
            monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setattr(sys, "argv", [program])
    RULES[program](command, fresh)
