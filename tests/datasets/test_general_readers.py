"""COCO key points and plain folders of pictures and masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import miniatures
import numpy as np
import pytest
from PIL import Image

from laparoflow.datasets import build_dataset
from laparoflow.datasets.reading import DatasetError, read_ids, read_rgb
from laparoflow.datasets.samples import IGNORE_INDEX
from laparoflow.datasets.settings import SplitBy, SplitSettings
from laparoflow.datasets.splits import split_dataset


def test_coco_instruments_crowds_and_empty_pictures(tmp_path: Path) -> None:
    miniatures.coco_keypoints(tmp_path)
    dataset = build_dataset("coco_keypoints", tmp_path)
    assert dataset.joints == ("tip", "wrist")
    found = {frame.image.stem: dataset.read(frame).keypoints for frame in dataset.frames}
    assert found["1"].tolist() == [[[1, 2, 2], [3, 4, 1]], [[5, 6, 2], [0, 0, 0]]]
    assert found["2"].shape == found["3"].shape == (0, 2, 3)
    assert set(dataset.videos) == {"case0", "case1"}


def test_coco_parts_by_file_name(tmp_path: Path) -> None:
    miniatures.coco_keypoints(tmp_path, "train_")
    miniatures.coco_keypoints(tmp_path, "test_")
    split = split_dataset(build_dataset("coco_keypoints", tmp_path))
    assert split.by == "official"
    assert (len(split.train), len(split.test)) == (3, 3)


def test_coco_train_and_val_in_the_published_folders(tmp_path: Path) -> None:
    for part in ("train", "val"):
        miniatures.coco_keypoints(tmp_path / part)
        content = json.loads((tmp_path / part / "annotations" / "keypoints.json").read_text())
        for image in content["images"]:
            picture = tmp_path / part / image["file_name"]
            image["file_name"] = picture.name
            (tmp_path / f"{part}2017").mkdir(exist_ok=True)
            picture.rename(tmp_path / f"{part}2017" / picture.name)
        path = tmp_path / "annotations" / f"person_keypoints_{part}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    dataset = build_dataset("coco_keypoints", tmp_path)
    split = split_dataset(dataset)
    assert (split.by, len(split.train), len(split.test)) == ("official", 3, 3)
    assert {dataset.frames[i].image.parent.name for i in split.test} == {"val2017"}
    assert "val is tested on" in split.warning
    assert "both sides" not in split.warning  # equal names in the two folders are no shared video
    for part in ("val", "test"):
        assert [frame.part for frame in build_dataset("coco_keypoints", tmp_path, part).frames] == ["val"] * 3


def test_coco_pictures_without_videos_name_the_key_that_tells_them(tmp_path: Path) -> None:
    miniatures.coco_keypoints(tmp_path)
    path = tmp_path / "annotations" / "keypoints.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        picture = tmp_path / image["file_name"]
        image["file_name"] = picture.name
        picture.rename(tmp_path / picture.name)
    path.write_text(json.dumps(content))
    split = split_dataset(build_dataset("coco_keypoints", tmp_path))
    assert split.by == "frame"
    assert "memory" in split.warning
    assert "`video`" in split.warning


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


def test_train_and_val_of_a_plain_folder(tmp_path: Path) -> None:
    for part in ("train", "val"):
        plain_folder(tmp_path / part, {}, np.zeros((2, 2)), ("1", "2"))
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    dataset = build_dataset("image_masks", tmp_path)
    split = split_dataset(dataset)
    assert split.by == "official"
    assert {dataset.frames[i].part for i in split.test} == {"val"}
    assert "val is tested on" in split.warning
    assert "both sides" not in split.warning


@pytest.mark.parametrize("by", ["auto", "video"])
def test_flat_pictures_are_split_by_frame_and_told_of_video_pattern(tmp_path: Path, by: SplitBy) -> None:
    names = tuple(f"p{k // 5}_{k}" for k in range(10))
    plain_folder(tmp_path, {"classes": ["a", "b"]}, np.zeros((2, 2)), names)
    split = split_dataset(build_dataset("image_masks", tmp_path), SplitSettings(by=by))
    assert split.by == "frame"
    assert "memory" in split.warning
    assert "video_pattern" in split.warning
    told = split_dataset(build_dataset("image_masks", tmp_path, video_pattern=r"(p\d)_"), SplitSettings(by=by))
    assert (told.by, told.warning) == ("video", "")


@pytest.mark.parametrize(
    ("description", "mask"),
    [
        ({"ignore": 255}, [[0, 1, 255]]),
        ({"colours": [[0, 0, 0], [9, 0, 0]], "ignore": [9, 9, 9]}, [[[0, 0, 0], [9, 0, 0], [9, 9, 9]]]),
    ],
)
def test_a_single_ignored_value_needs_no_list(tmp_path: Path, description: dict[str, object], mask: list[object]) -> None:
    plain_folder(tmp_path, {"classes": ["a", "b"]} | description, np.array(mask), ("x",))
    dataset = build_dataset("image_masks", tmp_path)
    assert dataset[0].mask.tolist() == [[0, 1, IGNORE_INDEX]]
    assert not dataset.warnings


@pytest.mark.parametrize(
    ("description", "key"),
    [
        ({"ignore": "255"}, "ignore"),
        ({"ignore": [[255, 255, 255]]}, "ignore"),
        ({"ignore": None}, "ignore"),
        ({"colours": [[0, 0, 0], [9, 0, 0]], "ignore": 255}, "ignore"),
        ({"colours": [[0, 0, 0], [9, 0, 300]]}, "colours"),
        ({"colours": [0, 9]}, "colours"),
        ({"colours": 3}, "colours"),
    ],
)
def test_wrong_values_in_classes_json_name_file_and_key(tmp_path: Path, description: dict[str, object], key: str) -> None:
    plain_folder(tmp_path, {"classes": ["a", "b"]} | description, np.zeros((2, 2)), ("x",))
    with pytest.raises(DatasetError, match=rf"classes\.json: {key} must be"):
        build_dataset("image_masks", tmp_path)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_pictures_of_16_bits_are_scaled_as_opencv_does(tmp_path: Path, ending: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    path = tmp_path / f"x.{ending}"
    Image.fromarray(values).save(path)
    read = read_rgb(path)
    assert (read == cv2.imread(str(path))).all()
    assert read[..., 0].tolist() == (values >> 8).tolist()


@pytest.mark.parametrize("channels", [2, 4])
def test_grey_masks_with_alpha_are_ids(tmp_path: Path, channels: int) -> None:
    ids = np.array([[0, 1, 5]], dtype=np.uint8)
    path = tmp_path / "mask.png"
    alpha = np.full_like(ids, 200)
    Image.fromarray(np.stack([*[ids] * (channels - 1), alpha], axis=-1)).save(path)
    assert read_ids(path).tolist() == ids.tolist()
    if channels == 4:
        Image.fromarray(np.stack([ids, ids, ids[:, ::-1], alpha], axis=-1)).save(path)
        with pytest.raises(DatasetError, match="coloured"):
            read_ids(path)


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_pictures_are_upright_as_prepare_reads_them(tmp_path: Path, orientation: int, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    assert (read_rgb(path) == cv2.imread(str(path))[..., ::-1]).all()


def test_masks_are_read_as_stored_and_must_fit_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain_folder(tmp_path, {"classes": ["a", "b"]}, np.tri(6, 9), ("v/x", "v/y"))
    Image.fromarray(np.zeros((9, 6, 3), np.uint8)).save(tmp_path / "images" / "v" / "x.jpg", exif=exif)
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(tmp_path / "images" / "v" / "y.jpg", exif=exif)
    Image.fromarray(np.tri(6, 9, dtype=np.uint8)).save(tmp_path / "masks" / "v" / "x.png", exif=exif)
    dataset = build_dataset("image_masks", tmp_path)
    assert (dataset[0].mask == np.tri(6, 9)).all()
    with pytest.raises(DatasetError, match=r"y\.png is 9 x 6, its picture .*y\.jpg is 6 x 9"):
        dataset[1]
