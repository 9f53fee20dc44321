"""The pictures of the README, from results alone:

    python -m scripts.readme_pictures demo-out      what `make demo` left there -> docs/images/demo.jpg
                                                    benchmarks/results/cpu.json -> docs/images/memory.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import matplotlib.pyplot as pyplot
import numpy as np

from benchmarks.tables import plain_rows, sizes_of
from laparoflow.report.pictures import panels

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
