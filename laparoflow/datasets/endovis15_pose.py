"""EndoVis'15 instrument pose: key points of up to two or three instruments, 720 x 576.

    root/{train,test}_labels/{train,test}N_labels.json      the annotations
    root/**/DatasetN/**/img_000001_raw.png                  frames taken from the challenge's videos

A label file is a list of {filename, class: "image", annotations: [{class, id, x, y, occluded?}]}. `filename` is a path on
the annotators' machine, so frames are found by its last part (with or without "_raw", any picture format), and where several
files have that name, by how many folders before it agree too. `annotations: []` means not labelled, not empty, and so does a
list in which no joint that is read occurs. `id` names the instrument and is missing from some points: such a point goes to
the instrument that lacks that joint, the nearest of several. `TrackedPoint` exists in some sequences only and is left out
unless asked for. Test sequences 1 to 4 continue training sequences 1 to 4, so the official split shares scenes.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from laparoflow.datasets.reading import PICTURE_ENDINGS, DatasetError, read_json
from laparoflow.datasets.samples import OCCLUDED, VISIBLE, Frame, KeypointDataset

JOINTS = ("LeftClasper", "RightClasper", "Head", "Shaft", "End")
TRACKED = "TrackedPoint"
_LABELS = re.compile(r".*?(\d+)_labels\.json")


class Endovis15Pose(KeypointDataset):
    """Reads the multi-joint annotation of the EndoVis'15 instrument tracking set.

    The root holds train_labels, test_labels, and the frames somewhere below. ``tracked_point`` reads TrackedPoint as a sixth
    joint.
    """

    name = "endovis15_pose"

    def __init__(self, root: Path, tracked_point: bool = False) -> None:
        root = self.folder(root)
        self.joints = (*JOINTS, TRACKED) if tracked_point else JOINTS
        files = [(part, path) for part in ("train", "test") for path in sorted((root / f"{part}_labels").glob("*.json"))]
        if not files:
            raise DatasetError(f"{self.name}: no *_labels.json in {root / 'train_labels'} or {root / 'test_labels'}")
        index = _picture_index(root)
        frames, missing = [], []
        for part, path in files:
            match = _LABELS.fullmatch(path.name)
            video = f"{part}{match.group(1)}" if match else path.stem
            for number, entry in enumerate(entries(path)):
                points = instruments(entry["annotations"], self.joints, path, number)
                if not len(points):
                    continue
                image = _find_picture(entry["filename"], index, part)
                if image is None:
                    missing.append(entry["filename"])
                    continue
                frames.append(Frame(image, points, video, f"{video}_{number:06d}", number, part))
        super().__init__(frames, missing=missing)


def entries(path: Path) -> list[dict[str, Any]]:
    """The pictures of a label file, in its order."""
    content = read_json(path)
    if not isinstance(content, list) or any(not {"filename", "annotations"} <= set(entry) for entry in content):
        raise DatasetError(f"{path} must be a list of objects with filename and annotations")
    return [entry for entry in content if entry.get("class", "image") == "image"]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.lower().removesuffix("_raw")


def _picture_index(folder: Path) -> dict[str, list[Path]]:
    """Stem in small letters, "_raw" taken off -> pictures of that name below the folder."""
    index: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_ENDINGS:
            index[_stem(path.name)].append(path)
    return index


def _find_picture(filename: str, index: dict[str, list[Path]], part: str) -> Path | None:
    """The picture whose path agrees best with the recorded one, folder by folder from the end."""
    recorded = PurePosixPath(filename.replace("\\", "/"))
    folders = [folder.lower() for folder in reversed(recorded.parts[:-1])]
    dataset = next((folder for folder in folders if folder.startswith("dataset")), "")

    def agreement(path: Path) -> tuple[bool, int, bool]:
        own = [folder.lower() for folder in reversed(path.parts[:-1])]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, folders, strict=False)))
        return dataset in own, same, any(part in folder for folder in own)

    candidates = {path: agreement(path) for path in index.get(_stem(recorded.name), [])}
    chosen = [path for path, found in candidates.items() if found == max(candidates.values())]
    if len(chosen) > 1:
        raise DatasetError(f"endovis15_pose: {filename} fits several pictures: {', '.join(map(str, chosen))}")
    return chosen[0] if chosen else None


def instruments(annotations: list[dict[str, Any]], joints: tuple[str, ...], path: Path, number: int) -> np.ndarray:
    """float32 [I, K, 3] of one frame; instruments in the order of their ids."""
    known = {name.lower().removesuffix("point"): k for k, name in enumerate(joints)}
    tools: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((len(joints), 3), dtype=np.float32))
    nameless: list[tuple[int, tuple[float, float, float]]] = []
    for annotation in annotations:
        try:
            joint = str(annotation["class"]).lower().removesuffix("point")
            visibility = OCCLUDED if annotation.get("occluded") else VISIBLE
            point = (float(annotation["x"]), float(annotation["y"]), visibility)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}, entry {number}: expected class, x and y, got {annotation!r}") from error
        if joint == "tracked" and joint not in known:
            continue
        if joint not in known:
            raise DatasetError(f"{path}, entry {number}: joints are {', '.join(joints)}, got {annotation['class']!r}")
        if annotation.get("id"):
            tools[annotation["id"]][known[joint]] = point
        else:
            nameless.append((known[joint], point))
    for joint_index, point in nameless:
        lacking = {name: points[points[:, 2] > 0, :2] for name, points in tools.items() if not points[joint_index, 2]}
        gaps = {name: min(math.dist(point[:2], other) for other in others) for name, others in lacking.items()}
        tools[min(gaps, key=gaps.__getitem__, default=f"unnamed{len(tools)}")][joint_index] = point
    return np.stack([tools[name] for name in sorted(tools)]) if tools else np.zeros((0, len(joints), 3), dtype=np.float32)
