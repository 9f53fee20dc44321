"""`laparoflow evidence`: does flow help, and is it flow that helps?

Ours and every control are pretrained on the same frames with the same recipe and seeds; only the pair weights differ.
Frozen features are then probed with the same labelled frames, beside the random initialisation, and beside the same
network trained with labels from scratch.

    out/SCENE/synthetic or frames, cache          made once
    out/SCENE/runs/METHOD_seed_N/                 pretraining runs
    out/SCENE/TASK_seed_N.json                    probe scores
    out/real/POOL/cache, runs, METHOD_seed_N.json the same of the scene "real", one folder a pool
    out/real/POOL/pictures/                       what retrieval and propagation find with the first seed
    out/SCENE/TASK_from_scratch_seed_N.json       scores of the network trained with labels
    out/evidence.json                             all scores so far, their summary and verdicts
    out/summary.json, tables.md                   the same without single scores, and as tables
    out/report.html
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from laparoflow.bounds import plain
from laparoflow.evidence.arenas import Arena, build_arenas
from laparoflow.evidence.page import essence, tables
from laparoflow.evidence.pools import pool_rows, pool_verdicts
from laparoflow.evidence.settings import COLOUR, FROM_SCRATCH, METHODS, RANDOM_INIT, EvidenceSettings
from laparoflow.evidence.transfer import Levels, network_entries, supervised_entries
from laparoflow.evidence.verdicts import HEADLINE, summarise, verdicts
from laparoflow.files import write_json, write_png, write_text
from laparoflow.models.encoder import PixelEncoder
from laparoflow.models.loading import initial_encoder, load_encoder
from laparoflow.options import load_recipe
from laparoflow.probes.features import colour_and_place
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
    console, begun = Console(stderr=True), time.perf_counter()
    chosen = settings.effective
    _check_same(settings)
    path = settings.out / "evidence.json"
    spent = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else 0.0
    entries: list[dict[str, Any]] = []
    arenas: list[Arena] = []
    firsts: dict[tuple[str, int], Path] = {}
    document: dict[str, Any] = {}

    def save(complete: bool = False) -> None:
        """Writes what is known so far."""
        pools = pool_rows(entries)
        document.update(
            format=FORMAT,
            complete=complete,
            settings=plain(settings),
            machine=machine(),
            seconds=spent + time.perf_counter() - begun,
            entries=entries,
            summary=summarise(entries),
            pools=pools,
            verdicts=[*verdicts([entry for entry in entries if "pool" not in entry]), *pool_verdicts(pools)],
        )
        write_json(path, document)
        write_json(settings.out / "summary.json", essence(document))
        write_text(settings.out / "tables.md", tables(document))

    for scene in chosen.scenes:
        console.print(f"{scene}: frames and flow")
        arenas += build_arenas(scene, chosen)
    for arena in arenas:
        for seed in chosen.seeds:
            runs = {}
            for method in chosen.methods:
                if method == "shuffled flow" and arena.pool is not None and len(arena.pool.sources) == 1:
                    continue  # flow of another frame of the same shot is no control
                console.print(f"{arena.name}, seed {seed}: pretraining {method}")
                runs[method] = _pretrain(arena, method, seed, settings)
            firsts[arena.name, seed] = next(iter(runs.values()))
            encoders = {method: load_encoder(run) for method, run in runs.items()}
            encoders[RANDOM_INIT] = initial_encoder(firsts[arena.name, seed], seed)
            encoders = {name: encoder.eval().requires_grad_(False) for name, encoder in encoders.items()}
            if arena.pool is not None:
                networks: dict[str, Levels] = {name: encoder.levels for name, encoder in encoders.items()}
                for name, levels in (networks | {COLOUR: colour_and_place}).items():
                    console.print(f"{arena.name}, seed {seed}: scoring {name}")
                    entries += _transfer(arena, name, levels, seed, chosen)
                    save()
            for task in arena.tasks:
                console.print(f"{arena.name}, seed {seed}: probing {task}")
                options = ProbeOptions(labels=[*chosen.labels], steps=chosen.probe_steps, device=chosen.device)
                options.pictures = 3 if seed == chosen.seeds[0] else 0
                entries += _probe(arena, task, seed, encoders, options)
                save()
    for arena in arenas:
        for seed in chosen.seeds:
            if arena.pool is not None and chosen.scratch_labels:
                console.print(f"{arena.name}, seed {seed}: labels from scratch")
                entries += _transfer(arena, FROM_SCRATCH, initial_encoder(firsts[arena.name, seed], seed), seed, chosen)
                save()
            for task in (task for task in arena.tasks if task in chosen.scratch_tasks and chosen.scratch_labels):
                console.print(f"{arena.name}, seed {seed}: {task} with labels from scratch")
                start = {FROM_SCRATCH: initial_encoder(firsts[arena.name, seed], seed)}
                options = ProbeOptions(labels=[*chosen.scratch_labels], device=chosen.device, pictures=0)
                options.finetune, options.finetune_steps = True, chosen.scratch_steps
                entries += _probe(arena, task, seed, start, options, "_from_scratch")
                save()
    save(complete=True)
    page = write_report([settings.out], settings.out / "report.html", "Evidence")
    console.print(tables(document), soft_wrap=True, markup=False)
    console.print(f"scores and pictures: {page}", soft_wrap=True)
    return document


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
    changes = {"data": arena.cache, "out": run, "seed": seed, **METHODS[method]}
    recipe = load_recipe(settings.recipe_of("real" if arena.pool else arena.name), changes)
    steps = settings.max_steps or recipe.max_steps
    recipe.max_steps = max(1, round(steps * QUICK_STEPS)) if settings.quick else steps
    recipe.resume = any((run / "checkpoints").glob("*.ckpt"))
    if not recipe.resume and run.is_dir():  # stopped before its first checkpoint
        shutil.rmtree(run)
    pretrain(recipe)
    return run


def _transfer(
    arena: Arena, method: str, network: Levels | PixelEncoder, seed: int, settings: EvidenceSettings
) -> list[dict[str, Any]]:
    """Scores of one network on the tasks of a pool, or those of an earlier run; a `PixelEncoder` is trained with labels."""
    assert arena.pool is not None
    pool, path = arena.pool, arena.cache.parent / f"{method.replace(' ', '_')}_seed_{seed}.json"

    def score() -> list[dict[str, Any]]:
        options = ProbeOptions(labels=[*settings.labels], steps=settings.probe_steps, device="cpu")
        if isinstance(network, PixelEncoder):
            options = dataclasses.replace(options, labels=[*settings.scratch_labels], finetune_steps=settings.scratch_steps)
            entries = supervised_entries(network, pool, options, seed)
        else:
            entries, pictures = network_entries(network, pool, options)
            for name, picture in pictures.items() if seed == settings.seeds[0] else ():
                write_png(path.parent / "pictures" / f"{name}, {method}.png".replace(", ", "_").replace(" ", "_"), picture)
        return [entry | {"method": method, "seed": seed} for entry in entries]

    return _kept(path, score)


def _kept(path: Path, score: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Entries of an earlier run, or those that `score` finds now, which are written."""
    if not path.is_file():
        write_json(path, score())
    return json.loads(path.read_text(encoding="utf-8"))


def _probe(
    arena: Arena, task: str, seed: int, encoders: dict[str, PixelEncoder], options: ProbeOptions, suffix: str = ""
) -> list[dict[str, Any]]:
    """Scores of networks with the labels of a task, or those of an earlier run; budgets above its frames are left out."""
    path = arena.cache.parent / f"{task}{suffix}_seed_{seed}.json"
    train, test = arena.tasks[task]

    def score() -> list[dict[str, Any]]:
        labels = [count for count in options.labels if int(count) <= len(train)]  # counts all, as the settings have them
        if not labels:
            return []
        chosen = dataclasses.replace(options, labels=labels, seeds=[seed]).resolved()
        result = PROBES[task]({name: encoder.to(chosen.device) for name, encoder in encoders.items()}, train, test, chosen)
        for name, picture in result.pictures.items():
            write_png(path.parent / "pictures" / f"{task}_{name.replace(' ', '_')}.png", picture)
        facts = {"scene": arena.name, "task": task, "seed": seed}
        return [
            facts | {"method": r.backbone, "labels": r.labels, "score": _headline(r.metrics, task), "metrics": r.metrics}
            for r in result.runs
        ]

    return _kept(path, score)


def _headline(metrics: dict[str, Any], task: str) -> float | None:
    value: Any = metrics
    for key in HEADLINE[task].split("/"):
        value = value[key]
    return value


def _check_same(settings: EvidenceSettings) -> None:
    """Refuses to mix results of different settings in one folder; remembers the settings of a new one."""
    path = settings.out / "settings.json"
    values = {key: value for key, value in plain(settings).items() if key not in ("out", "device")}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in values if values[key] != before.get(key))
        if changed:
            raise ValueError(f"out: {settings.out} holds results of other settings ({', '.join(changed)}); choose another")
    elif settings.out.exists() and any(settings.out.iterdir()):
        raise ValueError(f"out: {settings.out} is not empty and not of an earlier evidence run")
    else:
        write_json(path, values)
