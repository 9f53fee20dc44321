"""`laparoflow probe`: a data set and a backbone in, a folder of scores and pictures out.

out/metrics.json         settings, split, warnings, one entry per backbone, budget and seed, and a summary;
                         written before the network from scratch is trained, which is added when it is done
out/heads/*              every trained head, see saved.py
out/predictions/*.png    picture | truth | prediction
out/features/*.png       principal components of the features as colours
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from laparoflow.bounds import plain
from laparoflow.datasets.class_map import MappedSegmentation, load_class_map
from laparoflow.datasets.overlap import overlap_warnings
from laparoflow.datasets.registry import build_dataset
from laparoflow.datasets.samples import FrameDataset
from laparoflow.datasets.splits import Split, budget_count, sides_record, split_dataset
from laparoflow.files import write_json, write_png
from laparoflow.metrics.segmentation import MEAN_RULE
from laparoflow.models.encoder import PixelEncoder, build_encoder
from laparoflow.models.loading import initial_encoder, load_encoder
from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.saved import save_head
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import RANDOM, SCRATCH, TRAINED, WEIGHTS, ProbeResult, ProbeRun, ProbeSettings
from laparoflow.training.places import find_data
from laparoflow.video.cache import FrameCache

FORMAT = "laparoflow-probe-1"
RESULT_FILE = "metrics.json"
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
"""The scores of a summary, by their place among all scores of a run, as pages name them."""
WITHOUT_SCRATCH = "scratch_labels: the network trained from scratch is not in these scores, it had not been trained yet"
logger = logging.getLogger(__name__)


def run_probe(settings: ProbeSettings) -> dict[str, Any]:
    """Probes a pretrained backbone on a labelled data set; returns what `out/metrics.json` holds.

    Raises:
        ValueError: settings that do not fit together, a label budget above the training part, or a data set that is
            not what its reader expects.
        FileExistsError: `out` already holds the scores of a probe and `overwrite` is off.
        FileNotFoundError: no checkpoint.
    """
    settings = settings.resolved()
    finished = settings.out / RESULT_FILE
    if finished.exists() and not settings.overwrite:
        raise FileExistsError(f"out: {finished} is already there; choose another folder or set overwrite")
    train, test, split = probe_data(settings)
    for budget in settings.scratch_labels:
        budget_count(len(train), budget, "scratch_labels")
    encoders = probe_encoders(settings)
    warnings = [split.warning, *overlap_guard(settings, test)]
    for text in filter(None, warnings):
        logger.warning(text)
    probe: Callable[..., ProbeResult] = probe_segmentation if settings.task == "segmentation" else probe_keypoints
    result = probe(encoders, train, test, settings)
    facts: dict[str, Any] = {"split": split.record}
    facts["label_budgets"] = {
        name: {str(budget): budget_count(len(train), budget) for budget in budgets}
        for name, budgets in (("labels", settings.labels), ("scratch_labels", settings.scratch_labels))
    }
    if settings.scratch_labels:
        write_result(settings.out, result, plain(settings), [*warnings, WITHOUT_SCRATCH], **facts)
        start = initial_encoder(settings.checkpoint).at(settings.level).to(settings.device)
        scratch = probe({SCRATCH: start}, train, test, replace(settings, finetune=True, labels=settings.scratch_labels))
        result.runs += scratch.runs
        result.pictures |= scratch.pictures
    return write_result(settings.out, result, plain(settings), warnings, **facts)


def probe_data(settings: ProbeSettings) -> tuple[Any, Any, Split]:
    """The frames to train and to test on, and how they were kept apart.

    With `test_dataset`, both sets are seen through the class map; all frames of the first train, or its published
    train part, and the published test part of the second is tested on, or all of it.
    """
    dataset = build_dataset(settings.dataset, settings.root, task=settings.task, **settings.dataset_options)
    if settings.test_dataset is None or settings.test_root is None or settings.class_map is None:
        split = split_dataset(dataset, settings.split_settings)
        return dataset.select(split.train), dataset.select(split.test), split
    other = build_dataset(settings.test_dataset, settings.test_root, task="segmentation", **settings.test_dataset_options)
    class_map = load_class_map(settings.class_map, settings.class_map_variant)
    train, test = MappedSegmentation(dataset, class_map), MappedSegmentation(other, class_map)
    sides = []
    for mapped, part in ((train, "train"), (test, "test")):
        published = [i for i, frame in enumerate(mapped.frames) if frame.part == part]
        sides.append(tuple(published or range(len(mapped))))
    train, test = train.select(sides[0]), test.select(sides[1])
    record = {"by": "data set", "asked_for": settings.split, "class_map": class_map.record, **sides_record(train, test)}
    return train, test, Split(sides[0], sides[1], "data set", record=record)


def probe_encoders(settings: ProbeSettings) -> dict[str, PixelEncoder]:
    """The pretrained backbone and the frozen controls that the settings ask for, by name."""
    trained = load_encoder(settings.checkpoint)
    encoders = {TRAINED: trained}
    if settings.random_control:
        encoders[RANDOM] = initial_encoder(settings.checkpoint)
    if settings.weights_control is not None:
        own = trained.settings
        name = settings.weights_backbone or own.backbone
        options = own.backbone_options if name.split(".")[0] == own.backbone.split(".")[0] else {}
        changes: dict[str, Any] = {"backbone": name, "backbone_options": options, "weights": settings.weights_control}
        cleared: dict[str, Any] = dict.fromkeys(("embed_stride", "image_mean", "image_std"))
        encoders[WEIGHTS] = build_encoder(replace(own, **changes, **cleared))
    device = settings.resolved().device
    return {name: encoder.at(settings.level).to(device).eval().requires_grad_(False) for name, encoder in encoders.items()}


def overlap_guard(settings: ProbeSettings, test: FrameDataset[Any]) -> list[str]:
    """Warnings about test videos in the pretraining set, or that it could not be looked at."""
    videos = pretraining_videos(settings.checkpoint)
    if videos is None:
        return ["overlap: the pretraining cache is not where the run says, so overlap with the test videos is unknown"]
    return overlap_warnings(settings.test_dataset or settings.dataset, test.videos, videos)


def pretraining_videos(checkpoint: Path) -> list[str] | None:
    """Paths of the videos that a run was pretrained on; None when its cache is gone or was never named."""
    for folder in (checkpoint, *checkpoint.parents[:2]):
        data = find_data(folder)
        if data is not None:
            return [str(clip.source) for clip in FrameCache.open(data, verify="sizes").clips]
    return None


def write_result(
    out: Path, result: ProbeResult, settings: dict[str, Any], warnings: Sequence[str] = (), **facts: Any
) -> dict[str, Any]:
    """Writes heads and pictures first and metrics.json last, so that what a metrics.json names is there.

    Returns its content: the result as JSON values with further ``warnings`` and ``facts``.
    """
    for head in result.heads:
        save_head(head, out)
    for name, picture in result.pictures.items():
        folder = "features" if name.endswith("_features_pca") else "predictions"
        write_png(out / folder / f"{name}.png", picture)
    files = {(head.backbone, head.labels, head.seed): head.file for head in result.heads}
    runs = [{**asdict(run), "head_file": files.get((run.backbone, run.labels, run.seed))} for run in result.runs]
    metrics = {
        "format": FORMAT,
        "task": result.task,
        "dataset": settings.get("dataset"),
        "head": settings.get("head"),
        "names": list(result.names),
        "image_size": list(result.image_size),
        **({"mean_rule": MEAN_RULE} if result.task == "segmentation" else {}),
        "settings": settings,
        "warnings": list(filter(None, [*warnings, *result.warnings])),
        "summary": summarise(result.runs),
        "runs": runs,
        **facts,
    }
    write_json(out / RESULT_FILE, metrics)
    return metrics


def summarise(runs: Sequence[ProbeRun]) -> list[dict[str, Any]]:
    """Mean and sample deviation over seeds of the scores that have a name, per backbone and budget."""
    summary = []
    for backbone, labels in dict.fromkeys((run.backbone, run.labels) for run in runs):
        chosen = [run for run in runs if (run.backbone, run.labels) == (backbone, labels)]
        entry: dict[str, Any] = {"backbone": backbone, "labels": labels, "seeds": [run.seed for run in chosen]}
        for path in (path for path in SCORE_NAMES if path.split("/")[0] in chosen[0].metrics):
            values: list[Any] = [reduce(getitem, path.split("/"), run.metrics) for run in chosen]
            entry[path] = spread([value for value in values if value is not None])
        summary.append(entry)
    return summary


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for fewer than two) and the values themselves."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }
