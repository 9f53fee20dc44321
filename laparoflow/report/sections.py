"""One section of the page per source: tables, charts and pictures as plain values."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from laparoflow.files import png_bytes
from laparoflow.probes.run import SCORE_NAMES, spread
from laparoflow.report.charts import bar_chart, confusion_chart, curve_chart, score_chart
from laparoflow.report.pictures import PCK_RADIUS, Picture, palette, panels
from laparoflow.report.sources import Source
from laparoflow.video.cache import CachedFrame
from laparoflow.video.pictures import flow_picture, flow_wheel, full_length

CHARTED = {"segmentation": "mean_iou", "keypoints": f"pck/{PCK_RADIUS:g}"}
CURVES = {
    "excess": "loss above its floor (nats)",
    "valid": "pixels that count (share)",
    "online/feature_spread": "feature spread (1: even, 0: collapsed)",
    "online/effective_rank": "effective rank (dimensions)",
    "online/linear": "linear probe (mean IoU)",
    "online/knn": "nearest neighbours (mean IoU)",
    "lr": "learning rate (of the first group)",
}
"""Logged values that the page shows, with their names and units; all of them are in PAGE.json."""
DASH = "\N{EN DASH}"


@dataclass
class Table:
    caption: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class Figure:
    """A picture: caption, and PNG bytes or the text of an SVG."""

    caption: str
    content: bytes | str
    legend: bool = False

    @property
    def data(self) -> str:
        assert isinstance(self.content, bytes)
        return base64.b64encode(self.content).decode()


@dataclass
class Strip:
    title: str
    figures: list[Figure]


@dataclass
class Section:
    """What the page shows of one source."""

    heading: str
    subtitle: str
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Figure] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""
    explorer: dict[str, Any] | None = None
    details: str = ""


def probe_section(source: Source) -> Section:
    """Scores, score against label budget, confusion, per-class bars, pictures."""
    content = source.content
    task, names, summary, split = content["task"], content["names"], content["summary"], content["split"]
    kind, what = ("Segmentation", "per class") if task == "segmentation" else ("Key points", "per joint")
    height, width = content["image_size"]
    subtitle = (
        f"{source.title}: frozen features, {content['head']} head, pictures of {height} x {width}, "
        f"split by {split['by']}: {split['train_frames']} frames to train, {split['test_frames']} to test"
    )
    section = Section(f"{kind} on {content['dataset']}", subtitle)
    section.warnings = list(content["warnings"])
    section.tables = [summary_table(summary), _per_name_table(content, task, names)]
    charted = CHARTED[task]
    if len({entry["labels"] for entry in summary}) > 1:
        section.charts.append(Figure("score against label budget", score_chart(summary, charted, SCORE_NAMES[charted])))
    budgets, found = _per_name(content, names)
    means = {backbone: {name: value["mean"] for name, value in row.items()} for backbone, row in found.items()}
    section.charts.append(Figure(what, bar_chart(means, SCORE_NAMES[charted])))
    if task == "segmentation":
        section.legend = class_legend(names)
        for backbone, budget in budgets.items():
            runs = [r["metrics"] for r in content["runs"] if (r["backbone"], r["labels"]) == (backbone, budget)]
            counts = np.sum([metrics["confusion"] for metrics in runs], axis=0)
            caption = f"confusion of {backbone}, {budget} labels: percent of each true class"
            section.charts.append(Figure(caption, confusion_chart(counts.tolist(), names)))
    else:
        section.note = f"White: true points, in circles of {100 * PCK_RADIUS:g} % of the diagonal. Red crosses: detections."
    section.strips = probe_strips(source) + [
        Strip(f"features as colours, {path.stem.removesuffix('_features_pca')}", [Figure("", path.read_bytes())])
        for name, path in source.pictures.items()
        if name.startswith("features")
    ]
    section.details = json.dumps({"settings": content.get("settings"), "split": split}, indent=1)
    return section


def class_legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Classes with their colours as CSS has them."""
    colours = palette(len(names))
    return [(name, "#" + bytes(colours[i].tolist()).hex()) for i, name in enumerate(names)]


def probe_pictures(source: Source) -> dict[str, dict[str, Picture]]:
    """Pictures of a probe by frame: for segmentation the image, the truth, then each backbone's prediction, random first."""
    backbones = list(dict.fromkeys(run["backbone"] for run in source.content["runs"]))
    frames: dict[str, dict[str, Picture]] = {}
    for backbone in sorted(backbones, key=lambda name: name != "random"):
        for name, path in source.pictures.items():
            if name.startswith("predictions") and path.stem.startswith(f"{backbone}_"):
                shown = frames.setdefault(path.stem.removeprefix(f"{backbone}_"), {})
                sheet = np.array(Image.open(path).convert("RGB"))
                if source.content["task"] == "segmentation":
                    shown["image"], shown["truth"], sheet = panels(sheet, 3)
                shown[backbone] = sheet
    return frames


def probe_strips(source: Source) -> list[Strip]:
    """A row of pictures per frame."""
    return [
        Strip(frame.replace("_", " "), [Figure(name, png_bytes(picture)) for name, picture in pictures.items()])
        for frame, pictures in probe_pictures(source).items()
    ]


def summary_table(summary: Sequence[Mapping[str, Any]]) -> Table:
    """One row per backbone and budget, one column per headline score."""
    scores = [key for key in SCORE_NAMES if summary and key in summary[0]]
    facts = [[entry["backbone"], str(entry["labels"]), str(len(entry["seeds"]))] for entry in summary]
    rows = [[*fact, *(spread_text(entry[key]) for key in scores)] for fact, entry in zip(facts, summary, strict=True)]
    return Table("Scores", ["backbone", "labels", "seeds", *(SCORE_NAMES[key] for key in scores)], rows)


def _per_name(content: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """The largest budget of each backbone; backbone -> class or joint -> mean and deviation over the seeds there."""
    most: dict[str, int] = {}
    for run in content["runs"]:
        most[run["backbone"]] = max(run["labels"], most.get(run["backbone"], 0))
    found: dict[str, dict[str, Any]] = {}
    for backbone, budget in most.items():
        runs = [run["metrics"] for run in content["runs"] if (run["backbone"], run["labels"]) == (backbone, budget)]
        scores = {name: [_score(metrics, name) for metrics in runs] for name in names}
        found[backbone] = {name: spread([v for v in row if v is not None]) for name, row in scores.items()}
    return most, found


def _score(metrics: Mapping[str, Any], name: str) -> float | None:
    """IoU of a class, or PCK of a joint."""
    if "per_class_iou" in metrics:
        return metrics["per_class_iou"][name]
    return metrics["per_joint"][name]["pck"][f"{PCK_RADIUS:g}"]


def _per_name_table(content: Mapping[str, Any], task: str, names: Sequence[str], where: str = "") -> Table:
    """Per class or joint, mean over seeds, a column per backbone at its largest budget."""
    most, found = _per_name(content, names)
    rows = [[name, *(spread_text(found[backbone][name]) for backbone in most)] for name in names]
    kind, score = ("class", "IoU") if task == "segmentation" else ("joint", SCORE_NAMES[CHARTED[task]])
    header = [kind, *(f"{backbone}, {budget} labels" for backbone, budget in most.items())]
    return Table(f"{where}{score} per {kind}", header, rows)


def pretrain_section(source: Source, frames: Sequence[CachedFrame] = (), explorer: dict[str, Any] | None = None) -> Section:
    """Figures of the run, its learning curves, what it saw, and the interactive view."""
    content = source.content
    wanted = ("method", "steps", "loss", "seconds", "frames", "parameters", "processes")
    facts = {name: content[name] for name in wanted if name in content}
    rows = [[name, f"{value:.4g}" if isinstance(value, float) else str(value)] for name, value in facts.items()]
    section = Section("Pretraining", source.title, tables=[Table("Run", ["figure", "value"], rows)], explorer=explorer)
    names = {("lr" if name.startswith("lr-") else name): name for name in reversed(source.curves)}
    shown = {label: names[name] for name, label in CURVES.items() if name in names}
    if "excess" not in names and "loss" in names:
        shown = {"loss": "loss", **shown}
    section.charts = [Figure(label, curve_chart(source.curves[name])) for label, name in shown.items()]
    for frame in frames:
        flow = frame.flow[:2]
        longest = full_length(flow, frame.valid)
        figures = [
            Figure("frame", png_bytes(frame.image)),
            Figure("its flow (black: left out)", png_bytes(flow_picture(flow, longest, frame.valid))),
            Figure(f"direction; rim: {longest:.1f} px over {frame.gap} frames", png_bytes(flow_wheel(96)), legend=True),
        ]
        section.strips.append(Strip(f"clip {frame.clip}, frame {frame.frame}", figures))
    for path in source.pictures.values():
        section.strips.append(Strip(path.stem.replace("_", " "), [Figure("", path.read_bytes())]))
    config = source.folder / "config.yaml"
    section.details = config.read_text(encoding="utf-8") if config.is_file() else json.dumps(content, indent=1)
    return section


def evidence_section(source: Source) -> Section:
    """Per scene and task a table and a chart of all methods, the verdicts, and pictures."""
    content = source.content
    section = Section("Evidence", source.title, warnings=list(content.get("notes", [])))
    for (scene, task), table in evidence_tables(content["summary"]).items():
        section.tables += [table, *_evidence_names(content.get("entries", []), scene, task)]
        chosen = [entry for entry in content["summary"] if (entry["scene"], entry["task"]) == (scene, task)]
        lines = [{"backbone": e["method"], "labels": e["labels"], "score": e} for e in chosen]
        if len(table.header) > 2:
            section.charts.append(Figure(table.caption, score_chart(lines, "score", SCORE_NAMES[CHARTED[task]])))
    verdicts = [[verdict["text"]] for verdict in content.get("verdicts", [])]
    section.tables.append(Table("Verdicts (beats: every seed above every seed)", ["comparison"], verdicts))
    section.strips = [Strip(name, [Figure("", path.read_bytes())]) for name, path in source.pictures.items()]
    section.details = json.dumps(content.get("settings"), indent=1)
    return section


def evidence_tables(summary: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Table]:
    """By scene and task: one row per method, one column per label budget."""
    found = {}
    for scene, task in dict.fromkeys((entry["scene"], entry["task"]) for entry in summary):
        chosen = [entry for entry in summary if (entry["scene"], entry["task"]) == (scene, task)]
        budgets = sorted({entry["labels"] for entry in chosen})
        rows = []
        for method in dict.fromkeys(entry["method"] for entry in chosen):
            cells = {entry["labels"]: spread_text(entry) for entry in chosen if entry["method"] == method}
            rows.append([method, *(cells.get(budget, "") for budget in budgets)])
        caption = f"{scene}: {task}, {SCORE_NAMES[CHARTED[task]]}"
        found[scene, task] = Table(caption, ["method", *(f"{budget} labels" for budget in budgets)], rows)
    return found


def _evidence_names(entries: Sequence[Mapping[str, Any]], scene: str, task: str) -> list[Table]:
    """The tables per class or joint of one scene and task, at the two largest budgets."""
    key = "per_class_iou" if task == "segmentation" else "per_joint"
    known = [e for e in entries if (e["scene"], e["task"]) == (scene, task) and key in e.get("metrics", {})]
    found = []
    for budget in sorted({entry["labels"] for entry in known})[-2:]:
        runs = [{**entry, "backbone": entry["method"]} for entry in known if entry["labels"] == budget]
        names = list(runs[0]["metrics"][key])
        found.append(_per_name_table({"runs": runs}, task, names, f"{scene}: "))
    return found


def spread_text(value: Mapping[str, Any]) -> str:
    """A mean with its deviation as text."""
    if value["mean"] is None:
        return DASH
    deviation = value["deviation"]
    digits = 1 if abs(value["mean"]) >= 10 else 3
    return f"{value['mean']:.{digits}f}" + ("" if deviation is None else f" \N{PLUS-MINUS SIGN} {deviation:.{digits}f}")
