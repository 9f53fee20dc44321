"""The script that makes the README's pictures, on small results."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from laparoflow.files import write_png
from laparoflow.report.pictures import beside
from scripts.readme_pictures import PEERS, demo_picture, memory_picture, read
from tests.docs.pages import ROOT


def test_the_demo_picture_shows_each_frame_with_its_own_features(tmp_path):
    """Frame n is painted with the grey 40 n everywhere; so are the features of the pretrained network."""
    probe = tmp_path / "probe"
    plain = [np.full((30, 40, 3), 40 * number, np.uint8) for number in range(5)]
    for who in ("random", "trained"):
        for number, picture in enumerate(plain):
            write_png(probe / "predictions" / f"{who}_clip_{number}.png", beside([picture] * 3))
        write_png(probe / "features" / f"{who}_features_pca.png", beside(plain))
    demo_picture(probe, tmp_path / "demo.png", frames=(1, 4))
    found = read(tmp_path / "demo.png")
    for number, row in ((1, 0.35), (4, 0.8)):
        line = found[int(row * found.shape[0])]
        columns = [line[int((column + 0.5) * found.shape[1] / 6)] for column in range(6)]
        assert np.abs(np.stack(columns).astype(int) - 40 * number).max() <= 3
    with pytest.raises(FileNotFoundError, match="make demo"):  # a folder without pictures
        demo_picture(tmp_path / "probe" / "features", tmp_path / "nothing.png", frames=())


def test_the_memory_picture_is_drawn_from_the_results_file(tmp_path):
    memory_picture(ROOT / "benchmarks" / "results" / "cpu.json", tmp_path / "memory.png")
    assert min(cv2.imread(str(tmp_path / "memory.png")).shape[:2]) > 300
    results = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    assert set(PEERS) <= {row["peer"] for row in results["rows"]}
