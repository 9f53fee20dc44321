"""Sznitman laparoscopy: one video, 400 consecutive frames 384 x 288, the tip region of up to two instruments.

    root/train.xml               per frame: PositionIndex, and a `tool` line per instrument: row column scale angle
    root/trainData/NNNNNN.jpg    the picture of PositionIndex NNNNNN

The first number is the ROW, so a key point is (x, y) = (second, first). A frame without a `tool` line shows no
instrument; it is labelled, and its key points are [0, 1, 3].
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.samples import VISIBLE, Frame, KeypointDataset, KeypointSample

_FRAME = re.compile(r"<frame>(.*?)</frame>", re.DOTALL)
_INDEX = re.compile(r"<PositionIndex>\s*(\d+)\s*</PositionIndex>")
_TOOL = re.compile(r"<tool>(.*?)</tool>", re.DOTALL)


class Sznitman(KeypointDataset):
    """The Sznitman laparoscopy sequence, in a folder with `train.xml` and `trainData`."""

    name = "sznitman"
    joints = ("instrument",)

    def __init__(self, root: Path) -> None:
        root = self.folder(root)
        annotations = root / "train.xml"
        try:
            text = annotations.read_text(encoding="utf-8")
        except OSError as error:
            raise DatasetError(f"{self.name}: cannot read {annotations}: {error}") from error
        frames, missing = [], []
        for block in _FRAME.findall(text):
            index = _INDEX.search(block)
            if index is None:
                raise DatasetError(f"{annotations}: a frame has no PositionIndex")
            number = int(index.group(1))
            image = root / "trainData" / f"{number:06d}.jpg"
            if not image.is_file():
                missing.append(image.name)
                continue
            tools = [[_parse_tool(line, annotations, number)] for line in _TOOL.findall(block)]
            points = np.array(tools, dtype=np.float32).reshape(-1, 1, 3)
            frames.append(Frame(image, points, "sznitman", f"{number:06d}", number))
        frames.sort(key=lambda frame: frame.order)
        super().__init__(frames, f"{annotations} names no frame whose picture is in {root / 'trainData'}", missing)

    def read(self, frame: Frame) -> KeypointSample:
        sample = super().read(frame)
        height, width = sample.image.shape[:2]
        if (sample.keypoints[..., :2] >= [width, height]).any():
            raise DatasetError(f"{frame.name}: a point lies outside the picture ({height} rows, {width} columns)")
        return sample


def _parse_tool(line: str, path: Path, frame: int) -> tuple[float, float, float]:
    """(x, y, visibility) of one `row column scale angle` line."""
    try:
        row, column, *_ = (float(value) for value in line.split())
    except ValueError as error:
        raise DatasetError(f"{path}: frame {frame}: expected 'row column scale angle', got {line!r}") from error
    if row < 0 or column < 0:
        raise DatasetError(f"{path}: frame {frame}: row and column must not be negative, got {line!r}")
    return column, row, VISIBLE
