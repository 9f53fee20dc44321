"""m2caiSeg: the colour table, stray colours, the hook, validation without leaks, the merge."""

from __future__ import annotations

from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image

from laparoflow.datasets import build_dataset
from laparoflow.datasets.m2caiseg import CLASSES_9, CLASSES_19, COLOURS_19, commonest
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.splits import split_dataset

BLOCKS = np.array([*range(19), 18]).reshape(4, 5).repeat(8, axis=0).repeat(8, axis=1)


def repaint(path: Path, rows: slice, columns: slice, colour: tuple[int, int, int]) -> None:
    pixels = np.array(Image.open(path))
    pixels[rows, columns] = colour
    Image.fromarray(pixels).save(path)


def test_every_colour_becomes_its_class(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path)
    dataset = build_dataset("m2caiseg", tmp_path)
    mask = dataset[0].mask
    middles = np.indices(BLOCKS.shape) % 8
    inner = ((middles >= 2) & (middles < 6)).all(0)  # the 5 x 5 neighbourhood lies within the block
    assert (mask[inner] == BLOCKS[inner]).all()
    assert dataset.warnings == []
    assert CLASSES_19[3] == "hook"
    assert COLOURS_19[3] == (0, 170, 85)


def test_folder_of_the_archive_is_found(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path / "m2caiSeg dataset")
    assert len(build_dataset("m2caiseg", tmp_path)) == 6


def test_stray_colours_are_snapped_counted_and_reported(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path)
    dataset = build_dataset("m2caiseg", tmp_path)
    repaint(dataset.frames[0].label, slice(0, 5), slice(0, 6), (84, 168, 3))
    mask = dataset[0].mask
    assert (mask[:3, :4] == CLASSES_19.index("liver")).all()
    assert "30 of 1280 mask pixels" in dataset.warnings[0]
    assert "(84, 168, 3) 30 px" in dataset.warnings[0]


def test_wrong_hook_colour_does_not_become_class_zero(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path)
    dataset = build_dataset("m2caiseg", tmp_path)
    repaint(dataset.frames[0].label, slice(0, 6), slice(0, 6), (0, 170, 255))
    assert (dataset[0].mask[:4, :4] == CLASSES_19.index("bipolar")).all()
    assert "(0, 170, 255) 36 px" in dataset.warnings[0]


def test_specks_vanish_and_borders_stay(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path)
    dataset = build_dataset("m2caiseg", tmp_path)
    repaint(dataset.frames[0].label, slice(3, 5), slice(3, 5), (255, 0, 0))
    mask = dataset[0].mask
    assert (mask[:8, :8] == 0).all()
    assert (mask[:7, :7] == BLOCKS[:7, :7]).all()
    assert (mask[:8, 8] == BLOCKS[:8, 8]).mean() > 0.7


def test_commonest_prefers_the_pixels_own_class_in_a_draw() -> None:
    ids = np.array([[0, 0, 1, 1]])
    assert commonest(ids, 2, 3).tolist() == [[0, 0, 1, 1]]


def test_validation_is_trainval_without_train(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path)
    dataset = build_dataset("m2caiseg", tmp_path)
    names = {part: [f.name for f in dataset.frames if f.part == part] for part in ("train", "val", "test")}
    assert names == {"train": ["train_1", "train_2", "train_3"], "val": ["val_4", "val_10"], "test": ["test_20"]}
    split = split_dataset(dataset)
    assert split.by == "official"
    assert "other patients" in split.warning


def test_nine_classes(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path)
    mask = build_dataset("m2caiseg", tmp_path, classes=9)[0].mask
    merged = {CLASSES_19[a]: CLASSES_9[b] for a, b in zip(BLOCKS[4::8, 4::8].flat, mask[4::8, 4::8].flat, strict=True)}
    assert {name for name, to in merged.items() if to == "instrument"} == set(CLASSES_19[1:10])
    assert {name for name, to in merged.items() if to == "gall-bladder"} == {"gall-bladder", "bile", "blood"}
    assert merged["artery"] == "artery"


def test_missing_parts_and_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="train"):
        build_dataset("m2caiseg", tmp_path)
    miniatures.m2caiseg(tmp_path)
    with pytest.raises(ValueError, match="stray"):
        build_dataset("m2caiseg", tmp_path, stray="drop")
    with pytest.raises(ValueError, match="classes must be 9 or 19"):
        build_dataset("m2caiseg", tmp_path, classes=8)
