"""COCO key points and plain folders of pictures and masks."""

from __future__ import annotations

import json
from pathlib import Path

import miniatures
import numpy as np
import pytest

from laparoflow.datasets import IGNORE_INDEX, DatasetError, build_dataset, split_dataset


def test_coco_instruments_crowds_and_empty_pictures(tmp_path: Path) -> None:
    miniatures.coco_keypoints(tmp_path)
    dataset = build_dataset("coco_keypoints", tmp_path)
    assert dataset.joints == ("tip", "wrist")
    found = {frame.image.stem: frame.label for frame in dataset.frames}
    assert found["1"].tolist() == [[[1, 2, 2], [3, 4, 1]], [[5, 6, 2], [0, 0, 0]]]
    assert found["2"].shape == found["3"].shape == (0, 2, 3)
    assert set(dataset.videos) == {"case0", "case1"}


def test_coco_parts_by_file_name(tmp_path: Path) -> None:
    miniatures.coco_keypoints(tmp_path, "train_")
    miniatures.coco_keypoints(tmp_path, "test_")
    split = split_dataset(build_dataset("coco_keypoints", tmp_path))
    assert split.by == "official"
    assert (len(split.train), len(split.test)) == (3, 3)


def test_coco_errors_name_the_file(tmp_path: Path) -> None:
    miniatures.coco_keypoints(tmp_path)
    path = tmp_path / "annotations" / "keypoints.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"] = [1, 2]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="annotation 1 has 2 numbers, not 6"):
        build_dataset("coco_keypoints", tmp_path)
    with pytest.raises(DatasetError, match="say which by category"):
        build_dataset("coco_keypoints", tmp_path, category="organ")
    path.write_text("{}")
    with pytest.raises(DatasetError, match="lacks annotations, categories, images"):
        build_dataset("coco_keypoints", tmp_path)


def plain_folder(root: Path, description: dict[str, object], mask: np.ndarray, names: tuple[str, ...]) -> None:
    root.mkdir(exist_ok=True)
    (root / "classes.json").write_text(json.dumps(description))
    for name in names:
        miniatures.save(root / "images" / f"{name}.jpg", np.zeros((*mask.shape[:2], 3)))
        miniatures.save(root / "masks" / f"{name}.png", mask)


def test_id_masks_with_ignored_and_unknown_ids(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 9, 255]])
    plain_folder(tmp_path, {"classes": ["a", "b"], "ignore": [255]}, mask, ("v1/x", "v1/y", "v2/x"))
    dataset = build_dataset("image_masks", tmp_path)
    assert dataset[0].mask.tolist() == [[0, 1, IGNORE_INDEX, IGNORE_INDEX]]
    assert "9 (1 px)" in dataset.warnings[0]
    assert "255" not in dataset.warnings[0]
    assert dataset.videos == ("v1", "v2")


def test_colour_masks_with_ignored_and_unknown_colours(tmp_path: Path) -> None:
    mask = np.array([[[0, 0, 0], [255, 0, 0], [1, 2, 3], [9, 9, 9]]])
    description = {"classes": ["a", "b"], "colours": [[0, 0, 0], [255, 0, 0]], "ignore": [[9, 9, 9]]}
    plain_folder(tmp_path, description, mask, ("p1_000", "p1_001", "p2_000"))
    dataset = build_dataset("image_masks", tmp_path, video_pattern=r"(p\d)_")
    assert dataset[0].mask.tolist() == [[0, 1, IGNORE_INDEX, IGNORE_INDEX]]
    assert "(1, 2, 3) 1 px" in dataset.warnings[0]
    assert "(9, 9, 9)" not in dataset.warnings[0]
    assert dataset.videos == ("p1", "p2")


def test_parts_of_a_plain_folder(tmp_path: Path) -> None:
    for part in ("train", "test"):
        plain_folder(tmp_path / part, {}, np.zeros((2, 2)), (f"{part}1", f"{part}2"))
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    split = split_dataset(build_dataset("image_masks", tmp_path))
    assert split.by == "official"
    assert not split.warning


def test_plain_folder_errors(tmp_path: Path) -> None:
    plain_folder(tmp_path, {"classes": ["a", "b"]}, np.zeros((2, 2)), ("x",))
    (tmp_path / "masks" / "x.png").unlink()
    with pytest.raises(DatasetError, match="has no mask"):
        build_dataset("image_masks", tmp_path)
    (tmp_path / "classes.json").write_text('{"classes": ["a"], "color": []}')
    with pytest.raises(DatasetError, match=r"classes\.json must hold classes"):
        build_dataset("image_masks", tmp_path)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_damaged_files_are_named(tmp_path: Path, folder: str) -> None:
    plain_folder(tmp_path, {"classes": ["a", "b"]}, np.zeros((40, 40)), ("x",))
    path = next((tmp_path / folder).glob("x.*"))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=path.name):
        build_dataset("image_masks", tmp_path)[0]
    path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=path.name):
        build_dataset("image_masks", tmp_path)[0]
