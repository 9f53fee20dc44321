"""The page is one file: whole, well-formed, without an address, and it shows what the runs hold."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laparoflow.files import write_json, write_png
from laparoflow.report import write_report
from laparoflow.report.headline import interval, probe_sentence
from laparoflow.report.pictures import beside, panels
from laparoflow.report.sections import _per_name_table, probe_pictures
from laparoflow.report.sources import find_sources

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects what a browser would load, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def spread(*values: float) -> dict[str, Any]:
    return {
        "mean": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)),
        "values": list(values),
    }


def probe_run(folder: Path, text: str = "two videos <b>only</b>") -> Path:
    runs = [
        {
            "backbone": backbone,
            "labels": labels,
            "seed": seed,
            "metrics": {
                "per_class_iou": {"liver": 0.5 + 0.1 * seed, "fat & co": None},
                "confusion": [[8, 2], [1 + seed, 4]],
            },
            "train_frames": [],
        }
        for backbone in ("trained", "random")
        for labels in (1, 22)
        for seed in (0, 1)
    ]
    summary = [
        {
            "backbone": b,
            "labels": n,
            "seeds": [0, 1],
            "mean_iou": spread(0.25, 0.75) if b == "trained" else spread(0.10, 0.50),
            "pixel_accuracy": spread(0.8, 0.9),
        }
        for b in ("trained", "random")
        for n in (1, 22)
    ]
    content = {
        "format": "laparoflow-probe-1",
        "task": "segmentation",
        "dataset": "cholecseg8k",
        "head": "linear",
        "names": ["liver", "fat & co"],
        "image_size": [64, 96],
        "settings": {"root": "/data"},
        "split": {"by": "time", "train_frames": 24, "test_frames": 12},
        "warnings": [text],
        "summary": summary,
        "runs": runs,
    }
    write_json(folder / "metrics.json", content)
    for backbone, grey in (("trained", 200), ("random", 90)):
        panels = [np.full((4, 5, 3), shade, dtype=np.uint8) for shade in (10, 60, grey)]
        write_png(folder / "predictions" / f"{backbone}_a_frame.png", beside(panels))
    return folder


def pretrain_run(folder: Path) -> Path:
    write_json(folder / "run.json", {"kind": "pretrain", "method": "flow", "steps": 30, "loss": 2.5})
    for start, rows in (
        (0, ["loss,step", "9.5,0", "8.5,10", "7.5,20"]),
        (20, ["loss,step", "7.0,20", "6.5,30", ",31"]),
    ):
        path = folder / "logs" / "csv" / f"from_step_{start}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(rows) + "\n")
    (folder / "config.yaml").write_text("data: /nowhere\n")
    return folder


def test_page_is_self_contained_and_well_formed(tmp_path: Path) -> None:
    runs = [probe_run(tmp_path / "probe"), pretrain_run(tmp_path / "run")]
    out = write_report(runs, tmp_path / "page.html")
    page = Page(out.read_text(encoding="utf-8"))
    assert not page.open
    assert "script" not in page.tags  # without a network there is nothing to explore
    assert "iframe" not in page.tags
    assert page.loads
    assert all(address.startswith(("data:", "#")) for address in page.loads)
    assert not re.search(r"url\((?!#)", out.read_text(encoding="utf-8"))
    assert "@import" not in out.read_text(encoding="utf-8")
    pictures = [address for address in page.loads if address.startswith("data:image/png;base64,")]
    assert page.tags.count("svg") == 5  # score, classes, two confusions, the loss
    assert len(pictures) == 8  # image, truth, random, trained: on the first screen and in the section
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).load()


def test_page_shows_scores_and_escapes_text(tmp_path: Path) -> None:
    out = write_report([probe_run(tmp_path / "probe")], tmp_path / "page.html")
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert "0.500 \N{PLUS-MINUS SIGN} 0.354" in page.text
    assert "two videos <b>only</b>" in page.text
    assert "<b>" not in text
    assert "fat & co" in page.text
    assert "\N{EN DASH}" in page.text
    assert "split by time: 24 frames to train" in page.text


def test_same_content_as_json_and_png(tmp_path: Path) -> None:
    write_report([probe_run(tmp_path / "probe"), pretrain_run(tmp_path / "run")], tmp_path / "page.html")
    document = json.loads((tmp_path / "page.json").read_text())
    assert [source["kind"] for source in document["sources"]] == ["probe", "pretrain"]
    assert len(list((tmp_path / "page_pictures").glob("*.png"))) == 4
    assert len(list((tmp_path / "page_pictures").glob("*.svg"))) == 5


def test_curves_of_a_resumed_run_are_joined(tmp_path: Path) -> None:
    write_report([pretrain_run(tmp_path / "run")], tmp_path / "page.html")
    curves = json.loads((tmp_path / "page.json").read_text())["sources"][0]["curves"]
    assert curves == {"loss": [[0, 9.5], [10, 8.5], [20, 7.0], [30, 6.5]]}


def test_folders_below_are_found_once(tmp_path: Path) -> None:
    probe_run(tmp_path / "all" / "probe")
    pretrain_run(tmp_path / "all" / "run")
    write_report([tmp_path / "all", tmp_path / "all" / "run"], tmp_path / "page.html")
    assert len(json.loads((tmp_path / "page.json").read_text())["sources"]) == 2


def test_bad_input_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing to report"):
        write_report([tmp_path / "empty"], tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report([tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"end in \.html"):
        write_report([probe_run(tmp_path / "probe")], tmp_path / "page.txt")
    (tmp_path / "empty" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json"):
        write_report([tmp_path / "empty"], tmp_path / "page.html")


def test_each_backbone_has_its_largest_budget_in_the_table_of_classes(tmp_path: Path) -> None:
    """The network from scratch gets more labels than the frozen ones."""
    metrics = {"per_class_iou": {"a": 0.5}}
    runs = [{"backbone": "trained", "labels": n, "metrics": metrics} for n in (1, 22)]
    runs.append({"backbone": "from scratch", "labels": 220, "metrics": metrics})
    table = _per_name_table({"runs": runs}, "segmentation", ["a"])
    assert table.header == ["class", "trained, 22 labels", "from scratch, 220 labels"]
    assert table.rows == [["a", "0.500", "0.500"]]


def test_the_first_screen_says_what_came_out_with_its_interval(tmp_path: Path) -> None:
    """By hand: differences 0.15 and 0.25, deviation 0.0707, t of 1 degree 12.706, so 0.2 -+ 0.635."""
    content = json.loads((probe_run(tmp_path / "probe") / "metrics.json").read_text())
    sentence = probe_sentence(content)
    assert "22 labelled frames: mean IoU 0.500 from pretrained features, 0.300 from random init" in sentence
    assert "no clear difference: +0.200 (95 % interval over 2 draws of labels: -0.435 to +0.835)" in sentence
    text = write_report([tmp_path / "probe"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.index("no clear difference") < text.index("<table") < text.index("<h2>")
    assert interval([0.5]) is None
    for entry in content["summary"]:
        entry["mean_iou"]["values"] = [v + 0.5 * (entry["backbone"] == "trained") for v in (0.1, 0.11)]
    assert "a difference of +0.500 (95 % interval over 2 draws of labels: +0.500 to +0.500)" in probe_sentence(content)


def test_a_frame_is_shown_as_image_truth_random_trained(tmp_path: Path) -> None:
    (source,) = find_sources([probe_run(tmp_path / "probe")])
    (pictures,) = probe_pictures(source).values()
    assert {name: int(picture.mean()) for name, picture in pictures.items()} == {
        "image": 10,
        "truth": 60,
        "random": 90,
        "trained": 200,
    }
    assert [panel.shape for panel in panels(np.zeros((4, 3 * 5 + 8, 3), np.uint8), 3)] == [(4, 5, 3)] * 3


def test_one_budget_has_no_chart_over_budgets(tmp_path: Path) -> None:
    folder = probe_run(tmp_path / "probe")
    content = json.loads((folder / "metrics.json").read_text())
    content["summary"] = [entry for entry in content["summary"] if entry["labels"] == 22]
    write_json(folder / "metrics.json", content)
    text = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "score against label budget" not in text
    assert "confusion of trained, 22 labels" in text


def test_curves_have_units_and_one_learning_rate(tmp_path: Path) -> None:
    folder = pretrain_run(tmp_path / "run")
    path = folder / "logs" / "csv" / "from_step_40" / "metrics.csv"
    path.parent.mkdir()
    path.write_text("excess,lr-AdamW/pg1,lr-AdamW/pg2,motion,step\n0.5,1e-3,1e-3,3,40\n0.4,1e-4,1e-4,3,50\n")
    text = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("learning rate (of the first group)") == 1
    assert "loss above its floor (nats)" in text
    assert "motion</figcaption>" not in text
    assert "motion" in json.loads((tmp_path / "page.json").read_text())["sources"][0]["curves"]
