"""A plain folder of pictures and masks, for one's own data.

    root/classes.json                        see below
    root/[PART/]images/[VIDEO/]NAME.*        pictures; PART is train, val or test
    root/[PART/]masks/[VIDEO/]NAME.png       masks of the same name

    {"classes": ["tissue", "instrument"]}                                      masks hold class ids
    {"classes": [...], "colours": [[0, 0, 0], [255, 0, 0]]}                     masks are RGB, or grey as equal channels
    {"classes": [...], "ignore": [255]} or {..., "ignore": [[255, 255, 255]]}   what has no label, as in the masks;
                                                                               a single one needs no outer brackets

Ids and colours that the file does not name are ignored, counted and reported. Pictures that lie directly in `images`
have no known video: each is its own, unless `video_pattern` finds one in the file's name.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.colours import NO_CLASS, ColourTable
from laparoflow.datasets.reading import PICTURE_ENDINGS, DatasetError, read_colours, read_ids, read_json
from laparoflow.datasets.samples import IGNORE_INDEX, Frame, SegmentationDataset

BINARY_HINT = (
    "the masks hold only 0 and 255, and 255 has no label; if it is the second class, write "
    '"colours": [[0, 0, 0], [255, 255, 255]] into classes.json, and no "ignore"'
)


class ImageMasks(SegmentationDataset):
    """Reads the folder described above; the first group of ``video_pattern``, searched in a file's stem, is its video."""

    name = "image_masks"
    video_hint = "say by video_pattern which part of a picture's name is its video, or put each video into a folder"

    def __init__(self, root: Path, video_pattern: str | None = None) -> None:
        root = self.folder(root)
        description = _description(root / "classes.json")
        self.classes = tuple(str(name) for name in description["classes"])
        self._ignored: list[Any] = description["ignore"]
        self._table: ColourTable | None = None
        if "colours" in description:
            self._table = ColourTable([tuple(colour) for colour in (*description["colours"], *self._ignored)])
        self._met: Counter[int] = Counter()  # ids of masks
        frames: list[Frame] = []
        for part in ("", "train", "val", "test"):
            folder = root / part / "images"
            for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS):
                frames.append(_frame(path, folder, root / part / "masks", part, len(frames), video_pattern))
        super().__init__(frames, f"no picture in {root / 'images'} or in train, val, test below it")

    def findings(self) -> list[str]:
        if self._table is not None:
            return self._table.findings("are ignored")
        named = {*range(len(self.classes)), *self._ignored}
        unknown = Counter({value: count for value, count in self._met.items() if value not in named})
        found = ", ".join(f"{value} ({count} px)" for value, count in unknown.most_common(5))
        notes = [f"mask ids that classes.json does not name are ignored: {found}"] if found else []
        return notes + ([BINARY_HINT] if 255 in self._met and set(self._met) <= {0, 255} else [])

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        if self._table is None:
            return self._decode_ids(frame.label)
        ids = self._table.ids(read_colours(frame.label), nearest=False)
        return np.where((ids == NO_CLASS) | (ids >= len(self.classes)), IGNORE_INDEX, ids)

    def _decode_ids(self, path: Path) -> NDArray[np.int64]:
        ids = read_ids(path)
        values, counts = np.unique(ids, return_counts=True)
        self._met.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return np.where((ids >= len(self.classes)) | np.isin(ids, self._ignored), IGNORE_INDEX, ids)


def _description(path: Path) -> dict[str, Any]:
    content = read_json(path)
    unknown = not isinstance(content, dict) or set(content) - {"classes", "colours", "ignore"}
    if unknown or not isinstance(content.get("classes"), list) or not 2 <= len(content["classes"]) < IGNORE_INDEX:
        raise DatasetError(f"{path} must hold classes (two or more names) and may hold colours and ignore")
    content["ignore"] = _ignored(content.get("ignore", []), "colours" in content, path)
    if "colours" in content:
        if not isinstance(content["colours"], list) or not all(map(_is_colour, content["colours"])):
            raise DatasetError(f"{path}: colours must be a list of [red, green, blue], got {content['colours']!r}")
        if len(content["colours"]) != len(content["classes"]):
            raise DatasetError(f"{path} has {len(content['classes'])} classes and {len(content['colours'])} colours")
    return content


def _ignored(given: Any, coloured: bool, path: Path) -> list[Any]:
    """What has no label, as a list of ids or of colours."""
    fits, expected = (_is_colour, "[red, green, blue]") if coloured else (lambda value: type(value) is int, "a mask id")
    values = [given] if fits(given) else given
    if not isinstance(values, list) or not all(map(fits, values)):
        raise DatasetError(f"{path}: ignore must be {expected} or a list of such, got {given!r}")
    return values


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)


def _frame(path: Path, images: Path, masks: Path, part: str, order: int, pattern: str | None) -> Frame:
    inside = path.relative_to(images)
    mask = masks / inside.with_suffix(".png")
    if not mask.is_file():
        raise DatasetError(f"image_masks: {path} has no mask {mask}")
    name = "_".join([*([part] if part else []), *inside.with_suffix("").parts])
    video = str(inside.parent) if inside.parent != Path() else name
    if pattern is not None:
        match = re.search(pattern, path.stem)
        if match is None or not match.groups():
            raise DatasetError(f"image_masks: video_pattern {pattern!r} finds no group in {path.stem!r}")
        video = match.group(1)
    return Frame(path, mask, video, name, order, part)
