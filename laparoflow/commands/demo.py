"""``laparoflow demo``: the whole job on a generated laparoscopy, in minutes on two cores.

    OUT/synthetic/     generated clips: encoded videos, masks, key points
    OUT/cache/         frames decoded from the videos, flow estimated from them (DIS)
    OUT/run/           pretraining without labels
    OUT/probe_*/       frozen probes with few labels on other clips, beside the same network at random init
    OUT/report.html    scores and pictures
    OUT/demo.json      the table

Every step is the function behind the command of the same name; the recipe is ``configs/evidence.yaml`` with the larger views
of ``configs/large_views.yaml``, which are better for key points.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from laparoflow.bounds import check_choices, check_numbers
from laparoflow.commands.base import Command, refuse_full
from laparoflow.probes.settings import Task


@dataclass
class DemoSettings:
    """The demo.

    Attributes:
        out: folder to write; must not exist, or be empty.
        pretrain_clips: clips to learn from, without labels.
        test_clips: clips to score on; never seen in pretraining.
        frames: frames per clip.
        labels: labelled frames, from the pretraining clips.
        seeds: draws of the labelled frames.
        seed: of the scenes and of pretraining.
        scene: parameters of the generator.
        recipe: settings of pretraining, YAML files or names of ours; a later one changes an earlier one.
        max_steps: steps of pretraining; null for the recipe's.
    """

    out: Path
    pretrain_clips: int = 16
    test_clips: int = 6
    frames: int = 20
    labels: int = 16
    seeds: tuple[int, ...] = (0, 1, 2)
    seed: int = 0
    scene: Literal["default", "held_out"] = "default"
    recipe: tuple[str, ...] = ("evidence", "large_views")
    max_steps: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self, "pretrain_clips test_clips labels", low=1)
        check_numbers(self, "frames", low=8)


LABEL_EVERY = 4
TASKS: tuple[Task, ...] = get_args(Task)


def refuse(settings: DemoSettings) -> None:
    """Refuse a folder that holds files, and more labels than there are labelled frames."""
    available = settings.pretrain_clips * len(range(0, settings.frames, LABEL_EVERY))
    if settings.labels > available:
        raise ValueError(f"labels: the pretraining clips have {available} labelled frames, got {settings.labels}")
    refuse_full(Path(settings.out))


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Run it, print the table, and return what ``demo.json`` holds; see :func:`refuse` for what is refused."""
    from rich.console import Console
    from rich.table import Table

    from laparoflow.evidence.arenas import SYNTHETIC_PREPARE
    from laparoflow.files import write_json
    from laparoflow.options import load_recipe
    from laparoflow.probes import ProbeSettings, run_probe
    from laparoflow.report import write_report
    from laparoflow.report.headline import headline
    from laparoflow.report.sources import find_sources
    from laparoflow.synthetic import DEFAULT, HELD_OUT, write_dataset
    from laparoflow.training.run import pretrain
    from laparoflow.video.prepare import prepare

    refuse(settings)
    out, console = Path(settings.out), Console()
    begun = time.perf_counter()
    root = out / "synthetic"
    clips = settings.pretrain_clips + settings.test_clips
    console.print(f"1/5 generating {clips} clips of {settings.frames} frames")
    scene = DEFAULT if settings.scene == "default" else HELD_OUT
    write_dataset(root, scene, clips, settings.frames, settings.seed, label_every=LABEL_EVERY, flow=False)
    names = [f"clip_{number:03d}" for number in range(clips)]
    seen, unseen = names[: settings.pretrain_clips], names[settings.pretrain_clips :]

    console.print("2/5 decoding the videos, estimating flow")
    videos = [root / "videos" / f"{name}.mp4" for name in seen]
    prepare(videos, out / "cache", SYNTHETIC_PREPARE)

    console.print("3/5 pretraining without labels")
    changes: dict[str, Any] = {"data": out / "cache", "out": out / "run", "seed": settings.seed, "online.every": 20}
    changes |= {} if settings.max_steps is None else {"max_steps": settings.max_steps}
    summary = pretrain(load_recipe(settings.recipe, changes))

    console.print(f"4/5 probing frozen features with {settings.labels} labelled frames, on unseen clips")
    probe: dict[str, Any] = {"dataset": "synthetic", "root": root, "checkpoint": out / "run", "labels": [settings.labels]}
    probe |= {"seeds": list(settings.seeds), "train_videos": seen, "test_videos": unseen}
    metrics = {}
    for task in TASKS:
        metrics[task] = run_probe(ProbeSettings(task=task, out=out / f"probe_{task}", **probe))
    console.print("5/5 writing the page")
    probes = [out / f"probe_{task}" for task in TASKS]
    page = write_report([out / "run", *probes], out / "report.html")
    result = {
        "seconds": time.perf_counter() - begun,
        "pretraining_seconds": summary["seconds"],
        "labels": settings.labels,
        "scores": {task: scores(found) for task, found in metrics.items()},
        "page": str(page),
    }
    write_json(out / "demo.json", result)
    first = headline(find_sources(probes))
    assert first.table is not None
    shown = Table(*first.table.header)
    for cells in first.table.rows:
        shown.add_row(*cells)
    console.print(shown, *first.sentences, sep="\n")
    console.print(f"{result['seconds']:.0f} s in all; pictures and scores: {page}", soft_wrap=True)
    return result


def scores(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Score name -> backbone -> mean and deviation over seeds."""
    shown: dict[str, dict[str, Any]] = {}
    for row in metrics["summary"]:
        for name, value in row.items():
            if isinstance(value, dict):
                shown.setdefault(name, {})[row["backbone"]] = value
    return shown


COMMAND = Command(DemoSettings, run_demo, refuse=refuse)
