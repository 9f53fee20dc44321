"""SAR-RARP50: only masked frames, parts of a procedure, channels, unknown ids."""

from __future__ import annotations

from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image

from laparoflow.datasets import build_dataset
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.sar_rarp50 import folder_of
from laparoflow.datasets.splits import split_dataset


def test_masks_meet_the_pictures_of_their_number(tmp_path: Path) -> None:
    miniatures.sar_rarp50(tmp_path)
    dataset = build_dataset("sar_rarp50", tmp_path)
    assert len(dataset) == 4 * 3
    sample = dataset[1]
    assert (sample.image == 60).all()
    assert (sample.mask == np.arange(10)).all()
    assert len(dataset.classes) == 10


def test_two_parts_of_a_procedure_are_one_video_but_two_folders(tmp_path: Path) -> None:
    miniatures.sar_rarp50(tmp_path)
    dataset = build_dataset("sar_rarp50", tmp_path)
    assert set(dataset.videos) == {"video_11", "video_2", "video_41"}
    assert {folder_of(frame) for frame in dataset.frames} == {"video_11_1", "video_11_2", "video_2", "video_41"}
    split = split_dataset(dataset)
    assert split.by == "official"
    assert {dataset.frames[i].video for i in split.test} == {"video_41"}
    assert len(split.train) == 9


def test_three_equal_channels_are_read_and_colours_refused(tmp_path: Path) -> None:
    miniatures.sar_rarp50(tmp_path)
    dataset = build_dataset("sar_rarp50", tmp_path)
    path = dataset.frames[0].label
    Image.fromarray(np.array(Image.open(path))[..., None].repeat(3, axis=2)).save(path)
    assert (dataset[0].mask == np.arange(10)).all()
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] += 1
    Image.fromarray(pixels).save(path)
    with pytest.raises(DatasetError, match="coloured"):
        dataset[0]


def test_unknown_id_is_an_error(tmp_path: Path) -> None:
    miniatures.sar_rarp50(tmp_path)
    dataset = build_dataset("sar_rarp50", tmp_path)
    Image.fromarray(np.full((6, 10), 10, np.uint8)).save(dataset.frames[0].label)
    with pytest.raises(DatasetError, match="found 10"):
        dataset[0]


def test_missing_pictures_are_reported_and_none_is_an_error(tmp_path: Path) -> None:
    miniatures.sar_rarp50(tmp_path)
    (tmp_path / "test" / "video_41" / "rgb" / "000000060.png").unlink()
    dataset = build_dataset("sar_rarp50", tmp_path)
    assert "1 labelled frames have no picture" in dataset.warnings[0]
    for path in tmp_path.rglob("rgb/*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match="sample the videos"):
        build_dataset("sar_rarp50", tmp_path)
