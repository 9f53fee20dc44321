"""The pictures of the README and of the results page, from results alone:

    python -m scripts.readme_pictures demo-out      what `make demo` left there -> docs/images/demo.jpg, propagation.jpg
                                                    benchmarks/results/cpu.json -> docs/images/memory.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as pyplot
import numpy as np
import torch
import torch.nn.functional as F

from laparoflow.datasets.registry import build_dataset
from laparoflow.datasets.samples import SegmentationSample
from laparoflow.models.loading import initial_encoder, load_encoder
from laparoflow.probes.clusters import propagate
from laparoflow.probes.features import to_input
from laparoflow.probes.segmentation import class_shares, fit_predictor
from laparoflow.probes.settings import ProbeOptions
from laparoflow.report.pictures import overlay, panels
from scripts.readme_tables import plain_rows, sizes_of

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
TITLES = (
    "frame of an unseen clip", "features, untrained", "features, pretrained", "truth",
    "untrained, 16 labels", "pretrained, 16 labels",
)  # fmt: skip
PEERS = ("ours: native", "dense PyTorch", "chunked PyTorch", "torch.compile of dense")


def read(path: Path) -> np.ndarray:
    """A picture as RGB uint8 [H, W, 3]."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise FileNotFoundError(f"demo: no picture {path}; run `make demo` first")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def demo_picture(probe: Path, out: Path, frames: tuple[int, ...] = (0, 2, 4)) -> None:
    """Rows of frames, columns as TITLES say; colours of features are principal components, three to a network."""
    names = sorted(path.name.removeprefix("trained_") for path in (probe / "predictions").glob("trained_*.png"))
    sheets = {who: read(probe / "features" / f"{who}_features_pca.png") for who in ("random", "trained")}
    features = {who: panels(sheet, len(names)) for who, sheet in sheets.items()}
    size = (12, 1.62 * len(frames))
    figure, axes = pyplot.subplots(len(frames), len(TITLES), figsize=size, layout="constrained", squeeze=False)
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, fontsize=10)
    for row, number in zip(axes, frames, strict=True):
        image, truth, ours = panels(read(probe / "predictions" / f"trained_{names[number]}"), 3)
        untrained = panels(read(probe / "predictions" / f"random_{names[number]}"), 3)[2]
        shown = (image, features["random"][number], features["trained"][number], truth, untrained, ours)
        for axis, picture in zip(row, shown, strict=True):
            axis.imshow(cv2.resize(picture, image.shape[1::-1], interpolation=cv2.INTER_NEAREST), interpolation="nearest")
            axis.set_axis_off()
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 88})
    pyplot.close(figure)


def transfer_picture(
    demo: Path, out: Path, clips: Sequence[str] = ("clip_017", "clip_020"), first_unseen: str = "clip_016", labels: int = 16
) -> None:
    """Rows of clips that were not pretrained on: the last labelled frame, its truth, and what two networks find there.

    Propagation carries the classes of the clip's first frame on; retrieval takes them from frames of other clips.
    """
    dataset = build_dataset("synthetic", demo / "synthetic", task="segmentation")
    seen = [i for i, frame in enumerate(dataset.frames) if frame.video < first_unseen]
    memory = [dataset[i] for i in seen[:: max(1, len(seen) // labels)][:labels]]
    networks = {"untrained": initial_encoder(demo / "run", 0), "pretrained": load_encoder(demo / "run")}
    nearest = ProbeOptions(head="knn", device="cpu")
    ways = [(way, name) for way in ("propagation", "retrieval") for name in networks]
    titles = ["frame of an unseen clip", "truth", *(f"{way}, {name}" for way, name in ways)]
    size = (13, 1.8 * len(clips))
    figure, axes = pyplot.subplots(len(clips), len(titles), figsize=size, layout="constrained", squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for row, clip in zip(axes, clips, strict=True):
        samples = [dataset[i] for i, frame in enumerate(dataset.frames) if frame.video == clip]
        last, classes = samples[-1], len(dataset.classes)
        shown = [last.image, overlay(last.image, last.mask, classes)]
        for way, name in ways:
            features, shares = features_of(networks[name], samples, classes)
            if way == "propagation":
                scores = propagate(features, shares[0])[-1:]
            else:
                scores = fit_predictor(*features_of(networks[name], memory, classes), nearest, 0)(features[-1:])
            found = F.interpolate(scores, size=last.mask.shape, mode="bilinear").argmax(1)[0].numpy()
            shown.append(overlay(last.image, np.where(last.mask == 255, 255, found), classes))
        for axis, picture in zip(row, shown, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 85})
    pyplot.close(figure)


@torch.no_grad()
def features_of(encoder: Any, samples: list[SegmentationSample], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [n, C, h, w] of stem and last block, and class shares [n, K, h, w], of labelled frames."""
    size = samples[0].mask.shape
    maps = encoder.eval().levels(torch.stack([to_input(sample.image, size) for sample in samples]))["both"]
    return maps, torch.stack([class_shares(sample.mask, classes, maps.shape[2:]) for sample in samples])


def memory_picture(results: Path, out: Path) -> None:
    """Memory of forward and backward above inputs and gradients, against the number of pixels of a frame."""
    content = json.loads(results.read_text())
    rows = plain_rows(content)
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for peer in PEERS:
        found = {n: rows[peer, n, "both"] for n in sizes_of(rows) if (peer, n, "both") in rows}
        points = {n: row["extra_bytes"] for n, row in found.items() if row["status"] == "ok"}
        style = {"linewidth": 2.6, "color": "tab:red"} if peer.startswith("ours") else {"linewidth": 1.4}
        axes.loglog(list(points), [count / 1e6 for count in points.values()], marker="o", label=peer, **style)
    axes.set_xlabel("pixels of a frame, N (N x N pairs)")
    axes.set_ylabel("MB above inputs and gradients")
    axes.set_title(f"Forward and backward on a CPU, D = 64, {content['rows'][0]['case']['dtype']}", fontsize=10)
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.savefig(out, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    pyplot.switch_backend("Agg")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?", default=ROOT / "demo-out", help="folder of `make demo`")
    folder = parser.parse_args().demo
    memory_picture(ROOT / "benchmarks" / "results" / "cpu.json", IMAGES / "memory.png")
    demo_picture(folder / "probe_segmentation", IMAGES / "demo.jpg")
    transfer_picture(folder, IMAGES / "propagation.jpg")
