"""The synthetic laparoscopy's reader against its writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from laparoflow.datasets import build_dataset
from laparoflow.datasets.reading import DatasetError
from laparoflow.synthetic import SceneParameters, render_clip, write_dataset

PARAMETERS = SceneParameters(height=48, width=64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, PARAMETERS, 2, 6, 3, label_every=2, flow=False)
    return folder


def test_masks_and_pictures_are_what_was_rendered(root: Path) -> None:
    dataset = build_dataset("synthetic", root, task="segmentation")
    clip = render_clip(PARAMETERS, 6, 3000)
    assert len(dataset) == 6
    assert dataset.videos == ("clip_000", "clip_001")
    assert (dataset[1].image == clip.images[2]).all()
    assert (dataset[1].mask == clip.masks[2]).all()
    assert dataset.classes[-1] == "instrument"


def test_key_points_are_what_was_rendered(root: Path) -> None:
    dataset = build_dataset("synthetic", root, task="keypoints")
    clip = render_clip(PARAMETERS, 6, 3001)
    assert dataset.joints == ("tip", "wrist", "shaft")
    assert np.allclose(dataset[5].keypoints[0], clip.keypoints[4], atol=1e-3)


def test_the_task_must_be_named(root: Path) -> None:
    with pytest.raises(ValueError, match="say which by task"):
        build_dataset("synthetic", root)


def test_damaged_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        build_dataset("synthetic", tmp_path, task="segmentation")
