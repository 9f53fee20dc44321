"""The site: Sphinx over the pages of this folder, with tables and pages that are generated at each build.

    make docs                               build/site/index.html
    make docs REPOSITORY=owner/name         the same, with links to sources and notebooks of that GitHub repository

Generated into docs/generated: the tables of all options, from the settings' docstrings, and the notebooks as pages.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from laparoflow.commands import COMMANDS, find_command  # noqa: E402 (of this checkout, installed or not)
from laparoflow.help import option_facts  # noqa: E402
from laparoflow.options import options_of  # noqa: E402

project = "laparoflow"
author = copyright = "The Laparoflow contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["conf.py"]
html_theme = "furo"
html_title = "laparoflow"
myst_heading_anchors = 3
highlight_language = "none"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = [("Shapes", "params_style"), ("Shape", "params_style")]
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
nitpicky = False

OPTIONS_HEAD = """# All options

These are the options of all commands, from the docstrings of their settings. An option is also a key of a YAML file:
`--trainer.log-every 5` is `trainer: {log_every: 5}`.
"""


def write(path: Path, text: str) -> None:
    """Write a generated page where it differs, so that an unchanged one is not read again."""
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def options_page() -> str:
    """The tables of options, one a command."""
    parts = [OPTIONS_HEAD]
    for name, about in COMMANDS.items():
        command = find_command(name)
        parts.append(f"\n## laparoflow {name}\n\n{about[0].upper()}{about[1:]}.\n\n| option | value | default | what |")
        parts.append("| --- | --- | --- | --- |")
        for option, action in options_of(command.settings).items():
            value, default, text = (re.sub(r"([|<>*_])", r"\\\1", fact) for fact in option_facts(command, option, action))
            parts.append(f"| `{option}` | {value} | {default} | {text} |")
    return "\n".join(parts) + "\n"


def notebook_page(path: Path, repository: str) -> str:
    """A notebook as a page: its text and its code."""
    content = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in content["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    place = f"github/{repository}/blob/main/docs/notebooks/{path.name}"
    links = [f"{{download}}`Download this notebook <../notebooks/{path.name}>`"]
    if repository:
        links.append(f"[open it in Colab](https://colab.research.google.com/{place})")
        links.append(f"[in nbviewer](https://nbviewer.org/{place})")
    parts.insert(1, ", ".join(links) + ".")
    return "\n\n".join(parts) + "\n"


def generate(app: Sphinx) -> None:
    """Write docs/generated."""
    write(DOCS / "generated" / "options.md", options_page())
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        write(DOCS / "generated" / f"{path.stem}.md", notebook_page(path, app.config.repository))


def link_sources(app: Sphinx, page: str, source: list[str]) -> None:
    """Links that leave this folder lead to the repository, where one is named; else their text stands alone."""
    base = f"https://github.com/{app.config.repository}/blob/main/" if app.config.repository else ""
    source[0] = re.sub(r"\[([^\]]+)\]\(notebooks/(\w+)\.ipynb\)", r"[\1](generated/\2.md)", source[0])
    target = rf"[\1]({base}\2)" if base else r"\1"
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", target, source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_config_value("repository", "", "env", str)
    app.connect("builder-inited", generate)
    app.connect("source-read", link_sources)
