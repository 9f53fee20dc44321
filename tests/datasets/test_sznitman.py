"""Sznitman: the first number is the row; frames without a tool are labelled."""

from __future__ import annotations

from pathlib import Path

import miniatures
import numpy as np
import pytest

from laparoflow.datasets import build_dataset
from laparoflow.datasets.reading import DatasetError


def test_row_comes_first(tmp_path: Path) -> None:
    miniatures.sznitman(tmp_path)
    sample = build_dataset("sznitman", tmp_path)[0]
    assert sample.keypoints.tolist() == [[[30.0, 10.0, 2.0]], [[7.0, 5.0, 2.0]]]
    assert sample.keypoints.dtype == np.float32


def test_frame_without_tools_is_labelled_and_empty(tmp_path: Path) -> None:
    miniatures.sznitman(tmp_path)
    dataset = build_dataset("sznitman", tmp_path)
    assert len(dataset) == 3
    assert dataset[1].keypoints.shape == (0, 1, 3)


def test_missing_picture_is_reported(tmp_path: Path) -> None:
    miniatures.sznitman(tmp_path)
    assert "1 labelled frames have no picture" in build_dataset("sznitman", tmp_path).warnings[0]


def test_point_outside_its_picture_is_an_error(tmp_path: Path) -> None:
    miniatures.sznitman(tmp_path)
    path = tmp_path / "train.xml"
    path.write_text(path.read_text().replace("11 31 66.2", "31 11 66.2"))
    with pytest.raises(DatasetError, match="outside the picture"):
        build_dataset("sznitman", tmp_path)[2]


@pytest.mark.parametrize("line", ["11", "a b c d", "-1 5 1 1"])
def test_malformed_tool_names_the_frame(tmp_path: Path, line: str) -> None:
    miniatures.sznitman(tmp_path)
    path = tmp_path / "train.xml"
    path.write_text(path.read_text().replace("11 31 66.2 5.9", line))
    with pytest.raises(DatasetError, match="frame 1177"):
        build_dataset("sznitman", tmp_path)


def test_real_sample(shared_data: Path) -> None:
    dataset = build_dataset("sznitman", shared_data / "sznitman_laparoscopy")
    assert len(dataset) == 400
    assert not dataset.warnings
    assert [len(dataset.frames[i].label) for i in (0, 398)] == [1, 2]
    for index in range(0, 400, 57):
        sample = dataset[index]
        assert sample.image.shape == (288, 384, 3)
        assert (sample.keypoints[..., 0] < 384).all()
        assert (sample.keypoints[..., 1] < 288).all()
