"""What the pages say about the code: links, environment variables, options, files, doctests."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import laparoflow_kernels
from laparoflow.commands import COMMANDS, find_command
from laparoflow.datasets.registry import dataset_names
from laparoflow.options import options_of
from laparoflow_kernels import FlowInfoNCELoss, flow_infonce
from laparoflow_kernels.problem import FLOW_KERNELS
from tests.docs.pages import PAGES, ROOT, blocks, code_spans, links, table_rows

BUILD = ROOT / "docs" / "INSTALL.md"
CODE = (".py", ".cpp", ".h", ".cu", ".cuh", ".sh")
SOURCES = sorted(
    path
    for folder in ("laparoflow", "laparoflow_kernels", "csrc", "benchmarks", "examples", "scripts", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in CODE and ROOT / "tests" / "docs" not in path.parents
) + [ROOT / "setup.py", ROOT / "Makefile"]

# one pattern per way of reading a variable
READS = (
    r"""environ(?:ment)?(?:\.get\(|\.setdefault\(|\.pop\(|\[)\s*["']([A-Z][A-Z0-9_]*)["']""",
    r"""\benv(?:\.get\(|\[)\s*["']([A-Z][A-Z0-9_]*)["']""",
    r"""["']([A-Z][A-Z0-9_]*)["'] (?:not )?in (?:os\.)?env""",
    r"""getenv\(\s*"([A-Z][A-Z0-9_]*)"\s*\)""",
    r"""\$\{([A-Z][A-Z0-9_]*):-""",
    r"""^([A-Z][A-Z0-9_]*) \?=""",
    r"""["'](LAPAROFLOW_[A-Z0-9_]+)["'=]""",
)


def documented_variables() -> set[str]:
    """Variables in the first column of the tables of INSTALL.md."""
    return {span for row in table_rows(BUILD) for span in code_spans(row[0]) if re.fullmatch(r"[A-Z][A-Z0-9_]+", span)}


def variables_read(text: str) -> set[str]:
    """Environment variables that a source reads."""
    return {name for pattern in READS for name in re.findall(pattern, text, re.M)}


def test_every_environment_variable_that_is_read_is_documented():
    documented = documented_variables()
    missing = {
        name: path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for name in variables_read(path.read_text(encoding="utf-8")) - documented
    }
    assert not missing, f"docs/INSTALL.md does not tell: {missing}"


def test_every_documented_environment_variable_is_read():
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    stale = {name for name in documented_variables() if not re.search(rf"\b{name}\b", text)}
    assert not stale, f"docs/INSTALL.md names variables that nothing reads: {stale}"


def test_the_search_for_variables_finds_each_way_of_reading():
    for text in (
        'os.environ.get("ABC")', "os.environ['ABC']", 'environ.setdefault("ABC", "1")', 'env["ABC"]', '"ABC" in env',
        'std::getenv("ABC")', "${ABC:-}", "ABC ?= x",
    ):  # fmt: skip
        assert variables_read(text) == {"ABC"}, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in links(page):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        place, _, anchor = target.partition("#")
        path = (page.parent / place) if place else page
        assert path.exists(), f"{page.name}: no {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page.name}: no heading for {target}"


def test_the_readme_is_short_and_leads_everywhere():
    readme = ROOT / "README.md"
    prose = re.sub(r"```.*?```|<!--.*?-->|\]\([^)]*\)", "", readme.read_text(encoding="utf-8"), flags=re.S)
    assert len(re.findall(r"\S*\w\S*", prose)) < 700
    linked = {(ROOT / target).resolve() for target in links(readme) if not target.startswith("http")}
    unlinked = {page.name for page in PAGES if page != readme} - {path.name for path in linked}
    assert not unlinked, f"the README does not lead to {unlinked}"


@pytest.mark.parametrize("name", ["results", "benchmark"])
def test_the_readme_has_places_for_generated_tables(name):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(f"<!-- {name}:begin -->") == text.count(f"<!-- {name}:end -->") == 1
    assert text.index(f"<!-- {name}:begin -->") < text.index(f"<!-- {name}:end -->")


FIDELITY = [row for row in table_rows(ROOT / "docs" / "FIDELITY.md") if row[0] != "point"]


@pytest.mark.parametrize("row", FIDELITY, ids=lambda row: row[0][:40])
def test_every_point_that_is_not_stated_is_an_option(row):
    """The option exists, and where a default is given it is the default."""
    _, status, option = row
    if status.startswith("stated"):
        assert option == ""
        return
    assert status in ("inferred", "chosen")
    found = re.findall(r"`([^`]+)`([^`|]*)", option)
    assert found, f"no option for {row[0]}"
    for span, after in found:
        default = after.strip(" ,").split(":")[0]
        if span.startswith("flow_infonce: "):
            parameter = inspect.signature(flow_infonce).parameters[span.removeprefix("flow_infonce: ")]
            assert default in ("", str(parameter.default).lower()), f"{span} has the default {parameter.default}"
            continue
        command, name = span.split(" --")
        options = options_of(find_command(command).settings)
        assert name in options, f"`laparoflow {command}` has no option --{name}"
        if default and name != "labels":
            assert plainly(options[name].default) == default, f"{span}: {options[name].default}"


def plainly(value: object) -> str:
    """A default as FIDELITY.md writes it."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return {"0.0005": "5e-4", "0.0001": "1e-4"}.get(text, text)


@pytest.mark.parametrize("name", FLOW_KERNELS)
def test_math_and_readme_know_every_weight_kernel(name):
    assert name in {row[0] for row in table_rows(ROOT / "docs" / "MATH.md")}


def test_contributing_names_exactly_the_files_that_know_a_weight_kernel():
    """So that whoever follows the list has changed everything, and nothing for nothing."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(code_spans(text))
    product = [ROOT / name for name in ("laparoflow", "laparoflow_kernels", "csrc", "benchmarks", "examples", "scripts")]
    sources = [path for folder in product for path in folder.rglob("*") if path.suffix in (*CODE, ".js")]
    knowing = {
        path.relative_to(ROOT).as_posix() for path in sources if re.search("cauchy", path.read_text("utf-8"), re.I)
    }  # fmt: skip
    section = text.split("## Adding a weight kernel")[1].split("\n## ")[0]
    listed = {span for span in code_spans(section) if "/" in span and not span.startswith("tests/")}
    assert knowing == listed, f"CONTRIBUTING.md lacks {knowing - listed}, and should not list {listed - knowing}"
    assert len(table_rows(ROOT / "CONTRIBUTING.md")) <= 7, "more than six files define a weight kernel"
    paths = {span for span in named if re.fullmatch(r"[\w./]+/[\w.]+\.(py|h|cpp|cuh|yaml|md)", span) and "NAME" not in span}
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert not missing, f"CONTRIBUTING.md names files that are not there: {missing}"


# options of SLURM that TRAIN.md names
SRUN = {"--nodes", "--ntasks-per-node", "--signal", "--gpus-per-node", "--gpus-per-task", "--kill-on-bad-exit"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_within_sentences_exist(page):
    """In running text too, a command or an option of ours is one that there is."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = {f"--{option}" for name in COMMANDS for option in options_of(find_command(name).settings)}
    options |= {"--config", "--help", "--help_all"}
    for span in code_spans(page.read_text(encoding="utf-8")):
        words = span.split()
        if words[:1] == ["make"] and len(words) > 1:
            assert re.search(rf"^{re.escape(words[1])}:", makefile, re.M), f"{page.name}: no target for `{span}`"
        elif words[:1] == ["laparoflow"] and len(words) > 1 and not (words[1].isupper() or words[1] == "--help"):
            assert words[1] in COMMANDS, f"{page.name}: `{span}` is no command"
        elif page.name in ("TRAIN.md", "DATA.md", "FIDELITY.md", "README.md") and span.startswith("--"):
            option = "--" + re.split(r"[ =]", span[2:])[0].replace("-", "_")
            known = option in options or any(one.startswith(option + ".") for one in options)
            assert known or span.split("=")[0] in SRUN, f"{page.name}: `{span}` is no option"


def test_every_data_set_has_a_command():
    commands = "\n".join(block.text for block in blocks(ROOT / "docs" / "DATA.md", "bash"))
    assert {name for name in dataset_names() if f"--dataset {name} " not in commands} == set()


def test_every_subcommand_is_shown_in_training():
    shown = "\n".join(block.text for block in blocks(ROOT / "docs" / "TRAIN.md", "bash"))
    assert {name for name in COMMANDS if f"laparoflow {name} " not in shown} == set()


def test_the_module_has_the_options_of_the_function():
    """README and MATH speak of both as one."""
    own = set(inspect.signature(FlowInfoNCELoss).parameters)
    assert {"temperature", "bandwidth", "flow_kernel", "positives", "negatives", "scope", "symmetric"} <= own


def public_modules() -> list[str]:
    """Modules of laparoflow_kernels that import with torch alone."""
    found = ["laparoflow_kernels"]
    for module in pkgutil.walk_packages(laparoflow_kernels.__path__, "laparoflow_kernels."):
        if not module.name.endswith(("._C", ".__main__")) and ".backends.triton" not in module.name:
            found.append(module.name)
    return found


@pytest.mark.parametrize("name", public_modules())
def test_doctests_of_the_kernels(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


EXPLAINED = ["flow_infonce", "flow_weighted_sum", "pairwise_flow_weights", "FlowInfoNCELoss", "backends"]


@pytest.mark.parametrize("name", EXPLAINED)
def test_public_names_have_a_runnable_example(name):
    assert ">>>" in inspect.getdoc(getattr(laparoflow_kernels, name))


def test_no_page_names_a_place_of_this_machine():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert str(Path.home()) not in text or Path.home() == Path("/")
        assert "/tmp/" not in text, page.name
