"""`laparoflow evidence`: does flow help, and is it flow that helps?

Ours and every control are pretrained on the same frames with the same recipe and seeds; only the pair weights differ.
Frozen features are then probed with the same labelled frames, beside the random initialisation, and beside the same
network trained with labels from scratch.

    out/SCENE/synthetic or frames, cache          made once
    out/SCENE/runs/METHOD_seed_N/                 pretraining runs
    out/SCENE/TASK_seed_N.json                    probe scores
    out/SCENE/TASK_from_scratch_seed_N.json       scores of the network trained with labels
    out/evidence.json                             all scores so far, their summary and verdicts
    out/time.json                                 time spent, over all calls
    out/report.html
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from laparoflow.evidence.arenas import Arena, build_arena
from laparoflow.evidence.settings import FROM_SCRATCH, METHODS, RANDOM_INIT, EvidenceSettings
from laparoflow.evidence.verdicts import HEADLINE, summarise, verdicts
from laparoflow.files import write_json, write_png
from laparoflow.models.loading import initial_encoder, load_encoder
from laparoflow.options import load_recipe
from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import ProbeOptions, ProbeResult
from laparoflow.report.html import write_report
from laparoflow.training.run import pretrain, source_commit

FORMAT = "laparoflow-evidence-1"
QUICK_STEPS = 0.5
PROBES: dict[str, Callable[..., ProbeResult]] = {"segmentation": probe_segmentation, "keypoints": probe_keypoints}


def run_evidence(settings: EvidenceSettings) -> dict[str, Any]:
    """Runs the comparison, prints the tables, and returns what `out/evidence.json` holds.

    Raises:
        ValueError: the folder holds results of other settings.
    """
    console, clock = Console(stderr=True), Clock(settings.out / "time.json")
    chosen = settings.effective
    _check_same(settings)
    entries: list[dict[str, Any]] = []
    notes: list[str] = []
    arenas: list[Arena] = []
    firsts: dict[tuple[str, int], Path] = {}
    document: dict[str, Any] = {}

    def save(complete: bool = False) -> None:
        """Counts the time and writes what is known so far."""
        clock.count()
        document.update(
            format=FORMAT,
            complete=complete,
            settings=_plain(settings),
            notes=notes,
            machine=machine(),
            seconds=clock.seconds,
            cpu_seconds=clock.cpu_seconds,
            entries=entries,
            summary=summarise(entries),
            verdicts=verdicts(entries),
        )
        write_json(settings.out / "evidence.json", document)

    for scene in chosen.scenes:
        console.print(f"{scene}: frames and flow")
        arena = build_arena(scene, chosen)
        arenas.append(arena)
        notes += [f"{scene}: {note}" for note in arena.notes]
        for seed in chosen.seeds:
            runs = {}
            for method in chosen.methods:
                console.print(f"{scene}, seed {seed}: pretraining {method}")
                runs[method] = _pretrain(arena, method, seed, settings)
                clock.count()
            firsts[scene, seed] = next(iter(runs.values()))
            for task in arena.tasks:
                console.print(f"{scene}, seed {seed}: probing {task}")
                entries += _probe(arena, task, runs, seed, chosen)
                save()
    for arena in arenas:
        for seed in chosen.seeds:
            for task in (task for task in arena.tasks if task in chosen.scratch_tasks and chosen.scratch_labels):
                console.print(f"{arena.name}, seed {seed}: {task} with labels from scratch")
                entries += _supervise(arena, task, firsts[arena.name, seed], seed, chosen)
                save()
    save(complete=True)
    page = write_report([settings.out], settings.out / "report.html", "Evidence")
    for table in tables(document["summary"]):
        console.print(table)
    for verdict in document["verdicts"]:
        console.print(verdict["text"], soft_wrap=True)
    console.print(f"{clock.cpu_seconds / 60:.1f} CPU minutes; scores and pictures: {page}", soft_wrap=True)
    return document


class Clock:
    """Wall and CPU time of a job that may be stopped and taken up again, kept in a file.

    Args:
        path: JSON file; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.seconds, self.cpu_seconds = held.get("seconds", 0.0), held.get("cpu_seconds", 0.0)
        self._last = time.perf_counter(), time.process_time()

    def count(self) -> None:
        """Adds the time since the last call."""
        now = time.perf_counter(), time.process_time()
        self.seconds += now[0] - self._last[0]
        self.cpu_seconds += now[1] - self._last[1]
        self._last = now
        write_json(self.path, {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds})


def machine() -> dict[str, Any]:
    """What the comparison runs on: processor type, its cores, threads in use, versions, commit."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": source_commit(),
    }


def _pretrain(arena: Arena, method: str, seed: int, settings: EvidenceSettings) -> Path:
    """Pretrains one method, or finds its finished run; returns the run's folder."""
    run = arena.cache.parent / "runs" / f"{method.replace(' ', '_')}_seed_{seed}"
    if (run / "run.json").is_file():
        return run
    recipe = load_recipe(settings.recipe, {"data": arena.cache, "out": run, "seed": seed, **METHODS[method]})
    steps = settings.max_steps or recipe.max_steps
    recipe.max_steps = max(1, round(steps * QUICK_STEPS)) if settings.quick else steps
    recipe.resume = any((run / "checkpoints").glob("*.ckpt"))
    if not recipe.resume and run.is_dir():  # stopped before its first checkpoint
        shutil.rmtree(run)
    pretrain(recipe)
    return run


def _probe(arena: Arena, task: str, runs: dict[str, Path], seed: int, settings: EvidenceSettings) -> list[dict[str, Any]]:
    """Scores of all methods and of the random initialisation, or those of an earlier run."""
    path = arena.cache.parent / f"{task}_seed_{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    train, test = arena.tasks[task]
    first = next(iter(runs.values()))
    encoders = {method: load_encoder(run) for method, run in runs.items()}
    encoders[RANDOM_INIT] = initial_encoder(first, seed=seed)
    labels = [count for count in settings.labels if count <= len(train)]
    pictures = 3 if seed == settings.seeds[0] else 0
    options = ProbeOptions(
        labels=[*labels], seeds=[seed], steps=settings.probe_steps, device=settings.device, pictures=pictures
    ).resolved()
    encoders = {name: encoder.to(options.device).eval().requires_grad_(False) for name, encoder in encoders.items()}
    result = PROBES[task](encoders, train, test, options)
    for name, picture in result.pictures.items():
        write_png(path.parent / "pictures" / f"{task}_{name.replace(' ', '_')}.png", picture)
    return _keep(path, arena, task, seed, result)


def _supervise(arena: Arena, task: str, run: Path, seed: int, settings: EvidenceSettings) -> list[dict[str, Any]]:
    """Scores of the network of `run` trained with labels from scratch, or those of an earlier run."""
    path = arena.cache.parent / f"{task}_from_scratch_seed_{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    train, test = arena.tasks[task]
    labels = [count for count in settings.scratch_labels if count <= len(train)]
    if not labels:
        return []
    options = ProbeOptions(
        labels=[*labels],
        seeds=[seed],
        finetune=True,
        finetune_steps=settings.scratch_steps,
        device=settings.device,
        pictures=0,
    ).resolved()
    start = initial_encoder(run, seed=seed).to(options.device)
    return _keep(path, arena, task, seed, PROBES[task]({FROM_SCRATCH: start}, train, test, options))


def _keep(path: Path, arena: Arena, task: str, seed: int, result: ProbeResult) -> list[dict[str, Any]]:
    """Writes the scores of a probe as entries and returns them."""
    entries = [
        {
            "scene": arena.name,
            "task": task,
            "method": run.backbone,
            "labels": run.labels,
            "seed": seed,
            "score": _headline(run.metrics, task),
            "metrics": run.metrics,
        }
        for run in result.runs
    ]
    write_json(path, entries)
    return entries


def _headline(metrics: dict[str, Any], task: str) -> float | None:
    value: Any = metrics
    for key in HEADLINE[task].split("/"):
        value = value[key]
    return value


def _plain(settings: EvidenceSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _check_same(settings: EvidenceSettings) -> None:
    """Refuses to mix results of different settings in one folder; remembers the settings of a new one."""
    path = settings.out / "settings.json"
    values = {key: value for key, value in _plain(settings).items() if key not in ("out", "device")}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in values if values[key] != before.get(key))
        if changed:
            raise ValueError(f"out: {settings.out} holds results of other settings ({', '.join(changed)}); choose another")
    elif settings.out.exists() and any(settings.out.iterdir()):
        raise ValueError(f"out: {settings.out} is not empty and not of an earlier evidence run")
    else:
        write_json(path, values)


def tables(summary: Sequence[dict[str, Any]]) -> list[Table]:
    """One table per scene and task: methods down, label budgets across."""
    result = []
    for scene, task in dict.fromkeys((entry["scene"], entry["task"]) for entry in summary):
        chosen = [entry for entry in summary if (entry["scene"], entry["task"]) == (scene, task)]
        budgets = sorted({entry["labels"] for entry in chosen})
        table = Table(title=f"{scene}: {task}, {HEADLINE[task]}")
        table.add_column("method")
        for budget in budgets:
            table.add_column(f"{budget} labels", justify="right")
        for method in dict.fromkeys(entry["method"] for entry in chosen):
            cells = {entry["labels"]: entry for entry in chosen if entry["method"] == method}
            table.add_row(method, *(_cell(cells.get(budget)) for budget in budgets))
        result.append(table)
    return result


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["mean"] is None:
        return ""
    text = f"{entry['mean']:.3f}"
    return text if entry["deviation"] is None else f"{text} ± {entry['deviation']:.3f}"
