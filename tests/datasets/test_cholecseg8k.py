"""CholecSeg8k: the grey table, the RGBA masks, the ignored greys, the published split."""

from __future__ import annotations

from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image

from laparoflow.datasets import build_dataset
from laparoflow.datasets.cholecseg8k import PUBLISHED_VIDEOS
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.samples import IGNORE_INDEX
from laparoflow.datasets.splits import split_dataset


def test_every_grey_value_becomes_its_class(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path)
    mask = build_dataset("cholecseg8k", tmp_path)[0].mask
    expected = [IGNORE_INDEX, *np.repeat(range(13), 2), IGNORE_INDEX]
    assert mask.dtype == np.int64
    assert (mask == np.array(expected)).all()


def test_eight_class_protocol(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path)
    dataset = build_dataset("cholecseg8k", tmp_path, classes=8)
    found = dict(zip(miniatures.GREYS, dataset[0].mask[0, 1:-1:2], strict=True))
    names = {grey: dataset.classes[index] for grey, index in found.items()}
    assert {grey for grey, name in names.items() if name == "misc"} == {23, 24, 25, 33, 5}
    assert {grey for grey, name in names.items() if name == "instrument"} == {31, 32}
    assert names[22] == "gallbladder"
    assert names[12] == "fat"
    assert names[50] == "background"


@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_masks_in_other_modes_read_the_same(tmp_path: Path, mode: str) -> None:
    miniatures.cholecseg8k(tmp_path)
    dataset = build_dataset("cholecseg8k", tmp_path)
    before = dataset[0].mask
    path = dataset.frames[0].label
    picture = Image.open(path).convert(mode)
    picture.save(path)
    assert Image.open(path).mode == mode
    assert (dataset[0].mask == before).all()


def test_unknown_grey_is_an_error_and_names_it(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path)
    dataset = build_dataset("cholecseg8k", tmp_path)
    pixels = np.array(Image.open(dataset.frames[0].label))
    pixels[3, 4:6] = 77
    Image.fromarray(pixels).save(dataset.frames[0].label)
    with pytest.raises(DatasetError, match=r"77 \(2 px\)"):
        dataset[0]


def test_coloured_mask_is_refused(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path)
    dataset = build_dataset("cholecseg8k", tmp_path)
    path = dataset.frames[0].label
    path.write_bytes(path.with_name(path.name.replace("watershed", "color")).read_bytes())
    with pytest.raises(DatasetError, match="equal channels"):
        dataset[0]


def test_frames_are_in_time_order_not_in_text_order(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path, videos=(1,), frames=25)
    assert [frame.order for frame in build_dataset("cholecseg8k", tmp_path).frames] == list(range(80, 105))


def test_published_split_is_by_video(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path)
    assert build_dataset("cholecseg8k", tmp_path, "train").videos == ("video01",)
    assert build_dataset("cholecseg8k", tmp_path, "val").videos == ("video17",)
    assert build_dataset("cholecseg8k", tmp_path, "test").videos == ("video12",)
    parts = [set(videos) for videos in PUBLISHED_VIDEOS.values()]
    assert [len(part) for part in parts] == [13, 2, 2]
    assert len(set.union(*parts)) == 17


def test_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"frame_N_endo\.png"):
        build_dataset("cholecseg8k", tmp_path)


def test_real_sample(shared_data: Path) -> None:
    dataset = build_dataset("cholecseg8k", shared_data / "cholecseg8k")
    assert len(dataset) == 40
    assert dataset.videos == ("video48",)
    masks = [dataset[i].mask for i in (0, 39)]
    assert all(mask.shape == (480, 854) for mask in masks)
    names = {dataset.classes[i] for mask in masks for i in np.unique(mask) if i != IGNORE_INDEX}
    assert {"liver", "fat", "grasper", "gallbladder"} <= names
    assert "blood" not in names
    split = split_dataset(dataset)
    assert split.by == "time"
    assert "one video only" in split.warning
