"""EndoVis'15 as its archives unpack: mask videos, key points by frame, and the rigid stills."""

from __future__ import annotations

from pathlib import Path

import miniatures
import numpy as np
import pytest

from laparoflow.datasets import build_dataset
from laparoflow.datasets.overlap import overlap_warnings
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.settings import SplitSettings
from laparoflow.datasets.splits import split_dataset


@pytest.mark.parametrize("order", [range(11), (7, 2, 2, 10, 0, 5)])
def test_robotic_picture_and_masks_are_of_one_frame(tmp_path: Path, order) -> None:
    miniatures.endovis15_robotic(tmp_path)
    dataset = build_dataset("endovis15_robotic", tmp_path, task="segmentation")
    assert dataset.classes == ("background", "shaft", "head")
    assert dataset.videos == ("Dataset1", "Dataset2")
    assert len(dataset) == 22
    for number in order:
        sample = dataset[number]
        assert abs(sample.image.mean() - 20 * number) < 4
        expected = np.zeros((32, 48), dtype=np.int64)
        for column in (0, 24):
            expected[number : number + 8, column : column + 8] = 1
            expected[number : number + 8, column + 8 : column + 16] = 2
        assert (sample.mask == expected).all()


def test_robotic_key_points_are_of_their_frame(tmp_path: Path) -> None:
    miniatures.endovis15_robotic(tmp_path)
    dataset = build_dataset("endovis15_robotic", tmp_path, task="keypoints")
    assert [(frame.video, frame.order) for frame in dataset.frames] == [
        (f"Dataset{k}", number) for k in (1, 2) for number in (0, 5, 10)
    ]
    for sample, number in zip(dataset, (0, 5, 10) * 2, strict=True):
        assert abs(sample.image.mean() - 20 * number) < 4
        assert sample.keypoints[0, dataset.joints.index("Head")].tolist() == [9, number, 2]


def test_robotic_recordings_of_another_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no recording"):
        build_dataset("endovis15_robotic", tmp_path, task="segmentation")
    miniatures.endovis15_robotic(tmp_path)
    folder = tmp_path / "Dataset1"
    for path in folder.glob("*_Segmentation.avi"):
        path.unlink()
    dataset = build_dataset("endovis15_robotic", tmp_path, task="segmentation")
    assert dataset.videos == ("Dataset2",)
    assert str(folder) in dataset.warnings[0]
    miniatures.video(tmp_path / "Dataset2" / "Video.avi", [np.zeros((32, 48, 3))] * 5)
    dataset = build_dataset("endovis15_robotic", tmp_path, task="segmentation")
    assert len(dataset) == 5
    assert "differ in length" in dataset.warnings[1]
    with pytest.raises(DatasetError, match=r"test2_labels\.json has 11 entries, .* has 5 frames"):
        build_dataset("endovis15_robotic", tmp_path, task="keypoints")
    (tmp_path / "Dataset2" / "Segmentation.avi").write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"Segmentation\.avi"):
        build_dataset("endovis15_robotic", tmp_path, task="segmentation")


def test_training_and_testing_folders_are_parts(tmp_path: Path) -> None:
    for part in ("Training", "Testing"):
        miniatures.endovis15_robotic(tmp_path / part, frames=2)
    dataset = build_dataset("endovis15_robotic", tmp_path, task="segmentation")
    split = split_dataset(dataset)
    assert split.by == "official"
    assert {dataset.frames[i].video for i in split.test} == {"Testing_Dataset1", "Testing_Dataset2"}


def test_rigid_stills(tmp_path: Path) -> None:
    miniatures.endovis15_rigid(tmp_path)
    dataset = build_dataset("endovis15_rigid", tmp_path)
    assert dataset.videos == ("OP1", "OP2")
    assert [frame.order for frame in dataset.frames] == [1, 2, 10] * 2
    assert dataset[2].mask.tolist() == [[0] * 3 + [1] * 3 + [2] * 3] * 6
    assert abs(dataset[2].image.mean() - 10) < 2
    (tmp_path / "OP2" / "Masks" / "img_02_class.png").unlink()
    with pytest.raises(DatasetError, match=r"img_02_raw\.jpg has no mask"):
        build_dataset("endovis15_rigid", tmp_path)


def test_overlap_with_pretraining_recordings() -> None:
    clip = "/data/endovis15_robotic/Dataset2/Video.avi"
    assert "shows" in overlap_warnings("endovis15_robotic", ["Dataset2"], [clip])[0]
    assert "shows" in overlap_warnings("endovis15_pose", ["test2"], [clip])[0]
    assert overlap_warnings("endovis15_robotic", ["Dataset1"], [clip]) == []
    assert "shows" in overlap_warnings("endovis15_rigid", ["OP1"], ["/data/endovis15_rigid/OP1/Raw"])[0]


def test_real_sample(shared_data: Path) -> None:
    root = shared_data / "real"
    masks = build_dataset("endovis15_robotic", root, task="segmentation")
    points = build_dataset("endovis15_robotic", root, task="keypoints")
    assert (len(masks), len(points), masks.warnings) == (745, 156, [])
    split = split_dataset(masks, SplitSettings())
    assert split.by == "video"
    place = {frame.name: number for number, frame in enumerate(masks.frames)}
    on_head = []
    for number in range(0, 156, 12):
        sample = points[number]
        mask = masks[place[sample.name]].mask
        for x, y, seen in sample.keypoints[:, points.joints.index("Head")]:
            if seen:
                on_head.append(mask[round(float(y)), round(float(x))] == 2)
    assert np.mean(on_head) > 0.9
    rigid = build_dataset("endovis15_rigid", root)
    assert (len(rigid), rigid.videos) == (80, ("OP1", "OP2"))
    assert set(np.unique(rigid[40].mask)) == {0, 1, 2}
