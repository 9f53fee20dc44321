"""`laparoflow probe`: a data set and a backbone in, a folder of scores and pictures out.

out/metrics.json         settings, split, warnings, one entry per backbone, budget and seed, and a summary
out/predictions/*.png    picture | truth | prediction
out/features/*.png       principal components of the features as colours
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laparoflow.datasets.registry import build_dataset
from laparoflow.datasets.splits import split_dataset
from laparoflow.models.encoder import PixelEncoder
from laparoflow.models.loading import initial_encoder, load_encoder
from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import (
    RANDOM,
    TRAINED,
    ProbeResult,
    ProbeRun,
    ProbeSettings,
)
from laparoflow.report.files import write_json, write_png

FORMAT = "laparoflow-probe-1"
RESULT_FILE = "metrics.json"
HEADLINES = {
    "segmentation": ("mean_iou", "mean_dice", "pixel_accuracy", "mean_iou_over_videos"),
    "keypoints": ("pck/0.05", "pck/0.1", "rmse_px", "precision/20", "recall/20", "f1/20"),
}
logger = logging.getLogger(__name__)


def run_probe(settings: ProbeSettings) -> dict[str, Any]:
    """Probes a pretrained backbone on a labelled data set.

    Args:
        settings: what to probe, on what, and where to write.

    Returns:
        What `out/metrics.json` holds.

    Raises:
        ValueError: settings that do not fit together, or a data set that is not what its reader expects.
        FileExistsError: `out` already holds a finished probe and `overwrite` is off.
        FileNotFoundError: no checkpoint.
    """
    finished = settings.out / RESULT_FILE
    if finished.exists() and not settings.overwrite:
        raise FileExistsError(f"out: {finished} is already there; choose another folder or set overwrite")
    dataset = build_dataset(settings.dataset, settings.root, task=settings.task, **settings.dataset_options)
    split = split_dataset(dataset, settings.split_settings)
    train, test = dataset.select(split.train), dataset.select(split.test)
    encoders = {TRAINED: _ready(load_encoder(settings.checkpoint), settings.device)}
    if settings.random_control:
        encoders[RANDOM] = _ready(initial_encoder(settings.checkpoint), settings.device)
    if split.warning:
        logger.warning(split.warning)
    if settings.task == "segmentation":
        result = probe_segmentation(encoders, train, test, settings)
    else:
        result = probe_keypoints(encoders, train, test, settings)
    metrics = result_document(result, settings.plain())
    metrics["split"] = split.record
    metrics["warnings"] = [text for text in [split.warning, *result.warnings] if text]
    write_result(settings.out, metrics, result)
    return metrics


def result_document(result: ProbeResult, settings: dict[str, Any]) -> dict[str, Any]:
    """The result as JSON values: runs and their summary."""
    return {
        "format": FORMAT,
        "task": result.task,
        "dataset": settings.get("dataset"),
        "head": settings.get("head"),
        "names": list(result.names),
        "image_size": list(result.image_size),
        "settings": settings,
        "warnings": list(result.warnings),
        "summary": summarise(result.task, result.runs),
        "runs": [
            {
                "backbone": run.backbone,
                "labels": run.labels,
                "seed": run.seed,
                "metrics": run.metrics,
                "train_frames": run.train_frames,
            }
            for run in result.runs
        ],
    }


def summarise(task: str, runs: Sequence[ProbeRun]) -> list[dict[str, Any]]:
    """Mean and sample deviation over seeds of the headline scores, per backbone and budget."""
    summary = []
    for backbone, labels in dict.fromkeys((run.backbone, run.labels) for run in runs):
        chosen = [run for run in runs if (run.backbone, run.labels) == (backbone, labels)]
        entry: dict[str, Any] = {
            "backbone": backbone,
            "labels": labels,
            "seeds": [run.seed for run in chosen],
        }
        for headline in HEADLINES[task]:
            values = [_lookup(run.metrics, headline) for run in chosen]
            entry[headline] = spread([value for value in values if value is not None])
        summary.append(entry)
    return summary


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for fewer than two) and the values themselves."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def write_result(out: Path, metrics: dict[str, Any], result: ProbeResult) -> None:
    """Writes pictures first and metrics.json last, so that a metrics.json means a finished probe."""
    for name, picture in result.pictures.items():
        folder = "features" if name.endswith("_features_pca") else "predictions"
        write_png(out / folder / f"{name}.png", picture)
    write_json(out / RESULT_FILE, metrics)


def _lookup(metrics: dict[str, Any], path: str) -> float | None:
    value: Any = metrics
    for key in path.split("/"):
        value = value[key]
    return value


def _ready(encoder: PixelEncoder, device: str) -> PixelEncoder:
    return encoder.to(device).eval().requires_grad_(False)
