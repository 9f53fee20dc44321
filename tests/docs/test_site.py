"""The site builds without a warning; its tables of options name every option."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from laparoflow.commands import COMMANDS, find_command
from laparoflow.options import options_of
from tests.docs.pages import ROOT

MISSING = [name for name in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, with links to a repository."""
    if MISSING:
        pytest.skip(f"the site needs {', '.join(MISSING)}: pip install laparoflow[docs]")
    out = tmp_path_factory.mktemp("site")
    words = ["-W", "-q", "-b", "html", "-d", str(out / "doctrees"), "-D", "repository=owner/name", "docs", str(out / "html")]
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_every_page_and_public_name_is_there(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()
    kernels = (site / "api" / "kernels.html").read_text(encoding="utf-8")
    ours = (site / "api" / "laparoflow.html").read_text(encoding="utf-8")
    for name in ("flow_infonce", "FlowInfoNCELoss", "flow_weighted_sum", "pairwise_flow_weights", "backends"):
        assert f'id="laparoflow_kernels.{name}"' in kernels, name
    assert 'id="laparoflow.models.load_encoder"' in ours
    assert (site / "search.html").is_file()
    assert "flow_infonce" in (site / "searchindex.js").read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_the_tables_of_options_name_every_option(site):
    text = (site / "generated" / "options.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'<span class="pre">([\w.]+)</span>', text))
    wanted = {option for name in COMMANDS for option in options_of(find_command(name).settings)}
    assert wanted <= shown, wanted - shown


@pytest.mark.slow
def test_notebooks_open_elsewhere_and_sources_lead_to_the_repository(site):
    page = (site / "generated" / "loss.html").read_text(encoding="utf-8")
    assert "https://colab.research.google.com/github/owner/name/blob/main/docs/notebooks/loss.ipynb" in page
    assert "FlowInfoNCELoss" in page
    assert "https://github.com/owner/name/blob/main/notes/" in (site / "BACKENDS.html").read_text(encoding="utf-8")
