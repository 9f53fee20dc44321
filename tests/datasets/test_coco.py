"""COCO's format: masks as polygons and run lengths, and annotation files that are not as they should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pytest
from PIL import Image

from laparoflow.datasets import build_dataset
from laparoflow.datasets.coco_segmentation import polygon_mask, run_length_mask
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.settings import SplitSettings
from laparoflow.datasets.splits import split_dataset


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def points(root: Path) -> Path:
    miniatures.coco_keypoints(root)
    return root / "annotations" / "keypoints.json"


def masks(root: Path) -> Path:
    miniatures.coco_segmentation(root)
    return root / "annotations" / "instances_default.json"


def test_polygons_and_run_lengths_become_class_ids(tmp_path: Path) -> None:
    masks(tmp_path)
    dataset = build_dataset("coco_segmentation", tmp_path)
    assert dataset.classes == ("background", "grasper", "hook")
    assert "unused" in dataset.warnings[0]
    assert dataset.videos == ("case0", "case1")
    found = {frame.image.stem: dataset.read(frame).mask for frame in dataset.frames}
    expected = np.zeros((10, 20), dtype=np.int64)
    assert (found["3"] == expected).all()
    expected[1:7, 2:8] = 1
    assert (found["2"] == expected).all()
    expected[3:8, 4] = 2
    assert (found["1"] == expected).all()
    assert split_dataset(dataset, SplitSettings()).by == "video"


def test_polygons_hold_the_pixels_whose_centre_is_inside() -> None:
    rows, columns = np.mgrid[:40, :60] + 0.5
    circle = np.stack([30 + 15 * np.cos(np.arange(720) / 360 * np.pi), 20 + 15 * np.sin(np.arange(720) / 360 * np.pi)], 1)
    inside = (columns - 30) ** 2 + (rows - 20) ** 2
    found = polygon_mask(circle, (40, 60))
    assert found[inside < 14.9**2].all()
    assert not found[inside > 15**2].any()
    triangle = np.array([[-10.0, -10.0], [70.0, -10.0], [-10.0, 70.0]])  # cut off by the picture
    assert (polygon_mask(triangle, (40, 60)) == (rows + columns < 60)).all()


def compressed(lengths: list[int]) -> str:
    """COCO's text of run lengths, as pycocotools writes it."""
    text = ""
    for number, length in enumerate(lengths):
        value = length - lengths[number - 2] if number > 2 else length
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def test_compressed_run_lengths() -> None:
    wanted = np.random.default_rng(0).random((37, 53)) > 0.9
    wanted[:, 20:30] = True
    flat = wanted.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    lengths = lengths if not flat[0] else [0, *lengths]
    for counts in (lengths, compressed(lengths)):
        assert (run_length_mask(counts, [37, 53], (37, 53), "annotation 1") == wanted).all()
    assert compressed([6, 1, 40, 4, 5, 4, 5, 4, 21]) == "61X13mN000`0"  # a pair that COCO's tools give
    for counts, size in ((lengths, [53, 37]), (lengths[:-1], [37, 53]), ([-1, *lengths], [37, 53]), ("~", [37, 53])):
        with pytest.raises(DatasetError, match="annotation 1"):
            run_length_mask(counts, size, (37, 53), "annotation 1")


def test_roboflow_layout_is_an_official_split(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        path = masks(tmp_path / part)
        change(path, lambda content: [i.update(file_name=i["file_name"].replace("/", "_")) for i in content["images"]])
        for file in (tmp_path / part / "images").rglob("*.png"):
            file.rename(tmp_path / part / f"{file.parent.name}_{file.name}")
        path.rename(tmp_path / part / "_annotations.coco.json")
        shutil.rmtree(tmp_path / part / "annotations")
    dataset = build_dataset("coco_segmentation", tmp_path)
    split = split_dataset(dataset)
    assert (split.by, len(split.train), len(split.test)) == ("official", 4, 4)
    assert {dataset.frames[i].image.parent.name for i in split.test} == {"valid"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"][0].pop("keypoints"), "annotation 1 has no keypoints"),
        (lambda c: c["annotations"][1].pop("category_id"), "annotation 2 has no category_id"),
        (lambda c: c["annotations"][0].pop("image_id"), "annotation 1 has no image_id"),
        (lambda c: c["annotations"][0].update(image_id=77), "annotation 1 has image_id 77"),
        (lambda c: c["annotations"][0].update(keypoints=["a"] * 6), "annotation 1: keypoints must be a flat list"),
        (lambda c: (c["annotations"][1].pop("id"), c["annotations"][1].pop("image_id")), "annotation 1 of the list"),
        (lambda c: c["categories"][0].pop("name"), "category 0 of the list has no name"),
        (lambda c: c["images"][2].pop("file_name"), "image 2 of the list has no file_name"),
        (lambda c: c.update(annotations={}), "lacks annotations"),
    ],
)
def test_errors_name_the_annotation(tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    path = points(tmp_path)
    change(path, edit)
    with pytest.raises(DatasetError, match=message) as error:
        build_dataset("coco_keypoints", tmp_path)
    assert str(path) in str(error.value)


def test_identifiers_as_text_lose_no_label(tmp_path: Path) -> None:
    change(points(tmp_path), lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]])
    dataset = build_dataset("coco_keypoints", tmp_path)
    assert sorted(len(sample.keypoints) for sample in dataset) == [0, 0, 2]


@pytest.mark.parametrize(("name", "make"), [("coco_keypoints", points), ("coco_segmentation", masks)])
def test_pictures_of_another_size_than_the_file_says_are_refused(tmp_path: Path, name: str, make) -> None:
    change(make(tmp_path), lambda c: [image.update(width=10, height=20) for image in c["images"]])
    with pytest.raises(DatasetError, match=r"png is 20 x 10 \(upright\), its annotation file says 10 x 20"):
        build_dataset(name, tmp_path)[0]


def test_points_outside_their_picture_are_left_out_and_named(tmp_path: Path) -> None:
    change(points(tmp_path), lambda c: c["annotations"][0].update(keypoints=[300, 6, 2, 20, 10, 1]))
    dataset = build_dataset("coco_keypoints", tmp_path)
    (sample,) = [sample for sample in dataset if len(sample.keypoints)]
    assert sample.keypoints[0].tolist() == [[0, 0, 0], [20, 10, 1]]  # the far corner is still the picture's edge
    (warning,) = dataset.warnings
    assert "1 key points lie outside" in warning
    assert "1.png (20 x 10), annotation 1, tip at (300, 6)" in warning


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "annotation 10 has neither polygons nor run lengths"),
        (None, "annotation 10 has no segmentation"),
        ([[1, 2, 3, 4]], "annotation 10: a polygon must be x, y of three points"),
        ([[1, 2, 3, 4, "x", 6]], "annotation 10: a polygon must be a flat list of numbers"),
        ({"counts": [200], "size": [20, 10]}, "annotation 10: run lengths of size"),
        ({"size": [10, 20]}, "annotation 10 has no counts"),
    ],
)
def test_masks_that_cannot_be_used_are_named(tmp_path: Path, given: object, message: str) -> None:
    change(masks(tmp_path), lambda c: c["annotations"][0].update(segmentation=given))
    with pytest.raises(DatasetError, match=message):
        list(build_dataset("coco_segmentation", tmp_path))


def test_polygons_beyond_the_picture_are_reported(tmp_path: Path) -> None:
    change(masks(tmp_path), lambda c: c["annotations"][0].update(segmentation=[[15, 5, 40, 5, 40, 30, 15, 30]]))
    dataset = build_dataset("coco_segmentation", tmp_path)
    assert [int((sample.mask == 1).sum()) for sample in dataset if sample.name.startswith("1_")] == [25]
    assert "1 annotations reach beyond their pictures" in dataset.warnings[1]


def test_coco_pictures_are_upright(tmp_path: Path) -> None:
    masks(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "images" / "case1" / "1.png"
    Image.fromarray(np.zeros((20, 10, 3), np.uint8)).save(path, exif=exif)
    dataset = build_dataset("coco_segmentation", tmp_path)
    assert all(sample.image.shape == (10, 20, 3) for sample in dataset)
