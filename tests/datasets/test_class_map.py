"""The class map between m2caiSeg and CholecSeg8k."""

from __future__ import annotations

from pathlib import Path

import miniatures
import numpy as np
import pytest

from laparoflow.datasets import build_dataset
from laparoflow.datasets.class_map import MappedSegmentation, load_class_map
from laparoflow.datasets.m2caiseg import CLASSES_19
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.samples import IGNORE_INDEX


def test_both_sets_land_on_the_same_classes(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path / "m2cai")
    miniatures.cholecseg8k(tmp_path / "cholec")
    class_map = load_class_map("m2caiseg_cholecseg8k")
    m2cai = MappedSegmentation(build_dataset("m2caiseg", tmp_path / "m2cai"), class_map)
    cholec = MappedSegmentation(build_dataset("cholecseg8k", tmp_path / "cholec"), class_map)
    assert m2cai.classes == cholec.classes
    for dataset in (m2cai, cholec):
        assert set(np.unique(dataset[0].mask)) == {*range(7), IGNORE_INDEX}
    blocks = m2cai[0].mask[4::8, 4::8].flatten()[:19]
    ignored = {name for name, label in zip(CLASSES_19, blocks, strict=True) if label == IGNORE_INDEX}
    assert ignored == {"unknown", "specimen-bag", "trocars", "clip", "artery", "bile", "blood"}


def test_variant_with_blood(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path)
    class_map = load_class_map("m2caiseg_cholecseg8k", "with-blood")
    mask = MappedSegmentation(build_dataset("cholecseg8k", tmp_path), class_map)[0].mask
    assert class_map.classes[mask[0, 1 + 2 * miniatures.GREYS.index(24)]] == "blood"
    assert class_map.record == {"name": "m2caiseg_cholecseg8k", "version": 1, "variant": "with-blood"}


def test_selection_and_warnings_pass_through(tmp_path: Path) -> None:
    miniatures.m2caiseg(tmp_path)
    dataset = build_dataset("m2caiseg", tmp_path)
    path = dataset.frames[0].label
    path.write_bytes(path.read_bytes())
    mapped = MappedSegmentation(dataset, load_class_map("m2caiseg_cholecseg8k")).select([0, 2])
    miniatures.save(path, np.full((32, 40, 3), 3))
    assert len(mapped) == 2
    assert (mapped[0].mask == 0).all()
    assert "1280 of 1280" in mapped.warnings[0]


def test_wrong_sets_classes_and_files(tmp_path: Path) -> None:
    miniatures.cholecseg8k(tmp_path)
    class_map = load_class_map("m2caiseg_cholecseg8k")
    with pytest.raises(ValueError, match="all its classes"):
        MappedSegmentation(build_dataset("cholecseg8k", tmp_path, classes=8), class_map)
    miniatures.sar_rarp50(tmp_path)
    with pytest.raises(ValueError, match="not for sar_rarp50"):
        MappedSegmentation(build_dataset("sar_rarp50", tmp_path), class_map)
    with pytest.raises(ValueError, match="variant"):
        load_class_map("m2caiseg_cholecseg8k", "none")
    with pytest.raises(ValueError, match="class_map must be one of"):
        load_class_map("nowhere")
    path = tmp_path / "own.yaml"
    path.write_text("version: 1\nvariants: {default: {classes: [a], m2caiseg: {liver: b}}}\n")
    with pytest.raises(DatasetError, match="not among the common classes"):
        load_class_map(str(path))
