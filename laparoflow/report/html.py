"""`laparoflow report`: runs in, one HTML page out.

The page holds its pictures and style itself, has no script, and asks nothing of a network. Beside PAGE.html are
PAGE.json with the figures and PAGE_pictures/ with the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import laparoflow
from laparoflow.report.files import write_bytes, write_json
from laparoflow.report.run_pictures import run_figures
from laparoflow.report.sections import Section, evidence_section, pretrain_section, probe_section
from laparoflow.report.sources import Source, find_sources


def write_report(runs: Sequence[Path], out: Path, title: str = "Laparoflow report") -> Path:
    """Writes one self-contained HTML page about runs of `pretrain`, `probe` and `evidence`.

    Args:
        runs: folders that those commands wrote, or folders of such folders.
        out: the page to write; its name must end in .html.
        title: heading of the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: no runs, a wrong ending, or a folder with nothing to report.
        FileNotFoundError: a folder does not exist.
    """
    if not runs:
        raise ValueError("runs must name at least one folder")
    out = Path(out)
    if out.suffix != ".html":
        raise ValueError(f"out must end in .html, got {out}")
    sources = find_sources([Path(run) for run in runs])
    sections = [section_of(source) for source in sources]
    environment = Environment(
        loader=PackageLoader("laparoflow", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("page.html").render(title=title, version=laparoflow.__version__, sections=sections)
    for number, section in enumerate(sections, start=1):
        for position, figure in enumerate(section.figures, start=1):
            name = re.sub(r"[^a-z0-9]+", "_", figure.caption.lower()).strip("_")[:60]
            write_bytes(out.parent / f"{out.stem}_pictures" / f"{number:02d}_{position:02d}_{name}.png", figure.png)
    document = [{"kind": s.kind, "title": s.title, "content": s.content, "curves": s.curves} for s in sources]
    write_json(out.with_suffix(".json"), {"format": "laparoflow-report-1", "sources": document})
    return write_bytes(out, page.encode())


def section_of(source: Source) -> Section:
    """The page's section about one source."""
    if source.kind == "probe":
        return probe_section(source)
    if source.kind == "evidence":
        return evidence_section(source)
    return pretrain_section(source, run_figures(source))
