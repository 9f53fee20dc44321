"""Scores of one network on labelled recordings that differ from those its labels come from.

Per task and label budget, mean over two draws of labels, of which the first frame has most classes:

    score        mean IoU of a linear probe on stem and last block together
    levels       the same on either alone, with most labels
    retrieval    dense nearest neighbours among the labelled cells, with the first draw
    mirrored, cropped, recoloured    the first probe on altered test frames

per task with key points the share of them that a linear probe finds within 5 % of the diagonal, and per moving recording the
label propagation from its first frame, mean IoU without the background. Every row gets the same features, scaled per channel
over the labelled frames.

Pictures show a few frames of each task and recording, in rows of picture, truth and what retrieval or propagation found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laparoflow.datasets.samples import SegmentationSample
from laparoflow.datasets.splits import label_subset
from laparoflow.evidence import recordings
from laparoflow.evidence.recordings import Pool, Recording, altered
from laparoflow.metrics.segmentation import frame_confusions, scores_from_confusion
from laparoflow.models.encoder import PixelEncoder
from laparoflow.probes.clusters import propagate
from laparoflow.probes.features import FeatureEncoder, grid_size
from laparoflow.probes.finetune import finetune
from laparoflow.probes.heads import Head
from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.segmentation import class_shares, fit_predictor, share_loss
from laparoflow.probes.settings import ProbeOptions
from laparoflow.report.pictures import Picture, mask_picture

DRAWS = (0, 1)
BATCH = 8
SHOWN = 3
"""Frames in a picture, evenly spread; the last one is always there."""
Levels = Callable[[Tensor], dict[Any, Tensor]]
"""RGB 0..1 [B, 3, H, W] -> features by level; "both" is always there."""


@torch.no_grad()
def collect(levels: Levels, images: Tensor) -> dict[str, Tensor]:
    """Features of many pictures by level."""
    parts = [levels(batch) for batch in images.split(BATCH)]
    return {level: torch.cat([part[level] for part in parts]).float() for level in parts[0]}


def network_entries(
    levels: Levels, pool: Pool, options: ProbeOptions
) -> tuple[list[dict[str, Any]], dict[str, Picture]]:
    """All scores of a frozen network, or of `features.colour_and_place`, and pictures by name.

    Each entry names its scene, labels, score and metrics.
    """
    known: dict[str, dict[str, Tensor]] = {}
    pictures: dict[str, Picture] = {}

    def features(recording: Recording) -> dict[str, Tensor]:
        if recording.name not in known:
            known[recording.name] = collect(levels, recording.images)
        return known[recording.name]

    entries = []
    for task, (first, second) in pool.tasks.items():
        views = altered(second.images[second.tested], second.masks[second.tested])
        tested = {name: collect(levels, view[0]) for name, view in views.items()}
        source = {level: maps[first.labelled] for level, maps in features(first).items()}
        shares = _shares(first, source["both"])
        draws = _draws(first, options.labels)
        most = max(count for count, _ in draws)
        for labels, chosen in draws:
            metrics = _metrics([
                {name: confusions(predict(maps["both"]), views[name][1], shares.shape[1]) for name, maps in tested.items()}
                for predict in (fit_predictor(source["both"][rows], shares[rows], options, 0) for rows in chosen)
            ], first.classes)  # fmt: skip
            nearest = dataclasses.replace(options, head="knn")
            predict = fit_predictor(source["both"][chosen[0]], shares[chosen[0]], nearest, 0)
            found = predict(tested["plain"]["both"])
            counts = confusions(found, views["plain"][1], shares.shape[1])
            metrics["retrieval"] = scores_from_confusion(counts.sum(0), first.classes)["mean_iou"]
            if labels == most:
                pictures[f"retrieval, {task}"] = _shown(*views["plain"], found)
                for level in sorted(set(source) - {"both"}):
                    runs = [fit_predictor(source[level][rows], shares[rows], options, 0) for rows in chosen]
                    each = [confusions(run(tested["plain"][level]), views["plain"][1], shares.shape[1]) for run in runs]
                    metrics[level] = _metrics([{"plain": counts} for counts in each], first.classes)["mean_iou"]
            entries.append(_entry(pool, task, labels, metrics))
    joined = levels(torch.zeros(1, 3, *recordings.SIZE))["both"]
    entries += keypoint_entries(BothLevels(levels, joined.shape[1], recordings.SIZE[0] // joined.shape[2]), pool, options)
    for recording in {second.name: second for _, second in pool.tasks.values() if second.tracked}.values():
        maps = features(recording)["both"][recording.tracked]
        masks = recording.masks[recording.tracked]
        found = propagate(maps, _shares(recording, maps, recording.tracked[:1])[0])
        pictures[f"propagation, {recording.name}"] = _shown(recording.images[recording.tracked], masks, found)
        counts = confusions(found[1:], masks[1:], len(recording.classes)).sum(0)
        metrics = scores_from_confusion(counts, recording.classes)
        kept = [value for value in list(metrics["per_class_iou"].values())[1:] if value is not None]
        metrics["mean_iou"] = sum(kept) / len(kept) if kept else None
        entries.append(_entry(pool, f"propagation, {recording.name}", 1, metrics))
    return entries, pictures


@dataclass
class BothLevels:
    """The stem and the last block together, as a probe wants its features."""

    levels: Levels
    feature_dim: int
    feature_stride: int

    def features(self, images: Tensor) -> Tensor:
        return self.levels(images)["both"]


def keypoint_entries(network: FeatureEncoder, pool: Pool, options: ProbeOptions) -> list[dict[str, Any]]:
    """Scores on key points of a linear probe with the budgets of the options, means over the draws.

    A budget above the frames with key points takes all of them.
    """
    entries = []
    for task, (first, second) in pool.tasks.items():
        if first.points is None or second.points is None:
            continue
        train, test = first.points[0], second.points[1]
        labels: list[Any] = [*dict.fromkeys(min(int(budget), len(train)) for budget in options.labels)]
        chosen = dataclasses.replace(options, labels=labels, seeds=[*DRAWS], image_size=recordings.SIZE, pictures=0)
        runs = probe_keypoints(network, train, test, chosen).runs
        for count in labels:
            draws = [run.metrics for run in runs if run.labels == count]
            metrics = {"draws": draws, "pck": float(np.mean([draw["pck"]["0.05"] for draw in draws]))}
            entries.append(_entry(pool, f"key points, {task}", count, metrics, "pck"))
    return entries


def supervised_entries(start: PixelEncoder, pool: Pool, options: ProbeOptions, seed: int) -> list[dict[str, Any]]:
    """Scores of the network trained with labels from `start` on; a budget above the recording's frames takes all."""
    entries = []
    for task, (first, second) in pool.tasks.items():
        views = altered(second.images[second.tested], second.masks[second.tested])
        size = (first.images.shape[2], first.images.shape[3])
        grid = grid_size(size, start.feature_stride)

        def target(sample: SegmentationSample, classes: int = len(first.classes), grid: Any = grid) -> Tensor:
            return class_shares(sample.mask, classes, grid)

        for labels, chosen in _draws(first, options.labels):
            rows = [first.labelled[i] for i in chosen[0]]
            samples: Any = [
                SegmentationSample(_bytes(first.images[row]), first.masks[row].numpy(), first.name, str(row)) for row in rows
            ]
            network, head = finetune(start, samples, target, share_loss, size, len(first.classes), options, seed)
            counts = {}
            for name, (images, masks) in views.items():
                maps = collect(partial(_whole, network, head), images)
                counts[name] = confusions(maps["both"], masks, len(first.classes))
            entries.append(_entry(pool, task, labels, _metrics([counts], first.classes)))
    return entries + keypoint_entries(start, pool, dataclasses.replace(options, finetune=True))


def confusions(maps: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Pixel counts int64 [n, K, K], rows truth, of class scores [n, K, h, w] against masks [n, H, W]."""
    return frame_confusions(_full_size(maps, masks), masks, classes)


def _full_size(maps: Tensor, masks: Tensor) -> Tensor:
    """Class ids [n, H, W] of class scores [n, K, h, w], at the size of the masks."""
    return F.interpolate(maps, size=masks.shape[1:], mode="bilinear", align_corners=False).argmax(1)


def _shown(images: Tensor, masks: Tensor, maps: Tensor) -> Picture:
    """Rows of picture, truth and found classes, of RGB 0..1 [n, 3, H, W], masks [n, H, W], class scores [n, K, h, w]."""
    places = sorted({round((len(images) - 1) * (i + 1) / SHOWN) for i in range(SHOWN)})
    found = _full_size(maps[places], masks).numpy()
    rows = zip(images[places], masks[places].numpy(), found, strict=True)
    return np.vstack([mask_picture(_bytes(image), truth, ids, maps.shape[1]) for image, truth, ids in rows])


def _bytes(image: Tensor) -> Picture:
    """RGB uint8 [H, W, 3] of RGB 0..1 [3, H, W]."""
    return (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def _whole(network: FeatureEncoder, head: Head, images: Tensor) -> dict[str, Tensor]:
    """Class scores of a trained network in the place of features."""
    return {"both": head(network.features(images))}


def _shares(recording: Recording, maps: Tensor, places: Sequence[int] | None = None) -> Tensor:
    rows = recording.labelled if places is None else places
    grid = (maps.shape[2], maps.shape[3])
    return torch.stack([class_shares(mask.numpy(), len(recording.classes), grid) for mask in recording.masks[rows]])


def _draws(recording: Recording, budgets: Sequence[Any]) -> list[tuple[int, list[list[int]]]]:
    """(number of labels, the labelled frames of each draw) for each budget, without a number twice."""
    variety = [len(mask.unique()) for mask in recording.masks[recording.labelled]]
    orders = []
    for draw in DRAWS:
        order = list(label_subset(len(variety), "all", draw))
        order.insert(0, order.pop(int(np.argmax([variety[i] for i in order]))))
        orders.append(order)
    counts = dict.fromkeys(min(int(budget), len(variety)) for budget in budgets)
    return [(count, [order[:count] for order in orders]) for count in counts]


def _metrics(draws: list[dict[str, Tensor]], classes: Sequence[str]) -> dict[str, Any]:
    """Means over draws; `frames` keeps the counts of each test frame for intervals, [draws][n][K * K]."""
    scores = [{name: scores_from_confusion(counts.sum(0), classes) for name, counts in draw.items()} for draw in draws]
    metrics: dict[str, Any] = {name: float(np.mean([score[name]["mean_iou"] for score in scores])) for name in draws[0]}
    metrics["mean_iou"] = metrics.pop("plain")
    per_class = [[score["plain"]["per_class_iou"][name] or 0.0 for score in scores] for name in classes]
    metrics["per_class_iou"] = {name: float(np.mean(values)) for name, values in zip(classes, per_class, strict=True)}
    metrics["frames"] = [draw["plain"].flatten(1).tolist() for draw in draws]
    return metrics


def _entry(pool: Pool, where: str, labels: int, metrics: dict[str, Any], score: str = "mean_iou") -> dict[str, Any]:
    task = "keypoints" if score == "pck" else "segmentation"
    facts = {"scene": f"{pool.name}: {where}", "task": task, "pool": pool.name, "where": where}
    return facts | {"labels": labels, "score": metrics[score], "metrics": metrics}
