"""`laparoflow report`: runs in, one HTML page out, which holds its pictures, style and script itself.

Beside PAGE.html are PAGE.json with the figures and PAGE_pictures/ with the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

import laparoflow
from laparoflow.files import write_bytes, write_json
from laparoflow.report.explore import cached_frames, explore_run, not_shown
from laparoflow.report.headline import Headline, headline
from laparoflow.report.sections import Section, evidence_section, pretrain_section, probe_pictures, probe_section
from laparoflow.report.sources import Source, find_sources

EXPLORED = 2
"""Runs of which the page holds the interactive view, some megabytes each."""


def write_report(runs: Sequence[Path], out: Path, title: str = "Laparoflow report") -> Path:
    """Writes one self-contained HTML page about runs of `pretrain`, `probe` and `evidence`, and returns its path.

    Args:
        runs: folders that those commands wrote, or folders of such folders.
        out: the page to write; its name must end in .html.
        title: heading of the page.

    Raises:
        ValueError: no runs, a wrong ending, or a folder with nothing to report or a damaged JSON file.
        FileNotFoundError: a folder does not exist.
    """
    if not runs:
        raise ValueError("runs must name at least one folder")
    out = Path(out)
    if out.suffix != ".html":
        raise ValueError(f"out must end in .html, got {out}")
    order = ("evidence", "segmentation", "keypoints", "pretrain")
    sources = sorted(find_sources([Path(run) for run in runs]), key=lambda s: order.index(s.content.get("task", s.kind)))
    trained = [source for source in sources if source.kind == "pretrain"]
    sections = []
    for source in sources:
        if source.kind == "pretrain":
            sections.append(_run_section(source, sources, source in trained[:EXPLORED]))
        else:
            sections.append(probe_section(source) if source.kind == "probe" else evidence_section(source))
    for number, section in enumerate(sections, start=1):
        for position, figure in enumerate([*section.charts, *(f for s in section.strips for f in s.figures)], start=1):
            name = re.sub(r"[^a-z0-9]+", "_", figure.caption.lower()).strip("_")[:60] or "picture"
            content = figure.content if isinstance(figure.content, bytes) else figure.content.encode()
            suffix = "png" if isinstance(figure.content, bytes) else "svg"
            write_bytes(out.parent / f"{out.stem}_pictures" / f"{number:02d}_{position:02d}_{name}.{suffix}", content)
    document = [{"kind": s.kind, "title": s.title, "content": s.content, "curves": s.curves} for s in sources]
    write_json(out.with_suffix(".json"), {"format": "laparoflow-report-1", "sources": document})
    return write_page(out, title, sections, headline(sources))


def write_page(out: Path, title: str, sections: Sequence[Section], first: Headline) -> Path:
    """Writes the page alone."""
    loader = PackageLoader("laparoflow", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    colours = (255 * matplotlib.colormaps["viridis"](np.linspace(0, 1, 256))[:, :3]).round().astype(int).tolist()
    page = environment.get_template("page.html").render(
        title=title, version=laparoflow.__version__, sections=sections, headline=first, colours=colours
    )
    return write_bytes(out, page.encode())


def _run_section(source: Source, sources: Sequence[Source], explored: bool) -> Section:
    """A pretraining run; its interactive view also has the segmented frames of the probes of that run."""
    frames = cached_frames(source.folder)
    explorer, notes = None, ["The page lets the first runs be explored; name this one alone to explore it."]
    if explored:
        labelled = []
        for probe in (s for s in sources if s.content.get("task") == "segmentation"):
            named = probe.content["settings"].get("checkpoint")
            if named and Path(named).resolve() == source.folder.resolve():
                size = tuple(probe.content["image_size"])
                labelled += [(name, pictures, size) for name, pictures in probe_pictures(probe).items()]
        explorer, notes = explore_run(source.folder, frames, labelled), []
    section = pretrain_section(source, frames, explorer)
    section.warnings += [*not_shown(source.folder), *notes]
    return section
