"""One section of the page per source: tables, charts and pictures as plain values."""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laparoflow.report.charts import curve_chart, score_chart
from laparoflow.report.pictures import palette
from laparoflow.report.sources import Source

SCORE_NAMES = {
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel accuracy",
    "mean_iou_over_videos": "mean IoU, mean over videos",
    "pck/0.05": "PCK at 5 % of the diagonal",
    "pck/0.1": "PCK at 10 % of the diagonal",
    "rmse_px": "RMSE, pixels",
    "precision/20": "precision at 20 px",
    "recall/20": "recall at 20 px",
    "f1/20": "F1 at 20 px",
    "oks_ap": "OKS mAP",
    "mean_nsd": "mean NSD",
    "sar_rarp50/score": "SAR-RARP50 score",
}
CHARTED = {"segmentation": "mean_iou", "keypoints": "pck/0.05"}
DASH = "\N{EN DASH}"


@dataclass
class Table:
    """A table of ready text."""

    caption: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class Figure:
    """A picture: caption and PNG bytes."""

    caption: str
    png: bytes

    @property
    def data(self) -> str:
        """The PNG in base64."""
        return base64.b64encode(self.png).decode()


@dataclass
class Section:
    """What the page shows of one source."""

    heading: str
    subtitle: str
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    details: str = ""


def probe_section(source: Source) -> Section:
    """Scores against label budget, per-class table, pictures."""
    content = source.content
    task, names, summary = content["task"], content["names"], content["summary"]
    kind = "Segmentation" if task == "segmentation" else "Key points"
    split = content.get("split", {})
    subtitle = (
        f"{source.title}: frozen features, {content.get('head') or 'linear'} head, pictures of "
        f"{content['image_size'][0]} x {content['image_size'][1]}"
    )
    if split:
        subtitle += f", split by {split['by']}: {split['train_frames']} frames to train, {split['test_frames']} to test"
    section = Section(f"{kind} on {content.get('dataset') or 'given frames'}", subtitle)
    section.warnings = list(content.get("warnings", []))
    section.tables = [summary_table(summary), _per_name_table(content, task, names)]
    charted = CHARTED[task]
    section.figures.append(Figure("score against label budget", score_chart(summary, charted, SCORE_NAMES[charted])))
    if task == "segmentation":
        colours = palette(len(names))
        section.legend = [(name, "#" + bytes(colours[i].tolist()).hex()) for i, name in enumerate(names)]
    what = "picture, truth, prediction" if task == "segmentation" else "white rings: truth, red crosses: detections"
    for name, path in source.pictures.items():
        stem = path.stem.replace("_", " ")
        caption = stem if "features" in name.split("/")[0] else f"{stem} ({what})"
        section.figures.append(Figure(caption, path.read_bytes()))
    section.details = json.dumps({"settings": content.get("settings"), "split": split}, indent=1)
    return section


def summary_table(summary: Sequence[Mapping[str, Any]]) -> Table:
    """One row per backbone and budget, one column per headline score."""
    scores = [key for key in SCORE_NAMES if summary and key in summary[0]]
    header = ["backbone", "labels", "seeds", *(SCORE_NAMES[key] for key in scores)]
    rows = [
        [
            entry["backbone"],
            str(entry["labels"]),
            str(len(entry["seeds"])),
            *(spread_text(entry[key]) for key in scores),
        ]
        for entry in summary
    ]
    return Table("Scores", header, rows)


def _per_name_table(content: Mapping[str, Any], task: str, names: Sequence[str], where: str = "") -> Table:
    """Per class or joint, mean over seeds, a column per backbone at its largest budget."""
    key, score = ("per_class_iou", None) if task == "segmentation" else ("per_joint", "0.05")
    most: dict[str, int] = {}
    for run in content["runs"]:
        most[run["backbone"]] = max(run["labels"], most.get(run["backbone"], 0))
    rows = []
    for name in names:
        row = [name]
        for backbone, budget in most.items():
            runs = [run for run in content["runs"] if run["backbone"] == backbone and run["labels"] == budget]
            values = [run["metrics"][key][name] for run in runs]
            values = [value if score is None else value["pck"][score] for value in values]
            row.append(spread_text(_spread([value for value in values if value is not None])))
        rows.append(row)
    what = "IoU per class" if task == "segmentation" else "PCK at 5 % of the diagonal per joint"
    header = ["class" if score is None else "joint", *(f"{backbone}, {budget} labels" for backbone, budget in most.items())]
    return Table(f"{where}{what}", header, rows)


def pretrain_section(source: Source, figures: Sequence[Figure] = ()) -> Section:
    """Figures of the run, its learning curves, and pictures made from its cache."""
    content = source.content
    wanted = ("method", "steps", "loss", "seconds", "frames", "parameters", "processes")
    rows = [[name, _plain(content[name])] for name in wanted if name in content]
    section = Section("Pretraining", source.title, tables=[Table("Run", ["figure", "value"], rows)])
    if source.curves:
        section.figures.append(Figure("learning curves over steps", curve_chart(source.curves)))
    section.figures += figures
    section.figures += [Figure(path.stem.replace("_", " "), path.read_bytes()) for path in source.pictures.values()]
    config = source.folder / "config.yaml"
    section.details = config.read_text(encoding="utf-8") if config.is_file() else json.dumps(content, indent=1)
    return section


def evidence_section(source: Source) -> Section:
    """Per scene and task a table and a chart of all methods, the verdicts, and pictures."""
    content = source.content
    section = Section("Evidence", source.title, warnings=list(content.get("notes", [])))
    for scene, task in dict.fromkeys((entry["scene"], entry["task"]) for entry in content["summary"]):
        chosen = [entry for entry in content["summary"] if (entry["scene"], entry["task"]) == (scene, task)]
        budgets = sorted({entry["labels"] for entry in chosen})
        score = SCORE_NAMES[CHARTED[task]]
        rows = []
        for method in dict.fromkeys(entry["method"] for entry in chosen):
            cells = {entry["labels"]: spread_text(entry) for entry in chosen if entry["method"] == method}
            rows.append([method, *(cells.get(budget, "") for budget in budgets)])
        caption = f"{scene}: {task}, {score}"
        section.tables.append(Table(caption, ["method", *(f"{budget} labels" for budget in budgets)], rows))
        section.tables += _evidence_names(content.get("entries", []), scene, task)
        lines = [{"backbone": e["method"], "labels": e["labels"], "score": e} for e in chosen]
        section.figures.append(Figure(caption, score_chart(lines, "score", score)))
    verdicts = [[verdict["text"]] for verdict in content.get("verdicts", [])]
    section.tables.append(Table("Verdicts (beats: every seed above every seed)", ["comparison"], verdicts))
    section.figures += [Figure(name, path.read_bytes()) for name, path in source.pictures.items()]
    section.details = json.dumps(content.get("settings"), indent=1)
    return section


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
    text = f"{value['mean']:.{digits}f}"
    return text if deviation is None else f"{text} \N{PLUS-MINUS SIGN} {deviation:.{digits}f}"


def _spread(values: Sequence[float]) -> dict[str, Any]:
    mean = statistics.fmean(values) if values else None
    return {"mean": mean, "deviation": statistics.stdev(values) if len(values) > 1 else None}


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
